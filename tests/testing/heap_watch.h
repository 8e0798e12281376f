// Looks at memory when it goes back to the heap: a program linked with heap_watch.cc has an
// operator delete that lets it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace kvstow::testing {

// While one is there: what the thread that made it gives back. Not thread-safe.
class HeapWatch {
 public:
  // Looks for words of eight bytes of `secret`, at addresses that are multiples of 8.
  explicit HeapWatch(std::vector<uint64_t> secret = {});
  ~HeapWatch() { Stop(); }
  void Stop();

  size_t found() const { return found_; }              // words of the secret
  size_t pieces() const { return pieces_; }            // that were given back, of a KiB or more
  size_t left_behind() const { return left_behind_; }  // those of them that were not all zeros

  static void GivesBack(const void* memory, size_t bytes);

 private:
  // Allocates nothing.
  void Look(const char* memory, size_t bytes);

  std::vector<uint64_t> secret_;  // sorted
  size_t found_ = 0, pieces_ = 0, left_behind_ = 0;
};

}  // namespace kvstow::testing
