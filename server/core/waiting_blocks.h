// The incomplete blocks: committed by some shard, waiting for another or for their parent. Since
// when, and what their Puts told of them, for the event when they become visible.
//
// Not thread-safe.
#pragma once

#include <cstdint>
#include <tuple>

#include "absl/container/btree_set.h"
#include "absl/container/flat_hash_map.h"
#include "absl/time/time.h"
#include "codec/record.h"
#include "server/core/block.h"
#include "server/core/store.h"

namespace kvstow {

// Of several shards' it keeps, K and V each, the quality with the larger error, and the token ids
// that came first.
struct BlockNews {
  DeclaredQuality k, v;
  TokenIds token_ids = {};
  void Merge(const BlockNews& other);
};

class WaitingBlocks {
 public:
  // A record of the block was committed; it waits from the first one on.
  void Add(Block* block, absl::Time now, const BlockNews& news);
  // It became visible or went. REQUIRES that it waits.
  BlockNews Remove(Block* block);
  // The one that has waited longest, when that is since `until` or before; else null. Stays.
  Block* Oldest(absl::Time until) const;

  size_t size() const { return blocks_.size(); }

 private:
  struct Waiting {
    absl::Time since;
    uint64_t sequence = 0;
    BlockNews news;
  };
  uint64_t next_sequence_ = 0;
  absl::flat_hash_map<Block*, Waiting> blocks_;
  absl::btree_set<std::tuple<absl::Time, uint64_t, Block*>> by_age_;
};

}  // namespace kvstow
