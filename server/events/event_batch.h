// What KV-aware routers are told in one message: blocks stored, blocks removed, everything cleared.
// Neighbours that can be told together are.
//
// Not thread-safe.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "server/core/store.h"

namespace kvstow {

// What routers call a tier: "GPU", "CPU".
absl::string_view MediumOf(TierKind tier);

struct KvEvent {
  enum class Kind { kStored, kRemoved, kAllCleared } kind = Kind::kAllCleared;
  std::vector<BlockKey> blocks;  // of kStored: each the parent of the next
  // Of kStored.
  bool has_parent = false;
  BlockKey parent{};                // of the first block
  std::vector<uint32_t> token_ids;  // of all blocks in turn, or none
  uint32_t block_tokens = 0;

  std::string medium;  // of kStored and kRemoved
};

class EventBatch {
 public:
  // Where blocks are said to lie, whatever their tier; empty: where they do, by MediumOf. With one
  // medium for all, moves between tiers are nothing to tell.
  explicit EventBatch(std::string medium = "") : medium_(std::move(medium)) {}

  void Add(const StoreEvent& event);
  void AddAllCleared() { events_.push_back({}); }
  void Clear();

  const std::vector<KvEvent>& events() const { return events_; }
  bool empty() const { return events_.empty(); }
  // So large that it should go: a message has at most 64 KiB or so.
  bool full() const;
  // Named in all events together.
  size_t blocks() const { return blocks_; }

 private:
  std::string MediumAt(TierKind tier) const;
  void AddStored(const StoreEvent& event);
  void AddRemoved(const BlockKey& key, std::string medium);

  const std::string medium_;
  std::vector<KvEvent> events_;
  size_t blocks_ = 0;     // in all events
  size_t token_ids_ = 0;  // the same
};

}  // namespace kvstow
