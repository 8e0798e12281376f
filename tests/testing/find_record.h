// Where a daemon's tier has the record of a block. That is the store's choice: a record's head
// tells which it is.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "codec/record.h"
#include "server/core/tier.h"

namespace kvstow::testing {

// Of the block at this position, whole pages in one run; looks at the tier's first pages only.
inline std::optional<Allocation> FindRecord(const Tier& tier, uint64_t first_position) {
  constexpr uint32_t kPages = 4096;
  std::vector<std::byte> prefix(4096);
  for (uint32_t page = 0; page < kPages; ++page) {
    if (!tier.Read({{page, 1}}, 0, prefix).ok()) break;
    const auto index = RecordIndex::Parse(prefix);
    if (!index.ok() || index->header().first_position != first_position) continue;
    const auto pages = static_cast<uint32_t>(tier.PhysicalBytes(index->header().record_bytes) /
                                             tier.PhysicalBytes(1));
    return Allocation{{page, pages}};
  }
  return std::nullopt;
}

}  // namespace kvstow::testing
