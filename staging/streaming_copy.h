// A copy that leaves the caches alone.
#pragma once

#include <cstddef>
#include <span>

namespace kvstow {

// memcpy for what the copying core does not look at soon: where the machine can, the bytes go to
// memory without being read into the cache first, which is a third of a copy's traffic, and without
// driving out what the core works with. Any memory; a thread that is told of the copy sees it.
// REQUIRES to.size() == from.size(), no overlap.
void StreamingCopy(std::span<const std::byte> from, std::span<std::byte> to);

}  // namespace kvstow
