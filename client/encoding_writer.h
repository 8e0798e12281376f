// Encodes the planes of a Put in this process and hands them to the data path's writer in the order
// they came. Some are encoded ahead of what was handed on, so that the coder has something to do
// while planes are gathered and sent.
//
// Not thread-safe. A plane whose coding is given up is finished unseen, in memory of its own.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "client/deadline.h"
#include "client/kvstow/coding.h"
#include "client/plane_writer.h"

namespace kvstow::client {

class EncodingWriter : public PlaneWriter {
 public:
  // All outlive it. `positions` are those of the call's blocks.
  EncodingWriter(std::unique_ptr<PlaneWriter> path, SpaceCoder* coder, const PlaneLayout* layout,
                 std::vector<std::shared_ptr<const SpaceCoder::Positions>> positions,
                 const Deadline& deadline);
  ~EncodingWriter() override;

  bool Append(const PlaneSpec& plane, uint32_t block, std::span<const std::byte> bytes,
              const v1::PlaneDeclaration* declared = nullptr) override;
  bool Fill(const PlaneSpec& plane, uint32_t block, FillPlane fill) override;
  bool Flush() override;

  uint64_t bytes_sent() const override { return path_->bytes_sent(); }
  // Why one of them returned false, when it was not the stream.
  absl::Status problem() const override { return problem_; }
  // For which it only waited for the coder.
  absl::Duration waited() const override { return waited_; }

 private:
  struct Pending;

  void Start(std::shared_ptr<Pending> pending);
  // Hands planes on until no more than so many raw bytes are being encoded.
  bool Drain(size_t bytes_left);
  bool SendFront();

  const std::unique_ptr<PlaneWriter> path_;
  SpaceCoder& coder_;
  const PlaneLayout& layout_;
  const std::vector<std::shared_ptr<const SpaceCoder::Positions>> positions_;
  const Deadline deadline_;
  std::deque<std::shared_ptr<Pending>> pending_;
  size_t pending_bytes_ = 0;  // raw
  absl::Status problem_;
  absl::Duration waited_;
};

}  // namespace kvstow::client
