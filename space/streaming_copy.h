// Copies KV to where nobody will look at it soon.
#pragma once

#include <cstddef>

namespace kvstow {

// As memcpy. Writes past the caches where the processor can: the lines written to are not read
// first, which is a third of what a copy to cold memory moves, and what the caches hold (messages
// on their way) stays there.
void StreamingCopy(std::byte* to, const std::byte* from, size_t bytes);

}  // namespace kvstow
