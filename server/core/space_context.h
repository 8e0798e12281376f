// An opened space as the data path needs it: its layout, its id in the store, and the rotary tables
// of its blocks. Shared by all sessions that open the same thing.
//
// Immutable after Create, thread-safe.
#pragma once

#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "codec/rotary_table.h"
#include "server/core/ids.h"
#include "server/core/store.h"
#include "space/fingerprint.h"
#include "space/plane_layout.h"

namespace kvstow {

// The rotary tables of one block's positions, by plane.
class BlockRotary {
 public:
  // Null for planes without a rotary embedding to undo.
  const RotaryTable* of_plane(size_t plane_index) const {
    const int table = (*table_of_plane_)[plane_index];
    return table < 0 ? nullptr : &tables_[table];
  }

 private:
  friend class SpaceContext;
  const std::vector<int>* table_of_plane_ = nullptr;
  std::vector<RotaryTable> tables_;
};

class SpaceContext {
 public:
  // INVALID_ARGUMENT as PlaneLayout::Create.
  static absl::StatusOr<std::shared_ptr<const SpaceContext>> Create(TenantId tenant, SpaceSpec spec,
                                                                    Shard shard, Store* store);

  TenantId tenant() const { return tenant_; }
  SpaceId id() const { return id_; }
  const Fingerprint& fingerprint() const { return fingerprint_; }
  const PlaneLayout& layout() const { return layout_; }

  BlockRotary RotaryAt(uint64_t first_position) const;
  // What one block's record will take, about; for admission, not for allocation.
  uint64_t EstimatedRecordBytes() const;

 private:
  SpaceContext(TenantId tenant, PlaneLayout layout) : tenant_(tenant), layout_(std::move(layout)) {}

  TenantId tenant_;
  SpaceId id_{};
  Fingerprint fingerprint_{};
  PlaneLayout layout_;
  std::vector<RotaryOffsets> offsets_;  // one a distinct rotary embedding
  std::vector<int> table_of_plane_;     // index into offsets_, or -1
};

}  // namespace kvstow
