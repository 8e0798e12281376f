#include "gpu/restore_pipeline.h"

#include <algorithm>
#include <tuple>
#include <utility>

#include "absl/strings/str_cat.h"
#include "codec/plane.h"
#include "gpu/cuda_handles.h"
#include "gpu/device_rotary.h"
#include "gpu/plane_batch.h"
#include "gpu/plane_kernels.h"
#include "gpu/staging.h"

namespace kvstow::gpu {
namespace {

constexpr size_t kPageBytes = 4096;  // of a tier: no piece is shorter, but for a record's last

size_t RoundUp(size_t bytes) {
  return (bytes + kTileAlignment - 1) / kTileAlignment * kTileAlignment;
}

// Copies into staging, made for one chunk. Neighbours within a piece become one; pieces that happen
// to touch stay two, because memory registered in two calls cannot be copied in one.
class StagingCopies {
 public:
  void Reserve(size_t pieces) { pieces_.reserve(pieces); }
  void Clear() {
    pieces_.clear();
    staged_ = 0;
  }
  void Add(const std::byte* from, size_t bytes, bool starts_piece, std::byte* staging) {
    auto* to = reinterpret_cast<uint8_t*>(staging + staged_);
    const auto* source = reinterpret_cast<const uint8_t*>(from);
    staged_ += bytes;
    if (!starts_piece && !pieces_.empty() && pieces_.back().from + pieces_.back().bytes == source) {
      pieces_.back().bytes += bytes;
    } else {
      pieces_.push_back({source, to, bytes});
    }
  }
  size_t staged() const { return staged_; }
  std::span<const CopyPiece> pieces() const { return pieces_; }

 private:
  std::vector<CopyPiece> pieces_;
  size_t staged_ = 0;
};

// One cudaMemcpyBatchAsync.
class BatchCopy {
 public:
  void Reserve(size_t pieces) {
    to_.reserve(pieces);
    from_.reserve(pieces);
    sizes_.reserve(pieces);
  }
  absl::Status Run(std::span<const CopyPiece> pieces, cudaStream_t stream) {
    if (pieces.empty()) return absl::OkStatus();
    to_.clear();
    from_.clear();
    sizes_.clear();
    for (const CopyPiece& piece : pieces) {
      to_.push_back(piece.to);
      from_.push_back(piece.from);
      sizes_.push_back(piece.bytes);
    }
    cudaMemcpyAttributes attributes = {};
    attributes.srcAccessOrder = cudaMemcpySrcAccessOrderStream;
    attributes.flags = cudaMemcpyFlagPreferOverlapWithCompute;
    size_t first = 0;
    KVSTOW_CUDA_RETURN_IF_ERROR(cudaMemcpyBatchAsync(
        to_.data(), from_.data(), sizes_.data(), sizes_.size(), &attributes, &first, 1, stream));
    return absl::OkStatus();
  }

 private:
  std::vector<void*> to_;
  std::vector<const void*> from_;
  std::vector<size_t> sizes_;
};

// A plane of a chunk.
struct Item {
  size_t block = 0, plane = 0;
  size_t group = 0;  // planes of one group are decoded together
  ChecksumRange stored;
  StoredPlane target;
};

// A chunk under way, and the memory it uses.
struct Slot {
  DeviceBuffer staging;
  PinnedBuffer meta_up;  // ranges, targets, pieces
  DeviceBuffer meta, damage;
  PinnedBuffer damage_down;
  Event copied, decoded;
  bool in_flight = false;
  size_t layer = 0;
  bool last_of_layer = false;
  std::vector<Item> items;
};

struct Meta {
  ChecksumRange* stored;
  StoredPlane* targets;
  CopyPiece* pieces;
  size_t bytes;
};

Meta CarveMeta(std::byte* base, size_t planes, size_t pieces) {
  static_assert(sizeof(ChecksumRange) % 8 == 0 && sizeof(StoredPlane) % 8 == 0);
  Meta meta = {};
  std::byte* at = base;
  meta.stored = reinterpret_cast<ChecksumRange*>(at);
  at += planes * sizeof(ChecksumRange);
  meta.targets = reinterpret_cast<StoredPlane*>(at);
  at += planes * sizeof(StoredPlane);
  meta.pieces = reinterpret_cast<CopyPiece*>(at);
  at += pieces * sizeof(CopyPiece);
  meta.bytes = static_cast<size_t>(at - base);
  return meta;
}

bool SameShape(const PlaneShape& a, const PlaneShape& b) {
  return a.heads == b.heads && a.tokens == b.tokens && a.dim == b.dim && a.dtype == b.dtype &&
         a.table_bytes == b.table_bytes && a.may_be_rotated == b.may_be_rotated &&
         a.rotary.pairs == b.rotary.pairs && a.rotary.offset == b.rotary.offset &&
         a.rotary.interleaved == b.rotary.interleaved;
}

class Pipeline final : public RestorePipeline {
 public:
  Pipeline(const PlaneLayout& layout, const RestoreConfig& config)
      : layout_(layout), config_(config) {}
  absl::Status Allocate();

  absl::StatusOr<std::vector<DamagedPlane>> Restore(const RestoreRequest& request) override;

 private:
  struct Group {
    PlaneShape shape;
    size_t scratch_bytes = 0;
  };

  void MakeGroups();
  absl::Status AllocateSlot(Slot* slot) const;
  absl::Status Run();
  absl::Status FillRotary();
  absl::Status AddPlane(size_t layer, size_t block, size_t plane);
  absl::Status BeginChunk(size_t layer);
  absl::Status Flush(bool last_of_layer);
  absl::Status CopyUp(const Meta& device);
  absl::Status DecodeGroups(const Meta& device);
  absl::Status Harvest();
  absl::Status HarvestReady();

  const PlaneLayout& layout_;
  const RestoreConfig config_;
  std::vector<Group> groups_;
  std::vector<size_t> group_of_;  // of the layout's planes
  size_t chunk_planes_ = 0, max_pieces_ = 0;

  Stream copy_stream_, own_decode_stream_;
  cudaStream_t decode_stream_ = nullptr;
  std::unique_ptr<DeviceRotary> rotary_;
  PinnedBuffer positions_up_;
  DeviceBuffer positions_, scratch_;
  std::vector<Event> written_;  // of layers
  std::vector<Slot> slots_;     // a ring

  // Of the running call.
  const RestoreRequest* request_ = nullptr;
  std::vector<PieceCursor> cursors_;
  StagingCopies copies_;
  BatchCopy batch_copy_;
  size_t filling_ = 0, oldest_ = 0;  // slots
  bool chunk_open_ = false;
  std::vector<DamagedPlane> damage_;
  size_t damage_told_ = 0;
};

void Pipeline::MakeGroups() {
  for (const PlaneSpec& plane : layout_.planes()) {
    const PlaneShape shape = PlaneShapeOf(plane);
    size_t i = 0;
    while (i < groups_.size() && !SameShape(groups_[i].shape, shape)) ++i;
    if (i == groups_.size()) groups_.push_back({shape, 0});
    group_of_.push_back(i);
  }
}

absl::Status Pipeline::Allocate() {
  KVSTOW_CUDA_RETURN_IF_ERROR(cudaSetDevice(config_.device));
  MakeGroups();
  uint32_t most_heads = 1;
  size_t largest = 0;
  for (const Group& group : groups_) most_heads = std::max(most_heads, group.shape.heads);
  for (const PlaneSpec& p : layout_.planes()) largest = std::max(largest, MaxPlaneBytes(p));
  if (config_.slots == 0 || config_.max_records == 0 || config_.chunk_bytes < RoundUp(largest)) {
    return absl::InvalidArgumentError(
        absl::StrCat("no room to restore planes of up to ", largest, " bytes"));
  }
  chunk_planes_ = std::max<size_t>(1, config_.chunk_tiles / most_heads);
  // A plane adds a piece for every page that it touches, at most.
  max_pieces_ = 2 * chunk_planes_ + config_.chunk_bytes / kPageBytes;
  size_t scratch = 0;
  for (Group& group : groups_) {
    group.scratch_bytes =
        DecodePlanesScratchBytes(group.shape, static_cast<uint32_t>(chunk_planes_));
    scratch = std::max(scratch, group.scratch_bytes);
  }
  KVSTOW_RETURN_IF_ERROR(scratch_.Reserve(scratch));

  auto copy_stream = MakeStream();
  if (!copy_stream.ok()) return copy_stream.status();
  copy_stream_ = *std::move(copy_stream);
  decode_stream_ = config_.decode_stream;
  if (decode_stream_ == nullptr) {
    auto decode_stream = MakeStream();
    if (!decode_stream.ok()) return decode_stream.status();
    own_decode_stream_ = *std::move(decode_stream);
    decode_stream_ = own_decode_stream_.get();
  }
  auto rotary = DeviceRotary::Create(layout_, config_.max_records);
  if (!rotary.ok()) return rotary.status();
  rotary_ = std::make_unique<DeviceRotary>(*std::move(rotary));
  KVSTOW_RETURN_IF_ERROR(positions_up_.Reserve(config_.max_records * sizeof(uint64_t)));
  KVSTOW_RETURN_IF_ERROR(positions_.Reserve(config_.max_records * sizeof(uint64_t)));
  for (size_t i = 0; i < layout_.layers().size(); ++i) {
    auto event = MakeEvent();
    if (!event.ok()) return event.status();
    written_.push_back(*std::move(event));
  }
  slots_ = std::vector<Slot>(config_.slots);
  for (Slot& slot : slots_) KVSTOW_RETURN_IF_ERROR(AllocateSlot(&slot));
  copies_.Reserve(max_pieces_);
  batch_copy_.Reserve(max_pieces_);
  cursors_.reserve(config_.max_records);
  return absl::OkStatus();
}

absl::Status Pipeline::AllocateSlot(Slot* slot) const {
  const size_t meta_bytes = CarveMeta(nullptr, chunk_planes_, max_pieces_).bytes;
  KVSTOW_RETURN_IF_ERROR(slot->staging.Reserve(config_.chunk_bytes));
  KVSTOW_RETURN_IF_ERROR(slot->meta_up.Reserve(meta_bytes));
  KVSTOW_RETURN_IF_ERROR(slot->meta.Reserve(meta_bytes));
  KVSTOW_RETURN_IF_ERROR(slot->damage.Reserve(chunk_planes_ * sizeof(uint32_t)));
  KVSTOW_RETURN_IF_ERROR(slot->damage_down.Reserve(chunk_planes_ * sizeof(uint32_t)));
  auto copied = MakeEvent();
  if (!copied.ok()) return copied.status();
  auto decoded = MakeEvent();
  if (!decoded.ok()) return decoded.status();
  slot->copied = *std::move(copied);
  slot->decoded = *std::move(decoded);
  slot->items.reserve(chunk_planes_);
  return absl::OkStatus();
}

absl::StatusOr<std::vector<DamagedPlane>> Pipeline::Restore(const RestoreRequest& request) {
  if (request.records.size() > config_.max_records) {
    return absl::InvalidArgumentError(
        absl::StrCat(request.records.size(), " records; the limit is ", config_.max_records));
  }
  for (const StoredRecord& record : request.records) {
    KVSTOW_RETURN_IF_ERROR(CheckRecord(record, layout_));
  }
  KVSTOW_CUDA_RETURN_IF_ERROR(cudaSetDevice(config_.device));
  request_ = &request;
  cursors_.assign(request.records.size(), PieceCursor());
  damage_.clear();
  damage_told_ = 0;
  if (absl::Status status = Run(); !status.ok()) {
    // What is queued still reads and writes the caller's memory.
    (void)cudaStreamSynchronize(copy_stream_.get());
    (void)cudaStreamSynchronize(decode_stream_);
    for (Slot& slot : slots_) slot.in_flight = false;
    chunk_open_ = false;
    oldest_ = filling_;
    return status;
  }
  return std::move(damage_);
}

absl::Status Pipeline::Run() {
  if (request_->records.empty()) return absl::OkStatus();
  KVSTOW_RETURN_IF_ERROR(FillRotary());
  for (size_t layer = 0; layer < layout_.layers().size(); ++layer) {
    for (size_t block = 0; block < request_->records.size(); ++block) {
      const size_t end = layout_.first_plane(layer + 1);
      for (size_t plane = layout_.first_plane(layer); plane < end; ++plane) {
        KVSTOW_RETURN_IF_ERROR(AddPlane(layer, block, plane));
      }
    }
    KVSTOW_RETURN_IF_ERROR(Flush(true));
  }
  while (slots_[oldest_].in_flight) KVSTOW_RETURN_IF_ERROR(Harvest());
  return absl::OkStatus();
}

absl::Status Pipeline::FillRotary() {
  auto* positions = reinterpret_cast<uint64_t*>(positions_up_.data());
  const size_t count = request_->records.size();
  for (size_t i = 0; i < count; ++i) {
    positions[i] = request_->records[i].index->header().first_position;
  }
  KVSTOW_CUDA_RETURN_IF_ERROR(cudaMemcpyAsync(positions_.data(), positions,
                                              count * sizeof(uint64_t), cudaMemcpyHostToDevice,
                                              decode_stream_));
  return rotary_->Fill(reinterpret_cast<const uint64_t*>(positions_.data()), count, decode_stream_);
}

absl::Status Pipeline::AddPlane(size_t layer, size_t block, size_t plane) {
  const StoredRecord& record = request_->records[block];
  const DirectoryEntry& entry = record.index->planes()[plane];
  const size_t bytes = RoundUp(entry.bytes);
  PieceCursor& cursor = cursors_[block];
  const std::byte* whole = cursor.Whole(record, entry.offset, bytes);
  const bool in_place = record.on_device && whole != nullptr;
  size_t pieces = 0;
  if (!in_place) {
    PieceCursor ahead = cursor;
    ahead.ForEach(record, entry.offset, bytes, [&](const std::byte*, size_t, bool) { ++pieces; });
    if (pieces > max_pieces_) {
      return absl::InvalidArgumentError("a plane lies in pieces smaller than pages");
    }
  }
  if (chunk_open_ && (slots_[filling_].items.size() == chunk_planes_ ||
                      copies_.pieces().size() + pieces > max_pieces_ ||
                      (!in_place && copies_.staged() + bytes > config_.chunk_bytes))) {
    KVSTOW_RETURN_IF_ERROR(Flush(false));
  }
  if (!chunk_open_) KVSTOW_RETURN_IF_ERROR(BeginChunk(layer));

  Slot& slot = slots_[filling_];
  const std::byte* stored = whole;
  if (!in_place) {
    stored = slot.staging.data() + copies_.staged();
    cursor.ForEach(record, entry.offset, bytes,
                   [&](const std::byte* from, size_t size, bool starts_piece) {
                     copies_.Add(from, size, starts_piece, slot.staging.data());
                   });
  }
  const PlaneTarget target = request_->target(block, plane);
  Item& item = slot.items.emplace_back();
  item.block = block;
  item.plane = plane;
  item.group = group_of_[plane];
  item.stored = {reinterpret_cast<const uint8_t*>(stored), entry.bytes};
  item.target.values = reinterpret_cast<uint8_t*>(target.values);
  item.target.head_stride = target.head_stride;
  item.target.row_stride = target.row_stride;
  item.target.cos = rotary_->Cos(plane, block);
  item.target.sin = rotary_->Sin(plane, block);
  item.target.crc32c = entry.crc32c;
  return absl::OkStatus();
}

absl::Status Pipeline::BeginChunk(size_t layer) {
  KVSTOW_RETURN_IF_ERROR(HarvestReady());
  // The ring is full: its oldest chunk is the one in this slot.
  if (slots_[filling_].in_flight) KVSTOW_RETURN_IF_ERROR(Harvest());
  Slot& slot = slots_[filling_];
  slot.items.clear();
  slot.layer = layer;
  copies_.Clear();
  chunk_open_ = true;
  return absl::OkStatus();
}

absl::Status Pipeline::Flush(bool last_of_layer) {
  Slot& slot = slots_[filling_];
  std::sort(slot.items.begin(), slot.items.end(), [](const Item& a, const Item& b) {
    return std::tie(a.group, a.block, a.plane) < std::tie(b.group, b.block, b.plane);
  });
  const size_t planes = slot.items.size(), pieces = copies_.pieces().size();
  const Meta meta = CarveMeta(slot.meta_up.data(), planes, pieces);
  for (size_t i = 0; i < planes; ++i) {
    meta.stored[i] = slot.items[i].stored;
    meta.targets[i] = slot.items[i].target;
  }
  std::copy(copies_.pieces().begin(), copies_.pieces().end(), meta.pieces);
  slot.in_flight = true;
  slot.last_of_layer = last_of_layer;
  chunk_open_ = false;

  const Meta device = CarveMeta(slot.meta.data(), planes, pieces);
  KVSTOW_CUDA_RETURN_IF_ERROR(cudaMemcpyAsync(slot.meta.data(), slot.meta_up.data(), meta.bytes,
                                              cudaMemcpyHostToDevice, copy_stream_.get()));
  KVSTOW_RETURN_IF_ERROR(CopyUp(device));
  KVSTOW_RETURN_IF_ERROR(DecodeGroups(device));
  filling_ = (filling_ + 1) % slots_.size();
  if (!last_of_layer) return absl::OkStatus();
  KVSTOW_CUDA_RETURN_IF_ERROR(cudaEventRecord(written_[slot.layer].get(), decode_stream_));
  if (request_->layer_queued) request_->layer_queued(slot.layer, written_[slot.layer].get());
  return absl::OkStatus();
}

absl::Status Pipeline::CopyUp(const Meta& device) {
  cudaStream_t stream = copy_stream_.get();
  if (config_.copy == PieceCopy::kKernel) {
    KVSTOW_CUDA_RETURN_IF_ERROR(
        LaunchCopyPieces(device.pieces, static_cast<uint32_t>(copies_.pieces().size()), stream));
  } else {
    KVSTOW_RETURN_IF_ERROR(batch_copy_.Run(copies_.pieces(), stream));
  }
  Slot& slot = slots_[filling_];
  KVSTOW_CUDA_RETURN_IF_ERROR(cudaEventRecord(slot.copied.get(), stream));
  KVSTOW_CUDA_RETURN_IF_ERROR(cudaStreamWaitEvent(decode_stream_, slot.copied.get()));
  return absl::OkStatus();
}

absl::Status Pipeline::DecodeGroups(const Meta& device) {
  Slot& slot = slots_[filling_];
  auto* damage = reinterpret_cast<uint32_t*>(slot.damage.data());
  for (size_t first = 0, end = 0; first < slot.items.size(); first = end) {
    uint64_t largest = 0;
    while (end < slot.items.size() && slot.items[end].group == slot.items[first].group) {
      largest = std::max(largest, slot.items[end++].stored.size);
    }
    KVSTOW_RETURN_IF_ERROR(DecodePlanes(groups_[slot.items[first].group].shape,
                                        device.stored + first, device.targets + first,
                                        static_cast<uint32_t>(end - first), largest, damage + first,
                                        scratch_.data(), scratch_.size(), decode_stream_));
  }
  KVSTOW_CUDA_RETURN_IF_ERROR(cudaMemcpyAsync(slot.damage_down.data(), damage,
                                              slot.items.size() * sizeof(uint32_t),
                                              cudaMemcpyDeviceToHost, decode_stream_));
  KVSTOW_CUDA_RETURN_IF_ERROR(cudaEventRecord(slot.decoded.get(), decode_stream_));
  return absl::OkStatus();
}

absl::Status Pipeline::Harvest() {
  Slot& slot = slots_[oldest_];
  KVSTOW_CUDA_RETURN_IF_ERROR(cudaEventSynchronize(slot.decoded.get()));
  const auto* damaged = reinterpret_cast<const uint32_t*>(slot.damage_down.data());
  for (size_t i = 0; i < slot.items.size(); ++i) {
    if (damaged[i] != 0) damage_.push_back({slot.items[i].block, slot.items[i].plane});
  }
  slot.in_flight = false;
  oldest_ = (oldest_ + 1) % slots_.size();
  if (!slot.last_of_layer) return absl::OkStatus();
  if (request_->layer_done) {
    request_->layer_done(slot.layer, std::span(damage_).subspan(damage_told_));
  }
  damage_told_ = damage_.size();
  return absl::OkStatus();
}

// Tells finished layers early.
absl::Status Pipeline::HarvestReady() {
  while (slots_[oldest_].in_flight) {
    const cudaError_t error = cudaEventQuery(slots_[oldest_].decoded.get());
    if (error == cudaErrorNotReady) {
      // No error, but kept as the last one all the same.
      (void)cudaGetLastError();
      return absl::OkStatus();
    }
    KVSTOW_CUDA_RETURN_IF_ERROR(error);
    KVSTOW_RETURN_IF_ERROR(Harvest());
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::unique_ptr<RestorePipeline>> RestorePipeline::Create(
    const PlaneLayout& layout, const RestoreConfig& config) {
  auto pipeline = std::make_unique<Pipeline>(layout, config);
  KVSTOW_RETURN_IF_ERROR(pipeline->Allocate());
  return pipeline;
}

}  // namespace kvstow::gpu
