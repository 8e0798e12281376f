#include "gpu/offload_pipeline.h"

#include <algorithm>
#include <cstring>
#include <utility>
#include <vector>

#include "codec/plane.h"
#include "codec/record.h"
#include "gpu/carver.h"
#include "gpu/cuda_handles.h"
#include "gpu/device_rotary.h"
#include "gpu/encode_result.h"
#include "gpu/plane_batch.h"
#include "gpu/staging.h"
#include "gpu/tile_batch.h"

namespace kvstow::gpu {
namespace {

size_t RoundUp(size_t bytes) {
  return (bytes + kTileAlignment - 1) / kTileAlignment * kTileAlignment;
}

// Planes whose tiles are encoded together.
struct Group {
  EncodeSettings settings;
  uint32_t tiles = 0;  // of one record
};

// Where a plane's tiles are; group kKept for planes that are kept as they are.
struct PlanePlan {
  static constexpr size_t kKept = ~size_t{0};
  size_t group = kKept;
  uint32_t first_tile = 0;  // among the group's tiles of a record
};

bool SameSettings(const EncodeSettings& a, const EncodeSettings& b) {
  return a.shape.tokens == b.shape.tokens && a.shape.dim == b.shape.dim &&
         a.shape.dtype == b.shape.dtype && a.options.key_like == b.options.key_like &&
         a.options.bits == b.options.bits && a.rotary.pairs == b.rotary.pairs &&
         a.rotary.offset == b.rotary.offset && a.rotary.interleaved == b.rotary.interleaved;
}

// What one layout means for the encoder.
struct Plan {
  explicit Plan(const PlaneLayout& layout);

  std::vector<Group> groups;
  std::vector<PlanePlan> planes;
  std::vector<PlaneShape> shapes;
  uint32_t tiles = 0;      // of one record, encoded
  size_t body_bytes = 0;   // of one record's encoded tiles, at most
  size_t plane_bytes = 0;  // of one record's planes with padding, at most
  size_t largest_plane = 0;
  size_t largest_copy = 0;
  uint32_t max_heads = 1;
};

Plan::Plan(const PlaneLayout& layout) {
  for (const PlaneSpec& plane : layout.planes()) {
    const PlaneShape shape = PlaneShapeOf(plane);
    shapes.push_back(shape);
    planes.emplace_back();
    plane_bytes += RoundUp(MaxPlaneBytes(plane));
    largest_plane = std::max(largest_plane, MaxPlaneBytes(plane));
    max_heads = std::max(max_heads, shape.heads);
    if (plane.is_opaque() || layout.spec().codec.codec == CodecId::kRaw) {
      const size_t tile = size_t{shape.tokens} * shape.dim * shape.element_bytes;
      largest_copy = std::max(largest_copy, tile);
      continue;
    }
    const EncodeSettings settings = {ShapeOf(plane), EncodeOptionsFor(layout.spec().codec, plane),
                                     shape.rotary};
    size_t i = 0;
    while (i < groups.size() && !SameSettings(groups[i].settings, settings)) ++i;
    if (i == groups.size()) groups.push_back({settings, 0});
    planes.back() = {i, groups[i].tiles};
    groups[i].tiles += plane.heads;
    tiles += plane.heads;
    body_bytes += plane.heads * MaxTileBodyBytes(settings.shape);
  }
}

// Arrays that the host writes for a batch, at the same places on the device.
struct Up {
  uint64_t* positions;
  EncodeTile* tiles;  // by group, record, plane, head
  PackPlane* planes;  // [records, planes]
  size_t bytes;
};

Up CarveUp(void* base, size_t records, size_t tiles, size_t planes) {
  Carver carver(base);
  Up up = {};
  up.positions = carver.Take<uint64_t>(records);
  up.tiles = carver.Take<EncodeTile>(records * tiles);
  up.planes = carver.Take<PackPlane>(records * planes);
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

Down CarveDown(void* base, size_t records, size_t tiles, size_t planes) {
  Carver carver(base);
  Down down = {};
  down.results = carver.Take<EncodeResult>(records * tiles);
  down.bytes = carver.Take<uint32_t>(records * planes);
  down.crcs = carver.Take<uint32_t>(records * planes);
  down.size = carver.used();
  return down;
}

// A batch under way.
struct Slot {
  PinnedBuffer up_host, down_host, heads;
  DeviceBuffer up, down, packed;
  Event encoded, copied;
  bool copying = false;
  size_t first_block = 0, records = 0;
  std::vector<size_t> kept;  // blocks that found room
};

// Where a part of the tiles is encoded, beside the others.
struct Lane {
  cudaStream_t stream = nullptr;
  Stream own;  // `stream`, unless that was lent
  DeviceBuffer scratch;
  Event done;
};

class Pipeline final : public OffloadPipeline {
 public:
  Pipeline(const PlaneLayout& layout, const Fingerprint& fingerprint, const OffloadConfig& config)
      : layout_(layout),
        fingerprint_(fingerprint),
        config_(config),
        plan_(layout),
        lanes_(config.encode_stream != nullptr ? 1 : 2) {}
  absl::Status Allocate();
  absl::Status Offload(const OffloadRequest& request) override;

 private:
  size_t plane_count() const { return layout_.planes().size(); }
  absl::Status AllocateLanes();
  absl::Status AllocateSlot(Slot* slot) const;
  absl::Status Run();
  absl::Status Enqueue(size_t first_block, size_t records, Slot* slot);
  void DescribeTiles(const Slot& slot, const Up& host);
  void DescribePlanes(const Slot& slot, const Up& host, const Up& device, const Down& down);
  size_t TileIndex(size_t records, size_t record, size_t plane) const;
  // Of a lane, at a time.
  uint32_t LaneTiles() const {
    return std::max<uint32_t>(config_.encode_tiles / static_cast<uint32_t>(lanes_.size()), 1);
  }
  absl::Status ForkLanes();
  absl::Status JoinLanes();
  absl::Status EncodeGroups(const Slot& slot, const Up& device, const Down& down);
  absl::Status Deliver(Slot* slot);
  PlaneSummary Summary(const Down& down, size_t records, size_t record, size_t plane) const;
  absl::Status DeliverRecord(Slot* slot, size_t record, const Down& down);
  absl::Status CopyToRoom(const RecordRoom& room, std::span<const std::byte> head,
                          const std::byte* planes, size_t record_bytes);
  absl::Status FinishCopies(Slot* slot);

  const PlaneLayout& layout_;
  const Fingerprint fingerprint_;
  const OffloadConfig config_;
  const Plan plan_;

  Stream copy_stream_;
  std::vector<Lane> lanes_;
  cudaStream_t encode_stream_ = nullptr;  // the first lane's: all but the tiles
  Event forked_;
  std::unique_ptr<DeviceRotary> rotary_;
  DeviceBuffer bodies_, pack_scratch_;
  Slot slots_[2];

  const OffloadRequest* request_ = nullptr;  // of the running call
};

absl::Status Pipeline::Allocate() {
  if (config_.batch_records == 0 || config_.encode_tiles == 0) {
    return absl::InvalidArgumentError("offload in batches of nothing");
  }
  KVSTOW_CUDA_RETURN_IF_ERROR(cudaSetDevice(config_.device));
  auto copy_stream = MakeStream();
  if (!copy_stream.ok()) return copy_stream.status();
  copy_stream_ = *std::move(copy_stream);
  KVSTOW_RETURN_IF_ERROR(AllocateLanes());
  auto rotary = DeviceRotary::Create(layout_, config_.batch_records);
  if (!rotary.ok()) return rotary.status();
  rotary_ = std::make_unique<DeviceRotary>(*std::move(rotary));
  KVSTOW_RETURN_IF_ERROR(bodies_.Reserve(config_.batch_records * plan_.body_bytes));
  KVSTOW_RETURN_IF_ERROR(pack_scratch_.Reserve(
      PackPlanesScratchBytes(static_cast<uint32_t>(config_.batch_records * plane_count()))));
  for (Slot& slot : slots_) KVSTOW_RETURN_IF_ERROR(AllocateSlot(&slot));
  return absl::OkStatus();
}

absl::Status Pipeline::AllocateLanes() {
  size_t scratch = 1;
  for (const Group& group : plan_.groups) {
    const uint32_t tiles = std::min(LaneTiles(), config_.batch_records * group.tiles);
    scratch = std::max(scratch, EncodeScratchBytes(group.settings, tiles));
  }
  for (Lane& lane : lanes_) {
    lane.stream = config_.encode_stream;
    if (lane.stream == nullptr) {
      auto stream = MakeStream();
      if (!stream.ok()) return stream.status();
      lane.own = *std::move(stream);
      lane.stream = lane.own.get();
    }
    KVSTOW_RETURN_IF_ERROR(lane.scratch.Reserve(scratch));
    auto done = MakeEvent();
    if (!done.ok()) return done.status();
    lane.done = *std::move(done);
  }
  encode_stream_ = lanes_.front().stream;
  auto forked = MakeEvent();
  if (!forked.ok()) return forked.status();
  forked_ = *std::move(forked);
  return absl::OkStatus();
}

absl::Status Pipeline::AllocateSlot(Slot* slot) const {
  const size_t records = config_.batch_records;
  const size_t up = CarveUp(nullptr, records, plan_.tiles, plane_count()).bytes;
  const size_t down = CarveDown(nullptr, records, plan_.tiles, plane_count()).size;
  KVSTOW_RETURN_IF_ERROR(slot->up_host.Reserve(up));
  KVSTOW_RETURN_IF_ERROR(slot->up.Reserve(up));
  KVSTOW_RETURN_IF_ERROR(slot->down_host.Reserve(down));
  KVSTOW_RETURN_IF_ERROR(slot->down.Reserve(down));
  KVSTOW_RETURN_IF_ERROR(slot->heads.Reserve(records * RecordIndex::BytesFor(layout_)));
  KVSTOW_RETURN_IF_ERROR(slot->packed.Reserve(records * plan_.plane_bytes));
  auto encoded = MakeEvent();
  if (!encoded.ok()) return encoded.status();
  auto copied = MakeEvent();
  if (!copied.ok()) return copied.status();
  slot->encoded = *std::move(encoded);
  slot->copied = *std::move(copied);
  return absl::OkStatus();
}

absl::Status Pipeline::Offload(const OffloadRequest& request) {
  KVSTOW_CUDA_RETURN_IF_ERROR(cudaSetDevice(config_.device));
  request_ = &request;
  if (absl::Status status = Run(); !status.ok()) {
    // What is queued still reads and writes the caller's memory.
    for (const Lane& lane : lanes_) (void)cudaStreamSynchronize(lane.stream);
    (void)cudaStreamSynchronize(copy_stream_.get());
    for (Slot& slot : slots_) slot.copying = false;
    return status;
  }
  return absl::OkStatus();
}

absl::Status Pipeline::Run() {
  const size_t blocks = request_->first_positions.size();
  Slot* before = nullptr;
  Slot* next = &slots_[0];
  for (size_t first = 0; first < blocks; first += config_.batch_records) {
    KVSTOW_RETURN_IF_ERROR(FinishCopies(next));
    const size_t records = std::min<size_t>(config_.batch_records, blocks - first);
    KVSTOW_RETURN_IF_ERROR(Enqueue(first, records, next));
    if (before != nullptr) KVSTOW_RETURN_IF_ERROR(Deliver(before));
    before = next;
    next = next == &slots_[0] ? &slots_[1] : &slots_[0];
  }
  if (before == nullptr) return absl::OkStatus();
  KVSTOW_RETURN_IF_ERROR(Deliver(before));
  KVSTOW_RETURN_IF_ERROR(FinishCopies(next));
  return FinishCopies(before);
}

// Of a plane's first tile in the arrays of tiles.
size_t Pipeline::TileIndex(size_t records, size_t record, size_t plane) const {
  const PlanePlan& at = plan_.planes[plane];
  size_t index = record * plan_.groups[at.group].tiles + at.first_tile;
  for (size_t i = 0; i < at.group; ++i) index += records * plan_.groups[i].tiles;
  return index;
}

void Pipeline::DescribeTiles(const Slot& slot, const Up& host) {
  auto* body = reinterpret_cast<uint8_t*>(bodies_.data());
  for (size_t record = 0; record < slot.records; ++record) {
    for (size_t plane = 0; plane < plane_count(); ++plane) {
      const PlanePlan& at = plan_.planes[plane];
      if (at.group == PlanePlan::kKept) continue;
      const PlaneSource source = request_->source(slot.first_block + record, plane);
      const size_t room = MaxTileBodyBytes(plan_.groups[at.group].settings.shape);
      EncodeTile* tile = host.tiles + TileIndex(slot.records, record, plane);
      for (uint32_t head = 0; head < plan_.shapes[plane].heads; ++head, ++tile) {
        tile->values = reinterpret_cast<const uint8_t*>(source.values) + head * source.head_stride;
        tile->row_stride = source.row_stride;
        tile->cos = rotary_->Cos(plane, record);
        tile->sin = rotary_->Sin(plane, record);
        tile->body = body;
        body += room;
      }
    }
  }
}

void Pipeline::DescribePlanes(const Slot& slot, const Up& host, const Up& device,
                              const Down& down) {
  PackPlane* out = host.planes;
  for (size_t record = 0; record < slot.records; ++record) {
    for (size_t plane = 0; plane < plane_count(); ++plane, ++out) {
      const PlaneShape& shape = plan_.shapes[plane];
      *out = PackPlane{};
      out->heads = shape.heads;
      out->table_bytes = shape.table_bytes;
      if (plan_.planes[plane].group != PlanePlan::kKept) {
        const size_t index = TileIndex(slot.records, record, plane);
        out->tiles = device.tiles + index;
        out->results = down.results + index;
        continue;
      }
      const PlaneSource source = request_->source(slot.first_block + record, plane);
      out->values = reinterpret_cast<const uint8_t*>(source.values);
      out->head_stride = source.head_stride;
      out->row_stride = source.row_stride;
      out->rows = shape.tokens;
      out->row_bytes = shape.dim * shape.element_bytes;
    }
  }
}

// The other lanes go on from where the first is.
absl::Status Pipeline::ForkLanes() {
  KVSTOW_CUDA_RETURN_IF_ERROR(cudaEventRecord(forked_.get(), encode_stream_));
  for (size_t i = 1; i < lanes_.size(); ++i) {
    KVSTOW_CUDA_RETURN_IF_ERROR(cudaStreamWaitEvent(lanes_[i].stream, forked_.get()));
  }
  return absl::OkStatus();
}

// And the first from where they are.
absl::Status Pipeline::JoinLanes() {
  for (size_t i = 1; i < lanes_.size(); ++i) {
    KVSTOW_CUDA_RETURN_IF_ERROR(cudaEventRecord(lanes_[i].done.get(), lanes_[i].stream));
    KVSTOW_CUDA_RETURN_IF_ERROR(cudaStreamWaitEvent(encode_stream_, lanes_[i].done.get()));
  }
  return absl::OkStatus();
}

absl::Status Pipeline::EncodeGroups(const Slot& slot, const Up& device, const Down& down) {
  size_t first = 0, slice = 0;
  KVSTOW_RETURN_IF_ERROR(ForkLanes());
  for (const Group& group : plan_.groups) {
    const size_t end = first + slot.records * group.tiles;
    while (first < end) {
      const Lane& lane = lanes_[slice++ % lanes_.size()];
      const auto tiles = static_cast<uint32_t>(std::min<size_t>(LaneTiles(), end - first));
      KVSTOW_RETURN_IF_ERROR(EncodeTiles(group.settings, device.tiles + first, tiles,
                                         down.results + first, nullptr, lane.scratch.data(),
                                         lane.scratch.size(), lane.stream));
      first += tiles;
    }
  }
  return JoinLanes();
}

absl::Status Pipeline::Enqueue(size_t first_block, size_t records, Slot* slot) {
  slot->first_block = first_block;
  slot->records = records;
  const Up host = CarveUp(slot->up_host.data(), records, plan_.tiles, plane_count());
  const Up device = CarveUp(slot->up.data(), records, plan_.tiles, plane_count());
  const Down down = CarveDown(slot->down.data(), records, plan_.tiles, plane_count());
  const auto positions = request_->first_positions.subspan(first_block, records);
  std::copy(positions.begin(), positions.end(), host.positions);
  DescribeTiles(*slot, host);
  DescribePlanes(*slot, host, device, down);
  KVSTOW_CUDA_RETURN_IF_ERROR(cudaMemcpyAsync(slot->up.data(), slot->up_host.data(), host.bytes,
                                              cudaMemcpyHostToDevice, encode_stream_));
  KVSTOW_RETURN_IF_ERROR(rotary_->Fill(device.positions, records, encode_stream_));
  KVSTOW_RETURN_IF_ERROR(EncodeGroups(*slot, device, down));
  PackSettings pack;
  pack.planes = device.planes;
  pack.records = static_cast<uint32_t>(records);
  pack.planes_of_record = static_cast<uint32_t>(plane_count());
  pack.max_heads = plan_.max_heads;
  pack.largest_copy = plan_.largest_copy;
  pack.largest_plane = plan_.largest_plane;
  pack.out = reinterpret_cast<uint8_t*>(slot->packed.data());
  pack.out_stride = plan_.plane_bytes;
  KVSTOW_RETURN_IF_ERROR(PackPlanes(pack, down.bytes, down.crcs, pack_scratch_.data(),
                                    pack_scratch_.size(), encode_stream_));
  KVSTOW_CUDA_RETURN_IF_ERROR(cudaMemcpyAsync(slot->down_host.data(), slot->down.data(), down.size,
                                              cudaMemcpyDeviceToHost, encode_stream_));
  KVSTOW_CUDA_RETURN_IF_ERROR(cudaEventRecord(slot->encoded.get(), encode_stream_));
  return absl::OkStatus();
}

absl::Status Pipeline::Deliver(Slot* slot) {
  KVSTOW_CUDA_RETURN_IF_ERROR(cudaEventSynchronize(slot->encoded.get()));
  slot->copying = true;
  slot->kept.clear();
  const Down down = CarveDown(slot->down_host.data(), slot->records, plan_.tiles, plane_count());
  for (size_t record = 0; record < slot->records; ++record) {
    KVSTOW_RETURN_IF_ERROR(DeliverRecord(slot, record, down));
  }
  KVSTOW_CUDA_RETURN_IF_ERROR(cudaEventRecord(slot->copied.get(), copy_stream_.get()));
  return absl::OkStatus();
}

PlaneSummary Pipeline::Summary(const Down& down, size_t records, size_t record,
                               size_t plane) const {
  const PlaneSpec& spec = layout_.planes()[plane];
  PlaneSummary out;
  out.bytes = down.bytes[record * plane_count() + plane];
  out.crc32c = down.crcs[record * plane_count() + plane];
  const bool kept = plan_.planes[plane].group == PlanePlan::kKept;
  const EncodeResult* results = kept ? nullptr : down.results + TileIndex(records, record, plane);
  for (uint32_t head = 0; head < spec.heads; ++head) {
    // Planes kept as they are have no error to measure.
    out.report.Add(kept ? TileReport{} : ReportOf(results[head]));
  }
  out.report.entries = spec.entries();
  out.report.bytes = out.bytes;
  return out;
}

absl::Status Pipeline::DeliverRecord(Slot* slot, size_t record, const Down& down) {
  const size_t block = slot->first_block + record;
  RecordHeadBuilder builder(layout_, fingerprint_, request_->first_positions[block]);
  for (size_t plane = 0; plane < plane_count(); ++plane) {
    builder.SetPlane(plane, Summary(down, slot->records, record, plane));
  }
  const std::span<const std::byte> head = builder.Finish();
  std::byte* pinned = slot->heads.data() + record * head.size();
  std::memcpy(pinned, head.data(), head.size());
  const RecordFacts facts = {builder.record_bytes(), builder.k_report(), builder.v_report()};
  const RecordRoom room = request_->room(block, facts);
  if (room.pieces.empty()) return absl::OkStatus();
  slot->kept.push_back(block);
  return CopyToRoom(room, {pinned, head.size()}, slot->packed.data() + record * plan_.plane_bytes,
                    facts.record_bytes);
}

absl::Status Pipeline::CopyToRoom(const RecordRoom& room, std::span<const std::byte> head,
                                  const std::byte* planes, size_t record_bytes) {
  size_t at = 0;
  for (const RecordRoom::Piece& piece : room.pieces) {
    size_t within = 0;
    while (within < piece.size && at < record_bytes) {
      std::byte* const to = piece.data + within;
      const bool in_head = at < head.size();
      const size_t left = (in_head ? head.size() : record_bytes) - at;
      const size_t size = std::min(left, piece.size - within);
      if (in_head && !room.on_device) {
        std::memcpy(to, head.data() + at, size);
      } else {
        const std::byte* from = in_head ? head.data() + at : planes + (at - head.size());
        KVSTOW_CUDA_RETURN_IF_ERROR(
            cudaMemcpyAsync(to, from, size, cudaMemcpyDefault, copy_stream_.get()));
      }
      within += size;
      at += size;
    }
  }
  if (at < record_bytes) return absl::InvalidArgumentError("too little room for a record");
  return absl::OkStatus();
}

absl::Status Pipeline::FinishCopies(Slot* slot) {
  if (!slot->copying) return absl::OkStatus();
  KVSTOW_CUDA_RETURN_IF_ERROR(cudaEventSynchronize(slot->copied.get()));
  slot->copying = false;
  if (request_->done) {
    for (size_t block : slot->kept) request_->done(block);
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::unique_ptr<OffloadPipeline>> OffloadPipeline::Create(
    const PlaneLayout& layout, const Fingerprint& fingerprint, const OffloadConfig& config) {
  auto pipeline = std::make_unique<Pipeline>(layout, fingerprint, config);
  KVSTOW_RETURN_IF_ERROR(pipeline->Allocate());
  return pipeline;
}

}  // namespace kvstow::gpu
