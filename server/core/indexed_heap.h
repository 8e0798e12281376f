// A binary heap, least key first, whose items are told their place in it, so that any of them can
// be taken out.
//
// Entry has `uint64_t key` and `uint32_t& place() const`, where the heap keeps the item's position
// while it is in, and kNotQueued once it is out.
//
// Not thread-safe.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "absl/base/macros.h"

namespace kvstow {

inline constexpr uint32_t kNotQueued = ~uint32_t{0};

template <typename Entry>
class IndexedHeap {
 public:
  void Push(Entry entry) {
    entries_.emplace_back();
    SiftUp(entries_.size() - 1, entry);
  }
  // The entry at a place, which its item knows.
  void RemoveAt(size_t at) {
    ABSL_ASSERT(at < entries_.size());
    const Entry last = entries_.back();
    entries_[at].place() = kNotQueued;
    entries_.pop_back();
    if (at < entries_.size()) Settle(at, last);
  }
  // Replaces it by one of another key.
  void UpdateAt(size_t at, Entry entry) { Settle(at, entry); }

  bool empty() const { return entries_.empty(); }
  size_t size() const { return entries_.size(); }
  // REQUIRES that it is not empty.
  const Entry& top() const { return entries_.front(); }
  const Entry& at(size_t place) const { return entries_[place]; }

 private:
  void Settle(size_t at, Entry entry) {
    if (at > 0 && entry.key < entries_[(at - 1) / 2].key) {
      SiftUp(at, entry);
    } else {
      SiftDown(at, entry);
    }
  }
  void Place(size_t at, Entry entry) {
    entries_[at] = entry;
    entry.place() = static_cast<uint32_t>(at);
  }
  void SiftUp(size_t at, Entry entry) {
    while (at > 0) {
      const size_t above = (at - 1) / 2;
      if (entries_[above].key <= entry.key) break;
      Place(at, entries_[above]);
      at = above;
    }
    Place(at, entry);
  }
  void SiftDown(size_t at, Entry entry) {
    for (;;) {
      size_t below = 2 * at + 1;
      if (below >= entries_.size()) break;
      if (below + 1 < entries_.size() && entries_[below + 1].key < entries_[below].key) ++below;
      if (entry.key <= entries_[below].key) break;
      Place(at, entries_[below]);
      at = below;
    }
    Place(at, entry);
  }

  std::vector<Entry> entries_;
};

}  // namespace kvstow
