// Staging in a vector: of the host, or of a fake device, into which the host may look.
#pragma once

#include <cstddef>
#include <span>
#include <vector>

#include "server/core/staging_area.h"

namespace kvstow::testing {

class MemoryArea final : public StagingArea {
 public:
  enum class Where { kOnHost, kOnDevice };
  MemoryArea(Where where, size_t bytes) : where_(where), bytes_(bytes) {}
  std::span<std::byte> bytes() const override { return bytes_; }
  bool on_device() const override { return where_ == Where::kOnDevice; }

 private:
  const Where where_;
  mutable std::vector<std::byte> bytes_;
};

}  // namespace kvstow::testing
