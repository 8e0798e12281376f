#include "server/core/testing/memory_tier.h"

#include "server/core/testing/tier_conformance.h"

namespace kvstow {
namespace {

std::unique_ptr<Tier> CreateMemory(uint64_t capacity) {
  return std::make_unique<MemoryTier>(static_cast<uint32_t>(capacity / 1024), 1024, 100);
}

INSTANTIATE_TEST_SUITE_P(Memory, TierConformance,
                         testing::Values(TierFactory{"memory", CreateMemory}));

}  // namespace
}  // namespace kvstow
