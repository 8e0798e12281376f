// A Put behind one that was given up just before.
#pragma once

#include <algorithm>
#include <functional>

#include "kvstow/client.h"

namespace kvstow::testing {

// Cancelling travels, and a daemon lets go of a call's blocks one by one: some may still be held by
// the call before. Puts until none is. The answer is the last call's, `stored` and `sent_bytes`
// those of all calls.
inline PutBlocksResult PutPastPending(const std::function<PutBlocksResult()>& put) {
  PutBlocksResult all = put();
  while (all.status.ok() && std::any_of(all.blocks.begin(), all.blocks.end(),
                                        [](const auto& b) { return b.refusal == "pending"; })) {
    PutBlocksResult next = put();
    next.stored += all.stored;
    next.sent_bytes += all.sent_bytes;
    all = std::move(next);
  }
  return all;
}

}  // namespace kvstow::testing
