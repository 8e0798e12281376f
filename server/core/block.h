// What the store keeps of one block, and of the space it belongs to. Plain data that BlockIndex,
// EvictionQueue and Store's implementation share; all of it is guarded by the store's mutex, except
// that the holder of a pin reads the pinned Record without it.
//
// The store is to hold a million blocks and more, so a Block is counted in bytes: links are
// intrusive, what few blocks need lives in side tables.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "absl/container/flat_hash_set.h"
#include "absl/hash/hash.h"
#include "server/core/ids.h"
#include "server/core/indexed_heap.h"
#include "server/core/tier.h"
#include "space/fingerprint.h"

namespace kvstow {

struct Space;

// One shard's part of a block.
struct Record {
  enum class State : uint8_t {
    kAbsent,
    kReserved,  // a Put is under way
    kPresent,   // committed: the fields below hold
  };
  Allocation allocation;
  uint64_t bytes = 0;
  uint64_t raw_bytes = 0;  // of the decoded block
  uint64_t physical_bytes = 0;
  uint32_t queue_position = kNotQueued;  // of TierQueue
  State state = State::kAbsent;
  uint8_t tier = 0;  // index in the store's list of tiers
  uint8_t uses = 0;  // as promotion counts them (store_promotion.cc), up to 255
  // Looked up and not read since: the Get that comes next is the same use.
  bool awaited : 1 = false;
  bool set_aside : 1 = false;  // of TierQueue
  bool moving : 1 = false;
};

// A block is one of
//   visible     all records present, parent visible
//   incomplete  some record present
//   pending     no record present, some reserved
//   ghost       no record at all: stands in for a parent that has gone while children were still
//               pending; nobody sees it, and it goes with its last child
//   retired     out of the index, kept only for the pins and leases on it
struct Block {
  Block(Space* s, const BlockKey& k, uint64_t position);

  std::span<Record> records();
  std::span<const Record> records() const { return const_cast<Block*>(this)->records(); }
  bool is_root() const { return first_position == 0; }
  bool is_ghost() const { return present == 0 && reserved == 0; }
  bool is_leaf() const { return children == 0; }
  // Orders blocks from those that go first to those that stay longest.
  uint64_t heat() const { return uint64_t{is_protected} << 63 | last_use; }

  BlockKey key;
  Space* space;
  uint64_t first_position;

  // The tree. Blocks without a parent (roots, ghosts) are linked in Space::top.
  Block* parent = nullptr;
  Block* first_child = nullptr;
  Block* next_sibling = nullptr;
  Block* previous_sibling = nullptr;

  uint64_t physical_bytes = 0;  // of the records present
  uint64_t last_use = 0;        // the store's tick: orders evictions
  int64_t last_use_nanos = 0;   // the clock's time: for people

  uint32_t children = 0;
  // Why this block may not be evicted, now or after its descendants: one each for being leased,
  // being pinned, having records on the move, not being visible, and for every child that has an
  // anchor itself.
  uint32_t anchors = 1;
  uint32_t leases = 0;
  uint32_t pins = 0;
  uint32_t hits = 0;
  uint32_t queue_position = kNotQueued;  // of EvictionQueue
  uint16_t present = 0;                  // records in that state
  uint16_t reserved = 0;
  uint16_t moves = 0;  // records on their way to another tier
  uint8_t tier = 0;    // the slowest of its records'
  bool visible : 1 = false;
  bool is_protected : 1 = false;  // of EvictionQueue
  bool retired : 1 = false;

 private:
  // The only record of an unsharded space; others have theirs out of line.
  Record single_;
  std::unique_ptr<Record[]> several_;
};

// Finds blocks by key. Keys are the clients' choice, so the hash is seeded.
struct BlockKeyHash {
  using is_transparent = void;
  uint64_t seed = 0;
  size_t operator()(const BlockKey& key) const { return absl::HashOf(seed, key); }
  size_t operator()(const Block* block) const { return (*this)(block->key); }
};
struct BlockKeyEq {
  using is_transparent = void;
  static const BlockKey& KeyOf(const BlockKey& key) { return key; }
  static const BlockKey& KeyOf(const Block* block) { return block->key; }
  template <typename A, typename B>
  bool operator()(const A& a, const B& b) const {
    return KeyOf(a) == KeyOf(b);
  }
};
using BlockTable = absl::flat_hash_set<Block*, BlockKeyHash, BlockKeyEq>;

struct Space {
  SpaceId id{};
  TenantId tenant{};
  Fingerprint fingerprint{};
  std::vector<uint32_t> shards;  // expected: sorted, unique, not empty
  uint32_t block_tokens = 0;
  BlockTable blocks;
  Block* top = nullptr;  // list of the blocks without a parent

  // Index into Block::records(), or shards.size() for a shard that is not expected.
  size_t SlotOf(uint32_t shard) const {
    const auto it = std::lower_bound(shards.begin(), shards.end(), shard);
    return it != shards.end() && *it == shard ? it - shards.begin() : shards.size();
  }
};

inline Block::Block(Space* s, const BlockKey& k, uint64_t position)
    : key(k), space(s), first_position(position) {
  if (s->shards.size() > 1) several_ = std::make_unique<Record[]>(s->shards.size());
}

inline std::span<Record> Block::records() {
  if (several_ != nullptr) return {several_.get(), space->shards.size()};
  return {&single_, 1};
}

}  // namespace kvstow
