#include "tests/testing/heap_watch.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <new>
#include <utility>

namespace kvstow::testing {
namespace {

thread_local HeapWatch* watching = nullptr;

// A piece of the heap begins with its size.
constexpr size_t kFront = 16;

}  // namespace

HeapWatch::HeapWatch(std::vector<uint64_t> secret) : secret_(std::move(secret)) {
  std::sort(secret_.begin(), secret_.end());
  watching = this;
}

void HeapWatch::Stop() { watching = nullptr; }

void HeapWatch::GivesBack(const void* memory, size_t bytes) {
  if (watching != nullptr) watching->Look(static_cast<const char*>(memory), bytes);
}

void HeapWatch::Look(const char* memory, size_t bytes) {
  bool empty = true;
  for (size_t at = 0; at + 8 <= bytes; at += 8) {
    uint64_t word;
    std::memcpy(&word, memory + at, 8);
    empty = empty && word == 0;
    found_ += std::binary_search(secret_.begin(), secret_.end(), word);
  }
  if (bytes < 1024) return;
  ++pieces_;
  left_behind_ += !empty;
}

}  // namespace kvstow::testing

// Zeros, so that what is found in a piece was written into it.
void* operator new(size_t bytes) {
  using kvstow::testing::kFront;
  auto* const memory = static_cast<char*>(std::calloc(1, kFront + bytes));
  if (memory == nullptr) std::abort();
  std::memcpy(memory, &bytes, sizeof(bytes));
  return memory + kFront;
}

void operator delete(void* memory) noexcept {
  using kvstow::testing::kFront;
  if (memory == nullptr) return;
  char* const front = static_cast<char*>(memory) - kFront;
  size_t bytes;
  std::memcpy(&bytes, front, sizeof(bytes));
  kvstow::testing::HeapWatch::GivesBack(memory, bytes);
  std::free(front);
}

void operator delete(void* memory, size_t) noexcept { operator delete(memory); }
