// An opened space as the data path needs it: its layout, its id in the store, and the rotary tables
// of its blocks. Shared by all sessions that open the same thing.
//
// Thread-safe; but for what it learns of its records' sizes, immutable after Create.
#pragma once

#include <atomic>
#include <memory>

#include "absl/status/statusor.h"
#include "codec/scratch.h"
#include "codec/space_rotary.h"
#include "server/core/ids.h"
#include "server/core/store.h"
#include "space/fingerprint.h"
#include "space/plane_layout.h"

namespace kvstow {

class SpaceContext {
 public:
  // INVALID_ARGUMENT as PlaneLayout::Create.
  static absl::StatusOr<std::shared_ptr<const SpaceContext>> Create(TenantId tenant, SpaceSpec spec,
                                                                    Shard shard, Store* store);

  TenantId tenant() const { return tenant_; }
  SpaceId id() const { return id_; }
  const Fingerprint& fingerprint() const { return fingerprint_; }
  const PlaneLayout& layout() const { return layout_; }
  // Its tenant, as codecs are told of owners; all the same where scratch is not overwritten.
  uint32_t scratch_owner() const {
    return OverwritesScratch() ? 1 + static_cast<uint32_t>(tenant_) : 0;
  }

  BlockRotary RotaryAt(uint64_t first_position) const { return rotary_.At(first_position); }
  // What one block's record will take, about; for admission, not for allocation.
  uint64_t EstimatedRecordBytes() const;
  // How much room to take for one that is still being encoded: a little more than those before it
  // took. NoteRecordBytes tells of one.
  uint64_t RoomForRecord() const;
  void NoteRecordBytes(uint64_t bytes) const;

 private:
  SpaceContext(TenantId tenant, PlaneLayout layout)
      : tenant_(tenant), layout_(std::move(layout)), rotary_(layout_) {}

  TenantId tenant_;
  SpaceId id_{};
  Fingerprint fingerprint_{};
  PlaneLayout layout_;
  const SpaceRotary rotary_;
  mutable std::atomic<uint64_t> typical_record_bytes_{0};  // 0: none was seen yet
};

}  // namespace kvstow
