// A place for records: host memory now, device memory and others later. The same bytes in each.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "absl/container/inlined_vector.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace kvstow {

// Values are indices into Store's list of tiers and label values of metrics.
enum class TierKind : uint8_t { kGpu = 0, kHost = 1 };
absl::string_view Name(TierKind kind);

// A run of whole pages of a tier.
struct PageRun {
  uint32_t first = 0;
  uint32_t count = 0;
  bool operator==(const PageRun&) const = default;
};
// Where one record lies: usually one run, several when free memory is in pieces. The record's bytes
// fill the runs in order.
using Allocation = absl::InlinedVector<PageRun, 1>;

struct TierUsage {
  uint64_t capacity_bytes = 0;  // the budget, physical
  uint64_t used_bytes = 0;      // physical: whole pages
};

// Where a record's bytes lie, for a device that reads them without the host's help.
struct RecordPlace {
  std::vector<std::span<const std::byte>> pieces;  // in order; empty: nobody but Read reaches them
  bool on_device = false;                          // device addresses
  bool pinned = false;                             // of host memory
};

// Thread safety: Allocate and Free are self-synchronised. Reads and writes of different allocations
// are independent; the caller orders those of one.
class Tier {
 public:
  virtual ~Tier() = default;

  virtual TierKind kind() const = 0;
  virtual TierUsage usage() const = 0;
  // Physical bytes that a record of this size takes.
  virtual uint64_t PhysicalBytes(uint64_t record_bytes) const = 0;

  // RESOURCE_EXHAUSTED when the budget has too few free pages.
  virtual absl::StatusOr<Allocation> Allocate(uint64_t record_bytes) = 0;
  // Also a part of one: whole pages of it.
  virtual void Free(const Allocation& allocation) = 0;

  // `offset` counts from the record's start; the range lies within the allocation.
  // Not OK when the tier's memory could not be reached: what was written or read is unspecified.
  virtual absl::Status Write(const Allocation& allocation, uint64_t offset,
                             std::span<const std::byte> bytes) = 0;
  virtual absl::Status Read(const Allocation& allocation, uint64_t offset,
                            std::span<std::byte> out) const = 0;
  // The bytes where they lie, when the host can address them and they are in one piece; else empty.
  // Valid until Free.
  virtual std::span<const std::byte> View(const Allocation& allocation, uint64_t offset,
                                          uint64_t size) const = 0;
  // The record's first `bytes`, where the tier keeps a copy of them for a host that cannot address
  // the others; else empty. Valid until Free.
  virtual std::span<const std::byte> Head(const Allocation& /*allocation*/,
                                          uint64_t /*bytes*/) const {
    return {};
  }
  // Where the host may write the record's first `bytes` itself, in order, instead of by Write;
  // empty when it may not. Valid until Free.
  virtual std::vector<std::span<std::byte>> Room(const Allocation& /*allocation*/,
                                                 uint64_t /*bytes*/) {
    return {};
  }
  // Of the record's first `bytes`. Valid until Free.
  virtual RecordPlace Locate(const Allocation& /*allocation*/, uint64_t /*bytes*/) const {
    return {};
  }
};

}  // namespace kvstow
