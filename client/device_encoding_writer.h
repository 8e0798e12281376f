// Has the planes of a Put encoded on the engine's own stream, many at a time, and hands them to the
// data path's writer in the order they came: while some are sent, the next are encoded.
//
// Not thread-safe.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "client/bulk_stream.h"
#include "client/kvstow/device_kv.h"
#include "client/plane_writer.h"

namespace kvstow::client {

class DeviceEncodingWriter : public PlaneWriter {
 public:
  // All outlive it. `kv` encodes; `first_position`: of block 0, of which each has `layout`'s
  // tokens.
  DeviceEncodingWriter(std::unique_ptr<PlaneWriter> path, DeviceKv* kv, const PlaneLayout* layout,
                       uint64_t first_position, const BulkStream::Terms* terms);

  // Nothing that is in host memory comes here.
  bool Append(const PlaneSpec& plane, uint32_t block, std::span<const std::byte> bytes,
              const v1::PlaneDeclaration* declared = nullptr) override;
  bool Gather(const PlaneSpec& plane, uint32_t block, GatherToHost to_host) override;
  bool Flush() override;

  uint64_t bytes_sent() const override { return path_->bytes_sent(); }
  absl::Status problem() const override { return problem_.ok() ? path_->problem() : problem_; }
  // For which it only waited for the engine's stream.
  absl::Duration waited() const override { return waited_ + path_->waited(); }

 private:
  // Planes on the engine's stream.
  struct Batch {
    std::vector<PlaneToEncode> planes;
    uint64_t mark = 0;
  };
  // Awaits what is being encoded, has the next encoded, and hands on what came back.
  bool Advance();
  // What came back, if anything was on its way.
  struct Landed {
    std::vector<PlaneToEncode> planes;
    std::vector<PlaneEncodedOnDevice> encoded;  // one each
  };
  absl::StatusOr<Landed> Land();
  absl::Status Launch();

  const std::unique_ptr<PlaneWriter> path_;
  DeviceKv& kv_;
  const PlaneLayout& layout_;
  const uint64_t first_position_;
  const BulkStream::Terms& terms_;
  std::vector<PlaneToEncode> waiting_;
  size_t waiting_bytes_ = 0;  // raw
  std::optional<Batch> flying_;
  absl::Status problem_;
  absl::Duration waited_;
};

}  // namespace kvstow::client
