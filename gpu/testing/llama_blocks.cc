#include "gpu/testing/llama_blocks.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <random>
#include <thread>
#include <tuple>
#include <utility>

#include "codec/plane.h"
#include "codec/testing/tiles.h"
#include "codec/testing/trace.h"
#include "gpu/cuda_status.h"

namespace kvstow::gpu::testing {
namespace {

using ::kvstow::testing::Trace;
using Clock = std::chrono::steady_clock;

constexpr uint32_t kLayers = 32, kHeads = 8, kDim = 128, kTokens = 128;
constexpr size_t kPinnedBytes = size_t{1} << 30;
constexpr size_t kPage = 4096;

double SecondsSince(Clock::time_point begin) {
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

// The trace is as long as eight blocks.
uint32_t FirstToken(size_t block) {
  return static_cast<uint32_t>(block % (Trace::kTokens / kTokens)) * kTokens;
}

[[noreturn]] void Die(const char* what) {
  std::fprintf(stderr, "%s\n", what);
  std::abort();
}

// max(1 ulp, 2^-18 of the row's RMS).
void CompareOrDie(const std::vector<std::byte>& want, const std::vector<std::byte>& got) {
  const auto x = kvstow::testing::FromElements(want, DType::kFp16);
  const auto y = kvstow::testing::FromElements(got, DType::kFp16);
  for (size_t row = 0; row < x.size(); row += kDim) {
    double squares = 0;
    for (size_t i = row; i < row + kDim; ++i) squares += x[i] * x[i];
    const double floor = 0x1p-18 * std::sqrt(squares / kDim);
    for (size_t i = row; i < row + kDim; ++i) {
      const double larger = std::max(std::abs(x[i]), std::abs(y[i]));
      const double room = std::max(floor, kvstow::testing::UlpAt(larger, DType::kFp16));
      if (!(std::abs(x[i] - y[i]) <= room)) Die("a restored plane differs from the CPU's");
    }
  }
}

}  // namespace

void OrDie(const absl::Status& status) {
  if (!status.ok()) Die(status.ToString().c_str());
}
void OrDie(cudaError_t error) { OrDie(ToStatus(error, "CUDA")); }

double Median(std::vector<double> values) {
  std::nth_element(values.begin(), values.begin() + values.size() / 2, values.end());
  return values[values.size() / 2];
}

LlamaBlocks::LlamaBlocks() {
  LayerGroup group;
  for (uint32_t layer = 0; layer < kLayers; ++layer) group.layers.push_back(layer);
  group.kv_heads = kHeads;
  group.k_dim = group.v_dim = kDim;
  group.rotary = Trace::Cut().rotary();
  SpaceSpec spec;
  spec.model = {"benchmark", "1", "0"};
  spec.groups = {group};
  spec.block_tokens = kTokens;
  fingerprint_ = FingerprintOf(spec);
  layout_ = std::make_unique<PlaneLayout>(OrDie(PlaneLayout::Create(std::move(spec), {})));
  OrDie(values_.Reserve(raw_bytes()));
  OrDie(restored_.Reserve(raw_bytes()));
  OrDie(pinned_.Reserve(kPinnedBytes));
  for (size_t block = 0; block < kBlocks; ++block) positions_.push_back(FirstToken(block));
  FillValues();
}

std::byte* LlamaBlocks::Plane(const DeviceBuffer& buffer, size_t block, size_t plane) const {
  return buffer.data() +
         (block * layout_->planes().size() + plane) * layout_->planes()[plane].raw_bytes;
}

// Every tile of the trace once over the bus, then from device memory to wherever it is used.
void LlamaBlocks::FillValues() {
  const Trace& trace = Trace::Cut();
  const size_t tile_bytes = size_t{kTokens} * kDim * 2;
  std::map<std::tuple<bool, uint32_t, uint32_t, uint32_t>, std::byte*> copied;
  for (size_t block = 0; block < kBlocks; ++block) {
    for (size_t p = 0; p < layout_->planes().size(); ++p) {
      const PlaneSpec& plane = layout_->planes()[p];
      for (uint32_t head = 0; head < kHeads; ++head) {
        const size_t turn = plane.layer + head / Trace::kHeads + block / 8;
        const uint32_t layer = trace.layers()[turn % trace.layers().size()];
        const bool keys = plane.kind == PlaneKind::kK;
        const uint32_t from_head = head % Trace::kHeads;
        std::byte* const to = Plane(values_, block, p) + head * tile_bytes;
        auto [at, is_new] = copied.try_emplace({keys, layer, from_head, FirstToken(block)}, to);
        if (is_new) {
          const auto rows = trace.Rows(keys, layer, from_head, FirstToken(block), kTokens);
          OrDie(cudaMemcpy(to, rows.data(), tile_bytes, cudaMemcpyHostToDevice));
        } else {
          OrDie(cudaMemcpyAsync(to, at->second, tile_bytes, cudaMemcpyDeviceToDevice));
        }
      }
    }
  }
  OrDie(cudaDeviceSynchronize());
}

std::unique_ptr<PlaneEncoder> LlamaBlocks::MakeEncoder(const PlaneEncoderConfig& config) const {
  return OrDie(PlaneEncoder::Create(*layout_, config));
}

std::unique_ptr<RestorePipeline> LlamaBlocks::MakeRestore(const RestoreConfig& config) const {
  return OrDie(RestorePipeline::Create(*layout_, config));
}

std::vector<LlamaBlocks::Batch> LlamaBlocks::Batches(const PlaneEncoder& encoder) const {
  const size_t tile_bytes = size_t{kTokens} * kDim * 2;
  std::vector<Batch> batches(1);
  size_t load = 0;
  for (size_t plane = 0; plane < layout_->planes().size(); ++plane) {
    for (size_t block = 0; block < kBlocks; ++block) {
      load += encoder.LoadOf(plane);
      if (load > encoder.max_load()) {
        batches.emplace_back();
        load = encoder.LoadOf(plane);
      }
      batches.back().planes.push_back(
          {plane, positions_[block], Plane(values_, block, plane), tile_bytes, kDim * 2});
      batches.back().blocks.push_back(block);
    }
  }
  return batches;
}

double LlamaBlocks::Offload(std::span<const std::unique_ptr<PlaneEncoder>> encoders) {
  const std::vector<Batch> batches = Batches(*encoders.front());
  std::atomic<size_t> next{0};
  const auto begin = Clock::now();
  std::vector<std::thread> threads;
  for (const auto& encoder : encoders) {
    threads.emplace_back([&] {
      for (size_t i; (i = next++) < batches.size();) {
        OrDie(encoder->Encode(batches[i].planes));
        OrDie(encoder->Collect());
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  return SecondsSince(begin);
}

void LlamaBlocks::KeepRecords(PlaneEncoder& encoder) {
  std::vector<std::unique_ptr<RecordBuilder>> builders;
  for (uint64_t position : positions_) {
    builders.push_back(std::make_unique<RecordBuilder>(*layout_, fingerprint_, position));
  }
  for (const Batch& batch : Batches(encoder)) {
    OrDie(encoder.Encode(batch.planes));
    const auto encoded = OrDie(encoder.Collect());
    for (size_t i = 0; i < encoded.size(); ++i) {
      builders[batch.blocks[i]]->SetPlane(
          batch.planes[i].plane,
          {{encoded[i].bytes.begin(), encoded[i].bytes.end()}, encoded[i].summary.report},
          encoded[i].summary.crc32c);
    }
  }
  records_.clear();
  indices_.clear();
  size_t used = 0;
  encoded_bytes_ = 0;
  for (const auto& builder : builders) {
    const std::vector<std::byte> record = builder->FinishContiguous();
    if (used + record.size() > pinned_.size()) Die("records larger than expected");
    std::copy(record.begin(), record.end(), pinned_.data() + used);
    records_.push_back({pinned_.data() + used, record.size()});
    indices_.push_back(OrDie(RecordIndex::Parse(record, *layout_, fingerprint_)));
    used += (record.size() + kPage - 1) / kPage * kPage;
    encoded_bytes_ += record.size();
  }
  OrDie(device_records_.Reserve(used));
  OrDie(cudaMemcpy(device_records_.data(), pinned_.data(), used, cudaMemcpyHostToDevice));
  pieces_.clear();
  std::mt19937_64 random(1);
  AddRecords(Place::kPinned, nullptr);
  AddRecords(Place::kPinnedRuns, &random);
  AddRecords(Place::kDevice, nullptr);
}

// In one piece each without `runs`.
void LlamaBlocks::AddRecords(Place place, std::mt19937_64* runs) {
  std::vector<StoredRecord>& stored = stored_[static_cast<size_t>(place)];
  stored.clear();
  const bool on_device = place == Place::kDevice;
  const std::byte* base = on_device ? device_records_.data() : pinned_.data();
  for (size_t i = 0; i < kBlocks; ++i) {
    auto& pieces = pieces_.emplace_back();
    const std::byte* const begin = base + (records_[i].data() - pinned_.data());
    for (size_t at = 0; at < records_[i].size();) {
      const size_t left = records_[i].size() - at;
      const size_t size = runs == nullptr ? left : std::min(left, (1 + (*runs)() % 32) * kPage);
      pieces.push_back({begin + at, size});
      at += size;
    }
    stored.push_back({&indices_[i], on_device, pieces});
  }
}

LlamaBlocks::RestoreTimes LlamaBlocks::Restore(RestorePipeline& pipeline, Place place) {
  RestoreTimes times;
  RestoreRequest request;
  request.records = stored_[static_cast<size_t>(place)];
  const size_t tile_bytes = size_t{kTokens} * kDim * 2;
  request.target = [&](size_t block, size_t plane) {
    return PlaneTarget{Plane(restored_, block, plane), tile_bytes, kDim * 2};
  };
  const auto begin = Clock::now();
  request.layer_done = [&](size_t layer, std::span<const DamagedPlane>) {
    if (layer == 0) times.first_layer = SecondsSince(begin);
  };
  const auto damage = OrDie(pipeline.Restore(request));
  times.all = SecondsSince(begin);
  if (!damage.empty()) Die("damage where there is none");
  return times;
}

void LlamaBlocks::Poison() { OrDie(cudaMemset(restored_.data(), 0xa5, restored_.size())); }

size_t LlamaBlocks::Verify(uint64_t seed) const {
  constexpr size_t kPlanes = 24;
  std::mt19937_64 random(seed);
  for (size_t i = 0; i < kPlanes; ++i) {
    const size_t block = random() % kBlocks, p = random() % layout_->planes().size();
    const PlaneSpec& plane = layout_->planes()[p];
    const DirectoryEntry& entry = indices_[block].planes()[p];
    std::unique_ptr<RotaryTable> table;
    if (plane.rotary != nullptr) {
      table =
          std::make_unique<RotaryTable>(RotaryOffsets(*plane.rotary, kTokens), positions_[block]);
    }
    std::vector<std::byte> want(plane.raw_bytes), got(plane.raw_bytes);
    OrDie(DecodePlane(*CpuCodec(), plane, table.get(),
                      {records_[block].data() + entry.offset, entry.bytes}, want));
    OrDie(cudaMemcpy(got.data(), Plane(restored_, block, p), got.size(), cudaMemcpyDeviceToHost));
    CompareOrDie(want, got);
  }
  return kPlanes;
}

}  // namespace kvstow::gpu::testing
