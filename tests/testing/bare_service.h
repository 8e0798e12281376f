// The limits of the portable data path: gRPC calls that carry bytes and do nothing else, with the
// same messages, slices and settings as kvstow's own, to a process of its own as the daemon is one.
#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <string>

namespace kvstow::testing {

inline constexpr size_t kBareChunkBytes = size_t{1} << 20;

// Serves the bare calls at a Unix socket; never returns.
[[noreturn]] void ServeBare(const std::string& socket);

// What a bare stream moves.
enum class BareBytes {
  kOneChunk,  // the same chunk over and over; what is received is dropped
  kMemory,    // as many different bytes as the stream has; what is received is copied to its place
  kChecked,   // the same, and the serving end computes the CRC32C of all of it, as the daemon does
};
inline constexpr size_t kBareStreamBytes = size_t{128} << 20;

// A client of the bare streams on a connection of its own. Each call moves kBareStreamBytes, or
// says that it did not.
class BareStreams {
 public:
  BareStreams(const std::string& socket, BareBytes bytes);
  ~BareStreams();
  bool To();
  bool From();

 private:
  struct State;
  const std::unique_ptr<State> state_;
};

// A client of the bare calls on a connection of its own: each call brings `request_bytes` and is
// answered with nothing.
std::function<void()> BareCaller(const std::string& socket, size_t request_bytes);

}  // namespace kvstow::testing
