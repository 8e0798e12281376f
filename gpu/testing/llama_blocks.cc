#include "gpu/testing/llama_blocks.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <random>
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
  rooms_.resize(kBlocks);
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

std::unique_ptr<OffloadPipeline> LlamaBlocks::MakeOffload(const OffloadConfig& config) const {
  return OrDie(OffloadPipeline::Create(*layout_, fingerprint_, config));
}

std::unique_ptr<RestorePipeline> LlamaBlocks::MakeRestore(const RestoreConfig& config) const {
  return OrDie(RestorePipeline::Create(*layout_, config));
}

double LlamaBlocks::Offload(OffloadPipeline& pipeline) {
  size_t used = 0, whole = 0;
  encoded_bytes_ = 0;
  OffloadRequest request;
  request.first_positions = positions_;
  const size_t tile_bytes = size_t{kTokens} * kDim * 2;
  request.source = [&](size_t block, size_t plane) {
    return PlaneSource{Plane(values_, block, plane), tile_bytes, kDim * 2};
  };
  request.room = [&](size_t block, const RecordFacts& facts) {
    rooms_[block] = {pinned_.data() + used, facts.record_bytes};
    used += (facts.record_bytes + kPage - 1) / kPage * kPage;
    if (used > pinned_.size()) Die("records larger than expected");
    encoded_bytes_ += facts.record_bytes;
    return RecordRoom{false, {&rooms_[block], 1}};
  };
  request.done = [&](size_t) { ++whole; };
  const auto begin = Clock::now();
  OrDie(pipeline.Offload(request));
  const double seconds = SecondsSince(begin);
  if (whole != kBlocks) Die("not every block became a record");
  return seconds;
}

void LlamaBlocks::KeepRecords() {
  const size_t used = static_cast<size_t>(rooms_.back().data - pinned_.data()) + rooms_.back().size;
  OrDie(device_records_.Reserve(used));
  OrDie(cudaMemcpy(device_records_.data(), pinned_.data(), used, cudaMemcpyHostToDevice));
  indices_.clear();
  for (const RecordRoom::Piece& room : rooms_) {
    indices_.push_back(OrDie(RecordIndex::Parse({room.data, room.size}, *layout_, fingerprint_)));
  }
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
    const std::byte* const begin = base + (rooms_[i].data - pinned_.data());
    for (size_t at = 0; at < rooms_[i].size;) {
      const size_t left = rooms_[i].size - at;
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
                      {rooms_[block].data + entry.offset, entry.bytes}, want));
    OrDie(cudaMemcpy(got.data(), Plane(restored_, block, p), got.size(), cudaMemcpyDeviceToHost));
    CompareOrDie(want, got);
  }
  return kPlanes;
}

}  // namespace kvstow::gpu::testing
