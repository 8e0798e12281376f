#include "tests/testing/slot_pipeline.h"

#include <sched.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstring>
#include <thread>

#include "codec/crc32c.h"

namespace kvstow::testing {
namespace {

constexpr size_t kAtOnce = 8 << 10;

// Copies and, if asked to, sums what was written while the nearest cache has it.
uint32_t Copy(std::span<const std::byte> from, std::span<std::byte> to, bool sums) {
  uint32_t crc32c = 0;
  for (size_t at = 0; at < from.size(); at += kAtOnce) {
    const auto piece = from.subspan(at, std::min(kAtOnce, from.size() - at));
    std::memcpy(to.data() + at, piece.data(), piece.size());
    if (sums) crc32c = ExtendCrc32c(crc32c, to.subspan(at, piece.size()));
  }
  return crc32c;
}

}  // namespace

void SlotPipeline::Run(std::span<const std::span<const std::byte>> from,
                       std::span<const std::span<std::byte>> to, SlotSum sum) {
  const size_t room = slot_.size() / 8;
  std::atomic<size_t> written{0}, read{0};  // spans
  std::atomic<uint32_t> sums{0};            // so that none is computed for nothing
  const auto piece = [&](size_t i) {
    return std::span(slot_).subspan(i % 8 * room, from[i].size());
  };
  std::thread reader([&] {
    for (size_t i = 0; i < to.size(); ++i) {
      while (written.load(std::memory_order_acquire) <= i) sched_yield();
      sums ^= Copy(piece(i), to[i], sum == SlotSum::kWhenRead);
      read.store(i + 1, std::memory_order_release);
    }
  });
  for (size_t i = 0; i < from.size(); ++i) {
    while (i >= read.load(std::memory_order_acquire) + 8) sched_yield();
    sums ^= Copy(from[i], piece(i), sum == SlotSum::kWhenWritten);
    written.store(i + 1, std::memory_order_release);
  }
  reader.join();
}

}  // namespace kvstow::testing
