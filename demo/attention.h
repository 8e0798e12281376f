// What compression does to the one thing that KV is for: the attention output of the queries that
// follow.
#pragma once

#include <vector>

#include "demo/trace.h"

namespace kvstow {

// Restored planes of the shared prefix, FP16 [layer][block] -> C order [heads, block tokens, d].
struct RestoredPrefix {
  std::vector<std::vector<std::vector<std::byte>>> k, v;
};

// Causal softmax attention of branch's last queries over (prefix, exact tail), once with the exact
// and once with the restored prefix: sum of squared differences of the outputs over the sum of
// squares of the exact ones, over all layers and heads. Double precision.
double AttentionOutputError(const DemoTrace& trace, const RestoredPrefix& restored);

// The same sums of the prefix itself: NMSE of K or V of one block over all layers.
double BlockNmse(const DemoTrace& trace, const RestoredPrefix& restored, PlaneKind kind,
                 size_t block);

}  // namespace kvstow
