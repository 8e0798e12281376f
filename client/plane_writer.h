// Where the planes of a Put go: each data path has its own.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/time/time.h"
#include "kvstow/v1/kvstow.pb.h"
#include "space/plane_layout.h"

namespace kvstow::client {

// Not thread-safe.
class PlaneWriter {
 public:
  virtual ~PlaneWriter() = default;

  // Takes one whole plane, by copy, in the order of the wire contract; `declared` where `bytes` are
  // its encoded form. False once the stream is broken, or where problem() says what else is.
  virtual bool Append(const PlaneSpec& plane, uint32_t block, std::span<const std::byte> bytes,
                      const v1::PlaneDeclaration* declared = nullptr) = 0;
  // The same for a plane that `fill` writes, raw_bytes long, once, where there is room for it; when
  // `fill` returns false nothing is taken and nor does this.
  using FillPlane = absl::FunctionRef<bool(std::span<std::byte> to)>;
  virtual bool Fill(const PlaneSpec& plane, uint32_t block, FillPlane fill) {
    std::vector<std::byte> bytes(plane.raw_bytes);
    return fill(bytes) && Append(plane, block, bytes);
  }
  // The same for a plane in the engine's device memory; `to_host` gathers it, where it is to leave
  // through the host.
  using GatherToHost = absl::FunctionRef<absl::Status(std::span<std::byte> to)>;
  virtual bool Gather(const PlaneSpec& plane, uint32_t block, GatherToHost to_host);
  // Sends what was taken and not sent yet.
  virtual bool Flush() = 0;

  virtual uint64_t bytes_sent() const = 0;
  virtual absl::Status problem() const { return gathering_; }
  // Time that was nobody's but this process's own.
  virtual absl::Duration waited() const { return absl::ZeroDuration(); }

 private:
  absl::Status gathering_;
};

inline bool PlaneWriter::Gather(const PlaneSpec& plane, uint32_t block, GatherToHost to_host) {
  return Fill(plane, block, [&](std::span<std::byte> to) {
    gathering_ = to_host(to);
    return gathering_.ok();
  });
}

}  // namespace kvstow::client
