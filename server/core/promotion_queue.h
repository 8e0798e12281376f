// The records of slower tiers that uses asked to be moved up: bounded, each once, newest first.
// When it is full the oldest is forgotten.
//
// Not thread-safe.
#pragma once

#include <cstddef>
#include <cstdint>
#include <list>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "server/core/block.h"

namespace kvstow {

struct Candidate {
  Block* block = nullptr;
  uint32_t slot = 0;          // of the block's records
  uint64_t previous_use = 0;  // tick of the use before the one that asked
};

class PromotionQueue {
 public:
  explicit PromotionQueue(size_t limit) : limit_(limit) {}

  // One that is in already becomes the newest.
  void Add(const Candidate& candidate);
  // Nothing to do when it is not in.
  void Remove(Block* block, uint32_t slot);
  bool Contains(Block* block, uint32_t slot) const { return by_record_.contains({block, slot}); }
  // At most `count`.
  std::vector<Candidate> Newest(size_t count) const;
  size_t size() const { return newest_first_.size(); }

 private:
  const size_t limit_;
  std::list<Candidate> newest_first_;
  absl::flat_hash_map<std::pair<Block*, uint32_t>, std::list<Candidate>::iterator> by_record_;
};

}  // namespace kvstow
