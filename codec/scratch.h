// Memory that KV passes through on its way into a record and out of it. It is overwritten before it
// goes back to the heap, so that nothing of one tenant's lies in what another one's call is given.
//
// Thread-safe, as the heap is.
#pragma once

#include <string.h>

#include <atomic>
#include <cstddef>
#include <memory>
#include <span>
#include <type_traits>
#include <vector>

namespace kvstow {

namespace scratch_internal {
inline std::atomic<bool> is_overwritten{true};
}  // namespace scratch_internal

// Whether it is, in this process: the heap is the process's. True until it is said otherwise, which
// is for before there are calls.
inline bool OverwritesScratch() {
  return scratch_internal::is_overwritten.load(std::memory_order_relaxed);
}
inline void SetOverwritesScratch(bool on) { scratch_internal::is_overwritten = on; }

// Zeros, where scratch is overwritten; not to be optimised away, though nobody may read them.
inline void Overwrite(std::span<std::byte> memory) {
  if (OverwritesScratch() && !memory.empty()) explicit_bzero(memory.data(), memory.size());
}

template <typename T, typename Heap = std::allocator<T>>
class ScratchAllocator {
 public:
  static_assert(std::is_trivially_destructible_v<T>);
  using value_type = T;
  template <typename U>
  struct rebind {
    using other =
        ScratchAllocator<U, typename std::allocator_traits<Heap>::template rebind_alloc<U>>;
  };

  T* allocate(size_t count) { return Heap().allocate(count); }
  void deallocate(T* memory, size_t count) {
    Overwrite(std::as_writable_bytes(std::span(memory, count)));
    Heap().deallocate(memory, count);
  }
  bool operator==(const ScratchAllocator&) const { return true; }
};

template <typename T>
using Scratch = std::vector<T, ScratchAllocator<T>>;

// Bytes that are all written before any is read: they begin as whatever lay there before.
class UnfilledScratch {
 public:
  explicit UnfilledScratch(size_t size) : size_(size), bytes_(new std::byte[size]) {}
  ~UnfilledScratch() { Overwrite(bytes()); }
  UnfilledScratch(const UnfilledScratch&) = delete;
  UnfilledScratch& operator=(const UnfilledScratch&) = delete;

  std::span<std::byte> bytes() const { return {bytes_.get(), size_}; }

 private:
  const size_t size_;
  const std::unique_ptr<std::byte[]> bytes_;
};

}  // namespace kvstow
