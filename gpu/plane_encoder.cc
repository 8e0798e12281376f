#include "gpu/plane_encoder.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "codec/plane.h"
#include "gpu/carver.h"
#include "gpu/cuda_handles.h"
#include "gpu/encode_result.h"
#include "gpu/plane_batch.h"
#include "gpu/rotary_cache.h"
#include "gpu/staging.h"
#include "gpu/tile_batch.h"

namespace kvstow::gpu {
namespace {

// What a tile or an opaque plane counts for at least, so that a batch has not too many of them.
constexpr size_t kLeastLoad = 4096;

// Planes whose tiles are encoded together.
struct Group {
  EncodeSettings settings;
  size_t tile_load = 0;
};

struct PlanePlan {
  static constexpr size_t kKept = ~size_t{0};
  size_t group = kKept;  // kKept: its bytes stay as they are
  PlaneShape shape;
  size_t load = 0;
};

bool SameSettings(const EncodeSettings& a, const EncodeSettings& b) {
  return a.shape.tokens == b.shape.tokens && a.shape.dim == b.shape.dim &&
         a.shape.dtype == b.shape.dtype && a.options.key_like == b.options.key_like &&
         a.options.bits == b.options.bits && a.rotary.pairs == b.rotary.pairs &&
         a.rotary.offset == b.rotary.offset && a.rotary.interleaved == b.rotary.interleaved;
}

// What one layout means for the encoder, and how much of everything a batch may need.
struct Plan {
  Plan(const PlaneLayout& layout, size_t max_bytes);

  size_t Times(size_t load) const { return max_load / load; }

  std::vector<Group> groups;
  std::vector<PlanePlan> planes;
  size_t max_load = 0;
  size_t max_planes = 0, max_tiles = 0;
  size_t body_bytes = 0, packed_bytes = 0, scratch_bytes = 1;
  size_t largest_plane = 0;  // encoded
  size_t largest_copy = 0;   // tile or opaque plane kept as it is
  uint32_t max_heads = 1;

 private:
  PlanePlan PlanOf(const PlaneSpec& plane, const CodecSettings& codec);
};

PlanePlan Plan::PlanOf(const PlaneSpec& plane, const CodecSettings& codec) {
  PlanePlan out;
  out.shape = PlaneShapeOf(plane);
  const size_t tile = size_t{out.shape.tokens} * out.shape.dim * out.shape.element_bytes;
  const size_t tile_load = std::max(SideBySide(tile), kLeastLoad);
  out.load = out.shape.heads * tile_load;
  largest_plane = std::max(largest_plane, MaxPlaneBytes(plane));
  max_heads = std::max(max_heads, out.shape.heads);
  if (IsVerbatim(plane, codec)) {
    largest_copy = std::max(largest_copy, tile);
    return out;
  }
  const EncodeSettings settings = {ShapeOf(plane), EncodeOptionsFor(codec, plane),
                                   out.shape.rotary};
  out.group = 0;
  while (out.group < groups.size() && !SameSettings(groups[out.group].settings, settings)) {
    ++out.group;
  }
  if (out.group == groups.size()) groups.push_back({settings, tile_load});
  return out;
}

Plan::Plan(const PlaneLayout& layout, size_t max_bytes) : max_load(max_bytes) {
  for (const PlaneSpec& plane : layout.planes()) {
    planes.push_back(PlanOf(plane, layout.spec().codec));
    max_load = std::max(max_load, planes.back().load);
  }
  for (size_t i = 0; i < planes.size(); ++i) {
    max_planes = std::max(max_planes, Times(planes[i].load));
    packed_bytes = std::max(
        packed_bytes, Times(planes[i].load) * RoundUpToTile(MaxPlaneBytes(layout.planes()[i])));
  }
  for (const Group& group : groups) {
    const size_t tiles = Times(group.tile_load);
    max_tiles = std::max(max_tiles, tiles);
    body_bytes = std::max(body_bytes, tiles * MaxTileBodyBytes(group.settings.shape));
    scratch_bytes =
        std::max(scratch_bytes, EncodeScratchBytes(group.settings, static_cast<uint32_t>(tiles)));
  }
}

// Arrays that the host writes for a batch, at the same places on the device.
struct Up {
  EncodeTile* tiles;  // by group
  PackPlane* planes;  // as they were given
  size_t bytes;
};

Up CarveUp(void* base, size_t tiles, size_t planes) {
  Carver carver(base);
  Up up = {};
  up.tiles = carver.Take<EncodeTile>(tiles);
  up.planes = carver.Take<PackPlane>(planes);
  up.bytes = carver.used();
  return up;
}

// What the host learns of it.
struct Down {
  EncodeResult* results;  // as Up::tiles
  uint32_t* bytes;        // as Up::planes
  uint32_t* crcs;
  size_t size;
};

Down CarveDown(void* base, size_t tiles, size_t planes) {
  Carver carver(base);
  Down down = {};
  down.results = carver.Take<EncodeResult>(tiles);
  down.bytes = carver.Take<uint32_t>(planes);
  down.crcs = carver.Take<uint32_t>(planes);
  down.size = carver.used();
  return down;
}

class Encoder final : public PlaneEncoder {
 public:
  Encoder(const PlaneLayout& layout, const PlaneEncoderConfig& config)
      : layout_(layout), config_(config), plan_(layout, config.max_bytes) {}
  ~Encoder() override {
    (void)cudaSetDevice(config_.device);
    (void)cudaEventSynchronize(done_.get());
  }

  absl::Status Allocate();

  size_t LoadOf(size_t plane) const override { return plan_.planes[plane].load; }
  size_t max_load() const override { return plan_.max_load; }
  absl::Status Encode(std::span<const Plane> planes) override;
  absl::StatusOr<bool> Passed() override;
  absl::StatusOr<std::span<const Encoded>> Collect() override;

 private:
  absl::Status Admit(std::span<const Plane> planes);
  void PlaceTiles(std::span<const Plane> planes);
  void DescribeTiles(std::span<const Plane> planes, const Up& host);
  void DescribePlanes(std::span<const Plane> planes, const Up& host, const Up& device,
                      const Down& down);
  absl::Status EncodeGroups(const Up& device, const Down& down);
  absl::Status Pack(size_t planes, const Up& device, const Down& down);
  void Report(const Down& down);

  const PlaneLayout& layout_;
  const PlaneEncoderConfig config_;
  const Plan plan_;
  Stream own_stream_;
  cudaStream_t stream_ = nullptr;
  // Results travel beside what else may have been enqueued on `stream_` meanwhile.
  Stream copy_stream_;
  std::unique_ptr<RotaryCache> rotary_;
  PinnedBuffer up_host_, down_host_, packed_host_;
  DeviceBuffer up_, down_, bodies_, packed_, scratch_, pack_scratch_;
  Event done_;

  // Of the batch under way.
  std::vector<size_t> plane_of_;     // layout's, as given
  std::vector<size_t> first_tile_;   // of each plane, in the arrays of tiles
  std::vector<size_t> group_tiles_;  // how many
  size_t tiles_ = 0;
  std::vector<TileReport> reports_;
  std::vector<Encoded> encoded_;
};

absl::Status Encoder::Allocate() {
  KVSTOW_CUDA_RETURN_IF_ERROR(cudaSetDevice(config_.device));
  stream_ = config_.stream;
  if (stream_ == nullptr) {
    auto stream = MakeStream();
    if (!stream.ok()) return stream.status();
    own_stream_ = *std::move(stream);
    stream_ = own_stream_.get();
  }
  auto copy_stream = MakeStream();
  if (!copy_stream.ok()) return copy_stream.status();
  copy_stream_ = *std::move(copy_stream);
  auto done = MakeEvent();
  if (!done.ok()) return done.status();
  done_ = *std::move(done);
  auto rotary = RotaryCache::Create(layout_, config_.max_blocks, stream_);
  if (!rotary.ok()) return rotary.status();
  rotary_ = std::make_unique<RotaryCache>(*std::move(rotary));
  const size_t up = CarveUp(nullptr, plan_.max_tiles, plan_.max_planes).bytes;
  const size_t down = CarveDown(nullptr, plan_.max_tiles, plan_.max_planes).size;
  KVSTOW_RETURN_IF_ERROR(up_host_.Reserve(up));
  KVSTOW_RETURN_IF_ERROR(up_.Reserve(up));
  KVSTOW_RETURN_IF_ERROR(down_host_.Reserve(down));
  KVSTOW_RETURN_IF_ERROR(down_.Reserve(down));
  KVSTOW_RETURN_IF_ERROR(bodies_.Reserve(plan_.body_bytes));
  KVSTOW_RETURN_IF_ERROR(packed_.Reserve(plan_.packed_bytes));
  KVSTOW_RETURN_IF_ERROR(packed_host_.Reserve(plan_.packed_bytes));
  KVSTOW_RETURN_IF_ERROR(scratch_.Reserve(plan_.scratch_bytes));
  return pack_scratch_.Reserve(PackPlanesScratchBytes(static_cast<uint32_t>(plan_.max_planes)));
}

absl::Status Encoder::Admit(std::span<const Plane> planes) {
  size_t load = 0;
  for (const Plane& plane : planes) load += LoadOf(plane.plane);
  if (load > plan_.max_load) {
    return absl::InvalidArgumentError(absl::StrCat(
        "planes that count for ", load, " bytes in one batch; the limit is ", plan_.max_load));
  }
  std::vector<uint64_t> positions;
  positions.reserve(planes.size());
  for (const Plane& plane : planes) positions.push_back(plane.first_position);
  return rotary_->Prepare(positions);
}

void Encoder::PlaceTiles(std::span<const Plane> planes) {
  group_tiles_.assign(plan_.groups.size(), 0);
  plane_of_.clear();
  first_tile_.clear();
  for (const Plane& plane : planes) {
    const PlanePlan& plan = plan_.planes[plane.plane];
    plane_of_.push_back(plane.plane);
    if (plan.group == PlanePlan::kKept) {
      first_tile_.push_back(0);
      continue;
    }
    first_tile_.push_back(group_tiles_[plan.group]);
    group_tiles_[plan.group] += plan.shape.heads;
  }
  std::vector<size_t> before;
  tiles_ = 0;
  for (size_t tiles : group_tiles_) {
    before.push_back(tiles_);
    tiles_ += tiles;
  }
  for (size_t i = 0; i < planes.size(); ++i) {
    const size_t group = plan_.planes[plane_of_[i]].group;
    if (group != PlanePlan::kKept) first_tile_[i] += before[group];
  }
}

void Encoder::DescribeTiles(std::span<const Plane> planes, const Up& host) {
  auto* body = reinterpret_cast<uint8_t*>(bodies_.data());
  for (size_t i = 0; i < planes.size(); ++i) {
    const Plane& plane = planes[i];
    const PlanePlan& plan = plan_.planes[plane.plane];
    if (plan.group == PlanePlan::kKept) continue;
    const size_t room = MaxTileBodyBytes(plan_.groups[plan.group].settings.shape);
    EncodeTile* tile = host.tiles + first_tile_[i];
    const auto [cos, sin] = rotary_->At(plane.plane, plane.first_position);
    for (uint32_t head = 0; head < plan.shape.heads; ++head, ++tile) {
      tile->values = reinterpret_cast<const uint8_t*>(plane.values) + head * plane.head_stride;
      tile->row_stride = plane.row_stride;
      tile->cos = cos;
      tile->sin = sin;
      tile->body = body;
      body += room;
    }
  }
}

void Encoder::DescribePlanes(std::span<const Plane> planes, const Up& host, const Up& device,
                             const Down& down) {
  for (size_t i = 0; i < planes.size(); ++i) {
    const Plane& plane = planes[i];
    const PlanePlan& plan = plan_.planes[plane.plane];
    PackPlane& out = host.planes[i];
    out = PackPlane{};
    out.heads = plan.shape.heads;
    out.table_bytes = plan.shape.table_bytes;
    if (plan.group != PlanePlan::kKept) {
      out.tiles = device.tiles + first_tile_[i];
      out.results = down.results + first_tile_[i];
      continue;
    }
    out.values = reinterpret_cast<const uint8_t*>(plane.values);
    out.head_stride = plane.head_stride;
    out.row_stride = plane.row_stride;
    out.rows = plan.shape.tokens;
    out.row_bytes = plan.shape.dim * plan.shape.element_bytes;
  }
}

absl::Status Encoder::EncodeGroups(const Up& device, const Down& down) {
  size_t first = 0;
  for (size_t i = 0; i < plan_.groups.size(); ++i) {
    const auto tiles = static_cast<uint32_t>(group_tiles_[i]);
    if (tiles == 0) continue;
    KVSTOW_RETURN_IF_ERROR(EncodeTiles(plan_.groups[i].settings, device.tiles + first, tiles,
                                       down.results + first, nullptr, scratch_.data(),
                                       scratch_.size(), stream_));
    first += tiles;
  }
  return absl::OkStatus();
}

absl::Status Encoder::Pack(size_t planes, const Up& device, const Down& down) {
  PackSettings pack;
  pack.planes = device.planes;
  pack.records = 1;  // all of them side by side, whichever block they are of
  pack.planes_of_record = static_cast<uint32_t>(planes);
  pack.max_heads = plan_.max_heads;
  pack.largest_copy = plan_.largest_copy;
  pack.largest_plane = plan_.largest_plane;
  pack.out = reinterpret_cast<uint8_t*>(packed_.data());
  return PackPlanes(pack, down.bytes, down.crcs, pack_scratch_.data(), pack_scratch_.size(),
                    stream_);
}

absl::Status Encoder::Encode(std::span<const Plane> planes) {
  KVSTOW_CUDA_RETURN_IF_ERROR(cudaSetDevice(config_.device));
  plane_of_.clear();
  // What a batch before left behind may still be read.
  KVSTOW_CUDA_RETURN_IF_ERROR(cudaEventSynchronize(done_.get()));
  KVSTOW_RETURN_IF_ERROR(Admit(planes));
  if (planes.empty()) return absl::OkStatus();
  PlaceTiles(planes);
  const Up host = CarveUp(up_host_.data(), tiles_, planes.size());
  const Up device = CarveUp(up_.data(), tiles_, planes.size());
  const Down down = CarveDown(down_.data(), tiles_, planes.size());
  DescribeTiles(planes, host);
  DescribePlanes(planes, host, device, down);
  KVSTOW_CUDA_RETURN_IF_ERROR(
      cudaMemcpyAsync(up_.data(), up_host_.data(), host.bytes, cudaMemcpyHostToDevice, stream_));
  KVSTOW_RETURN_IF_ERROR(EncodeGroups(device, down));
  KVSTOW_RETURN_IF_ERROR(Pack(planes.size(), device, down));
  KVSTOW_CUDA_RETURN_IF_ERROR(
      cudaMemcpyAsync(down_host_.data(), down_.data(), down.size, cudaMemcpyDeviceToHost, stream_));
  KVSTOW_CUDA_RETURN_IF_ERROR(cudaEventRecord(done_.get(), stream_));
  return absl::OkStatus();
}

absl::StatusOr<bool> Encoder::Passed() { return HasPassed(done_); }

void Encoder::Report(const Down& down) {
  encoded_.clear();
  reports_.clear();
  size_t heads = 0;
  for (size_t plane : plane_of_) heads += plan_.planes[plane].shape.heads;
  reports_.reserve(heads);  // spans of it are given out
  size_t at = 0;
  for (size_t i = 0; i < plane_of_.size(); ++i) {
    const PlanePlan& plan = plan_.planes[plane_of_[i]];
    Encoded& out = encoded_.emplace_back();
    out.summary.bytes = down.bytes[i];
    out.summary.crc32c = down.crcs[i];
    out.bytes = {packed_host_.data() + at, out.summary.bytes};
    at += RoundUpToTile(out.summary.bytes);
    const size_t first = reports_.size();
    for (uint32_t head = 0; head < plan.shape.heads; ++head) {
      // Planes kept as they are have no error to measure.
      const bool kept = plan.group == PlanePlan::kKept;
      reports_.push_back(kept ? TileReport{} : ReportOf(down.results[first_tile_[i] + head]));
      out.summary.report.Add(reports_.back());
    }
    out.tiles = std::span(reports_).subspan(first);
    out.summary.report.entries = layout_.planes()[plane_of_[i]].entries();
    out.summary.report.bytes = out.summary.bytes;
  }
}

absl::StatusOr<std::span<const PlaneEncoder::Encoded>> Encoder::Collect() {
  KVSTOW_CUDA_RETURN_IF_ERROR(cudaSetDevice(config_.device));
  KVSTOW_CUDA_RETURN_IF_ERROR(cudaEventSynchronize(done_.get()));
  const Down down = CarveDown(down_host_.data(), tiles_, plane_of_.size());
  Report(down);
  if (encoded_.empty()) return std::span<const Encoded>();
  const size_t packed = static_cast<size_t>(encoded_.back().bytes.data() - packed_host_.data()) +
                        encoded_.back().bytes.size();
  KVSTOW_CUDA_RETURN_IF_ERROR(cudaMemcpyAsync(packed_host_.data(), packed_.data(), packed,
                                              cudaMemcpyDeviceToHost, copy_stream_.get()));
  KVSTOW_CUDA_RETURN_IF_ERROR(cudaStreamSynchronize(copy_stream_.get()));
  return std::span<const Encoded>(encoded_);
}

}  // namespace

absl::StatusOr<std::unique_ptr<PlaneEncoder>> PlaneEncoder::Create(
    const PlaneLayout& layout, const PlaneEncoderConfig& config) {
  auto encoder = std::make_unique<Encoder>(layout, config);
  KVSTOW_RETURN_IF_ERROR(encoder->Allocate());
  return encoder;
}

}  // namespace kvstow::gpu
