// A space as the daemon of one session knows it.
#pragma once

#include <cstdint>
#include <string>

namespace kvstow::client {

// What every call of a session carries.
struct SpaceHandle {
  std::string session_id;
  uint64_t session_generation = 0;
  uint64_t space = 0;
  // Of the daemon; never 0.
  uint32_t max_keys_per_lookup = 0;
  uint32_t max_blocks_per_put = 0;
  uint32_t max_blocks_per_get = 0;
  uint32_t max_chunk_bytes = 0;
};

}  // namespace kvstow::client
