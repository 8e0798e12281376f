#include "gpu/restore_pipeline.h"

#include <algorithm>
#include <bit>
#include <utility>

#include "absl/strings/str_cat.h"
#include "codec/plane.h"
#include "gpu/cuda_handles.h"
#include "gpu/device_rotary.h"
#include "gpu/piece_copies.h"
#include "gpu/plane_batch.h"
#include "gpu/staging.h"

namespace kvstow::gpu {
namespace {

constexpr size_t kFirstRotaryRecords = 512;
constexpr size_t kPageBytes = 4096;  // of a tier: no piece is shorter, but for a record's last

// Copies into the staging of one chunk, one behind the other.
class StagingCopies {
 public:
  void Reserve(size_t pieces) { copies_.Reserve(pieces); }
  void Begin(std::byte* staging) {
    copies_.Clear();
    staging_ = staging;
    staged_ = 0;
  }
  void Add(const std::byte* from, size_t bytes, bool starts_piece, bool pinned) {
    copies_.Add(from, end(), bytes, starts_piece, pinned);
    staged_ += bytes;
  }
  absl::Status Enqueue(cudaStream_t stream) { return copies_.Enqueue(stream); }
  size_t pieces() const { return copies_.pieces(); }
  size_t staged() const { return staged_; }
  std::byte* end() const { return staging_ + staged_; }

 private:
  PieceCopies copies_;
  std::byte* staging_ = nullptr;
  size_t staged_ = 0;
};

// Planes of one chunk that are decoded together.
struct Batch {
  size_t group = 0;
  uint64_t largest = 0;  // bytes of any of its planes
  std::vector<DamagedPlane> names;
  std::vector<ChecksumRange> stored;
  std::vector<StoredPlane> targets;
};

// A chunk under way, and the memory it uses.
struct Slot {
  DeviceBuffer staging;
  PinnedBuffer meta_up;  // of each batch: ranges, targets
  DeviceBuffer meta, damage;
  const std::byte* meta_read = nullptr;  // one of the two
  PinnedBuffer damage_down;
  Event copied, other_decoded, decoded;
  bool in_flight = false;
  size_t layer = 0;
  bool last_of_layer = false;
  size_t planes = 0;
  std::vector<Batch> batches;  // by group; those of other layers' groups are empty
};

constexpr size_t kMetaBytes = sizeof(ChecksumRange) + sizeof(StoredPlane);  // of a plane

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
  absl::Status AddAll();
  absl::Status AddChosen();
  absl::Status HoldRotary(size_t records);
  absl::Status FillRotary();
  absl::Status AddPlane(size_t layer, size_t block, size_t plane, const PlaneTarget& target);
  absl::Status MakeRoom(size_t layer, size_t staged_bytes, size_t pieces);
  absl::Status BeginChunk(size_t layer);
  absl::Status Flush(bool last_of_layer);
  absl::Status CopyUp(Slot* slot);
  absl::Status DecodeBatches(Slot* slot);
  absl::Status Join(Slot* slot);
  absl::Status Harvest();
  absl::Status HarvestReady();

  const PlaneLayout& layout_;
  const RestoreConfig config_;
  std::vector<Group> groups_;
  std::vector<size_t> group_of_;  // of the layout's planes
  size_t chunk_planes_ = 0, max_pieces_ = 0;

  // Batches take turns on two streams: the small kernels and the last blocks of one leave room on
  // the device that the other fills.
  static constexpr size_t kDecodeStreams = 2;
  Stream copy_stream_, own_decode_streams_[kDecodeStreams];
  cudaStream_t decode_streams_[kDecodeStreams] = {};
  std::unique_ptr<DeviceRotary> rotary_;
  size_t rotary_records_ = 0;  // that it has room for
  PinnedBuffer positions_up_;
  std::vector<uint64_t> filled_;  // positions whose tables are there
  DeviceBuffer positions_, scratch_[kDecodeStreams];
  Event rotary_filled_;
  std::vector<Event> written_;  // of layers
  std::vector<Slot> slots_;     // a ring

  // Of the running call.
  const RestoreRequest* request_ = nullptr;
  std::vector<PieceCursor> cursors_;
  StagingCopies copies_;
  size_t turn_ = 0;                  // decode stream of the next batch
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
  if (config_.slots == 0 || config_.max_records == 0 ||
      config_.chunk_bytes < RoundUpToTile(largest)) {
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
  for (DeviceBuffer& buffer : scratch_) KVSTOW_RETURN_IF_ERROR(buffer.Reserve(scratch));

  auto copy_stream = MakeStream();
  if (!copy_stream.ok()) return copy_stream.status();
  copy_stream_ = *std::move(copy_stream);
  for (size_t i = 0; i < kDecodeStreams; ++i) {
    decode_streams_[i] = config_.decode_stream;
    if (config_.decode_stream != nullptr) continue;
    auto decode_stream = MakeStream();
    if (!decode_stream.ok()) return decode_stream.status();
    own_decode_streams_[i] = *std::move(decode_stream);
    decode_streams_[i] = own_decode_streams_[i].get();
  }
  KVSTOW_RETURN_IF_ERROR(HoldRotary(kFirstRotaryRecords));
  KVSTOW_RETURN_IF_ERROR(positions_up_.Reserve(config_.max_records * sizeof(uint64_t)));
  KVSTOW_RETURN_IF_ERROR(positions_.Reserve(config_.max_records * sizeof(uint64_t)));
  auto filled = MakeEvent();
  if (!filled.ok()) return filled.status();
  rotary_filled_ = *std::move(filled);
  for (size_t i = 0; i < layout_.layers().size(); ++i) {
    auto event = MakeEvent();
    if (!event.ok()) return event.status();
    written_.push_back(*std::move(event));
  }
  slots_ = std::vector<Slot>(config_.slots);
  for (Slot& slot : slots_) KVSTOW_RETURN_IF_ERROR(AllocateSlot(&slot));
  copies_.Reserve(max_pieces_);
  cursors_.reserve(config_.max_records);
  return absl::OkStatus();
}

absl::Status Pipeline::AllocateSlot(Slot* slot) const {
  KVSTOW_RETURN_IF_ERROR(slot->staging.Reserve(config_.chunk_bytes));
  KVSTOW_RETURN_IF_ERROR(slot->meta_up.Reserve(chunk_planes_ * kMetaBytes));
  KVSTOW_RETURN_IF_ERROR(slot->meta.Reserve(chunk_planes_ * kMetaBytes));
  KVSTOW_RETURN_IF_ERROR(slot->damage.Reserve(chunk_planes_ * sizeof(uint32_t)));
  KVSTOW_RETURN_IF_ERROR(slot->damage_down.Reserve(chunk_planes_ * sizeof(uint32_t)));
  for (Event* event : {&slot->copied, &slot->other_decoded, &slot->decoded}) {
    auto made = MakeEvent();
    if (!made.ok()) return made.status();
    *event = *std::move(made);
  }
  slot->batches.resize(groups_.size());
  for (size_t i = 0; i < groups_.size(); ++i) slot->batches[i].group = i;
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
    for (cudaStream_t stream : decode_streams_) (void)cudaStreamSynchronize(stream);
    for (Slot& slot : slots_) slot.in_flight = false;
    chunk_open_ = false;
    oldest_ = filling_;
    filled_.clear();
    return status;
  }
  return std::move(damage_);
}

absl::Status Pipeline::Run() {
  if (request_->records.empty()) return absl::OkStatus();
  KVSTOW_RETURN_IF_ERROR(FillRotary());
  KVSTOW_RETURN_IF_ERROR(request_->chosen.empty() ? AddAll() : AddChosen());
  while (slots_[oldest_].in_flight) KVSTOW_RETURN_IF_ERROR(Harvest());
  return absl::OkStatus();
}

absl::Status Pipeline::AddAll() {
  for (size_t layer = 0; layer < layout_.layers().size(); ++layer) {
    for (size_t block = 0; block < request_->records.size(); ++block) {
      const size_t end = layout_.first_plane(layer + 1);
      for (size_t plane = layout_.first_plane(layer); plane < end; ++plane) {
        KVSTOW_RETURN_IF_ERROR(AddPlane(layer, block, plane, request_->target(block, plane)));
      }
    }
    KVSTOW_RETURN_IF_ERROR(Flush(true));
  }
  return absl::OkStatus();
}

absl::Status Pipeline::AddChosen() {
  for (const ChosenPlane& chosen : request_->chosen) {
    KVSTOW_RETURN_IF_ERROR(AddPlane(0, chosen.block, chosen.plane, chosen.target));
  }
  return Flush(false);
}

// Room for the tables of so many records; it grows, since few calls have as many as they may, and
// takes 64 KiB a record. Nothing is under way.
absl::Status Pipeline::HoldRotary(size_t records) {
  if (records <= rotary_records_) return absl::OkStatus();
  const size_t room = std::min(std::bit_ceil(records), config_.max_records);
  rotary_ = nullptr;
  rotary_records_ = 0;
  filled_.clear();
  auto rotary = DeviceRotary::Create(layout_, room);
  if (!rotary.ok()) return rotary.status();
  rotary_ = std::make_unique<DeviceRotary>(*std::move(rotary));
  rotary_records_ = room;
  return absl::OkStatus();
}

// The tables of the call before serve again where the blocks are the same.
absl::Status Pipeline::FillRotary() {
  std::vector<uint64_t> wanted;
  wanted.reserve(request_->records.size());
  for (const StoredRecord& record : request_->records) {
    wanted.push_back(record.index->header().first_position);
  }
  KVSTOW_RETURN_IF_ERROR(HoldRotary(wanted.size()));
  if (wanted == filled_) return absl::OkStatus();
  filled_.clear();  // until it is known to have gone well
  auto* positions = reinterpret_cast<uint64_t*>(positions_up_.data());
  std::copy(wanted.begin(), wanted.end(), positions);
  const size_t count = wanted.size();
  cudaStream_t stream = decode_streams_[0];
  KVSTOW_CUDA_RETURN_IF_ERROR(cudaMemcpyAsync(
      positions_.data(), positions, count * sizeof(uint64_t), cudaMemcpyHostToDevice, stream));
  KVSTOW_RETURN_IF_ERROR(
      rotary_->Fill(reinterpret_cast<const uint64_t*>(positions_.data()), count, stream));
  KVSTOW_CUDA_RETURN_IF_ERROR(cudaEventRecord(rotary_filled_.get(), stream));
  for (cudaStream_t other : decode_streams_) {
    KVSTOW_CUDA_RETURN_IF_ERROR(cudaStreamWaitEvent(other, rotary_filled_.get()));
  }
  filled_ = std::move(wanted);
  return absl::OkStatus();
}

absl::Status Pipeline::AddPlane(size_t layer, size_t block, size_t plane,
                                const PlaneTarget& target) {
  const StoredRecord& record = request_->records[block];
  const DirectoryEntry& entry = record.index->planes()[plane];
  const size_t bytes = RoundUpToTile(entry.bytes);
  PieceCursor& cursor = cursors_[block];
  const std::byte* stored = cursor.Whole(record, entry.offset, bytes);
  if (record.on_device && stored != nullptr) {
    KVSTOW_RETURN_IF_ERROR(MakeRoom(layer, 0, 0));
  } else {
    PieceCursor ahead = cursor;
    size_t pieces = 0;
    ahead.ForEach(record, entry.offset, bytes, [&](const std::byte*, size_t, bool) { ++pieces; });
    KVSTOW_RETURN_IF_ERROR(MakeRoom(layer, bytes, pieces));
    stored = copies_.end();
    cursor.ForEach(record, entry.offset, bytes,
                   [&](const std::byte* from, size_t size, bool starts_piece) {
                     copies_.Add(from, size, starts_piece, record.on_device || record.pinned);
                   });
  }
  Slot& slot = slots_[filling_];
  ++slot.planes;
  Batch& batch = slot.batches[group_of_[plane]];
  batch.largest = std::max<uint64_t>(batch.largest, entry.bytes);
  batch.names.push_back({block, plane});
  batch.stored.push_back({reinterpret_cast<const uint8_t*>(stored), entry.bytes});
  StoredPlane& to = batch.targets.emplace_back();
  to.values = reinterpret_cast<uint8_t*>(target.values);
  to.head_stride = target.head_stride;
  to.row_stride = target.row_stride;
  to.cos = rotary_->Cos(plane, block);
  to.sin = rotary_->Sin(plane, block);
  to.crc32c = entry.crc32c;
  return absl::OkStatus();
}

// For one more plane in the chunk that is being filled.
absl::Status Pipeline::MakeRoom(size_t layer, size_t staged_bytes, size_t pieces) {
  if (pieces > max_pieces_) {
    return absl::InvalidArgumentError("a plane lies in pieces smaller than pages");
  }
  if (chunk_open_ &&
      (slots_[filling_].planes == chunk_planes_ || copies_.pieces() + pieces > max_pieces_ ||
       copies_.staged() + staged_bytes > config_.chunk_bytes)) {
    KVSTOW_RETURN_IF_ERROR(Flush(false));
  }
  return chunk_open_ ? absl::OkStatus() : BeginChunk(layer);
}

absl::Status Pipeline::BeginChunk(size_t layer) {
  KVSTOW_RETURN_IF_ERROR(HarvestReady());
  // The ring is full: its oldest chunk is the one in this slot.
  if (slots_[filling_].in_flight) KVSTOW_RETURN_IF_ERROR(Harvest());
  Slot& slot = slots_[filling_];
  slot.layer = layer;
  slot.planes = 0;
  for (Batch& batch : slot.batches) {
    batch.largest = 0;
    batch.names.clear();
    batch.stored.clear();
    batch.targets.clear();
  }
  copies_.Begin(slot.staging.data());
  chunk_open_ = true;
  return absl::OkStatus();
}

absl::Status Pipeline::Flush(bool last_of_layer) {
  Slot& slot = slots_[filling_];
  slot.in_flight = true;
  slot.last_of_layer = last_of_layer;
  chunk_open_ = false;
  KVSTOW_RETURN_IF_ERROR(CopyUp(&slot));
  KVSTOW_RETURN_IF_ERROR(DecodeBatches(&slot));
  filling_ = (filling_ + 1) % slots_.size();
  if (last_of_layer && request_->layer_queued) {
    request_->layer_queued(slot.layer, written_[slot.layer].get());
  }
  return absl::OkStatus();
}

absl::Status Pipeline::CopyUp(Slot* slot) {
  std::byte* at = slot->meta_up.data();
  for (const Batch& batch : slot->batches) {
    const size_t planes = batch.stored.size();
    std::copy(batch.stored.begin(), batch.stored.end(), reinterpret_cast<ChecksumRange*>(at));
    at += planes * sizeof(ChecksumRange);
    std::copy(batch.targets.begin(), batch.targets.end(), reinterpret_cast<StoredPlane*>(at));
    at += planes * sizeof(StoredPlane);
  }
  cudaStream_t stream = copy_stream_.get();
  if (copies_.pieces() > 0) {
    // The kernels read what the planes are over the bus: a copy of its own would hold the planes up
    // by some microseconds, and put into their batch it makes the batch slow to enqueue.
    slot->meta_read = slot->meta_up.data();
    KVSTOW_RETURN_IF_ERROR(copies_.Enqueue(stream));
  } else {
    slot->meta_read = slot->meta.data();
    KVSTOW_CUDA_RETURN_IF_ERROR(cudaMemcpyAsync(slot->meta.data(), slot->meta_up.data(),
                                                slot->planes * kMetaBytes, cudaMemcpyHostToDevice,
                                                stream));
  }
  KVSTOW_CUDA_RETURN_IF_ERROR(cudaEventRecord(slot->copied.get(), stream));
  return absl::OkStatus();
}

absl::Status Pipeline::DecodeBatches(Slot* slot) {
  const std::byte* meta = slot->meta_read;
  auto* damage = reinterpret_cast<uint32_t*>(slot->damage.data());
  for (const Batch& batch : slot->batches) {
    const size_t planes = batch.stored.size();
    if (planes == 0) continue;
    turn_ = (turn_ + 1) % kDecodeStreams;
    KVSTOW_CUDA_RETURN_IF_ERROR(cudaStreamWaitEvent(decode_streams_[turn_], slot->copied.get()));
    const auto* stored = reinterpret_cast<const ChecksumRange*>(meta);
    const auto* targets = reinterpret_cast<const StoredPlane*>(stored + planes);
    KVSTOW_RETURN_IF_ERROR(DecodePlanes(
        groups_[batch.group].shape, stored, targets, static_cast<uint32_t>(planes), batch.largest,
        damage, scratch_[turn_].data(), scratch_[turn_].size(), decode_streams_[turn_]));
    meta += planes * kMetaBytes;
    damage += planes;
  }
  return Join(slot);
}

// Ends the chunk on the stream of its last batch: all that was enqueued before, on either stream,
// is behind the slot's event then.
absl::Status Pipeline::Join(Slot* slot) {
  cudaStream_t last = decode_streams_[turn_];
  cudaStream_t other = decode_streams_[(turn_ + 1) % kDecodeStreams];
  KVSTOW_CUDA_RETURN_IF_ERROR(cudaEventRecord(slot->other_decoded.get(), other));
  KVSTOW_CUDA_RETURN_IF_ERROR(cudaStreamWaitEvent(last, slot->other_decoded.get()));
  KVSTOW_CUDA_RETURN_IF_ERROR(cudaMemcpyAsync(slot->damage_down.data(), slot->damage.data(),
                                              slot->planes * sizeof(uint32_t),
                                              cudaMemcpyDeviceToHost, last));
  KVSTOW_CUDA_RETURN_IF_ERROR(cudaEventRecord(slot->decoded.get(), last));
  if (!slot->last_of_layer) return absl::OkStatus();
  KVSTOW_CUDA_RETURN_IF_ERROR(cudaEventRecord(written_[slot->layer].get(), last));
  return absl::OkStatus();
}

absl::Status Pipeline::Harvest() {
  Slot& slot = slots_[oldest_];
  KVSTOW_CUDA_RETURN_IF_ERROR(cudaEventSynchronize(slot.decoded.get()));
  const auto* damaged = reinterpret_cast<const uint32_t*>(slot.damage_down.data());
  for (const Batch& batch : slot.batches) {
    for (const DamagedPlane& name : batch.names) {
      if (*damaged++ != 0) damage_.push_back(name);
    }
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
    const auto decoded = HasPassed(slots_[oldest_].decoded);
    if (!decoded.ok()) return decoded.status();
    if (!*decoded) return absl::OkStatus();
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
