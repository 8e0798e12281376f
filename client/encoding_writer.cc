#include "client/encoding_writer.h"

#include <atomic>
#include <cstring>
#include <utility>

#include "absl/synchronization/notification.h"
#include "client/plane_declaration.h"
#include "client/stopwatch.h"

namespace kvstow::client {
namespace {

// How much raw KV may be on its way through the coder: enough to keep its threads busy, little
// enough to be given up in a moment.
constexpr size_t kAheadBytes = size_t{16} << 20;

}  // namespace

struct EncodingWriter::Pending {
  const PlaneSpec* plane = nullptr;
  uint32_t block = 0;
  std::vector<std::byte> values;
  SpaceCoder::EncodeJob job;
  std::atomic<bool> unwanted{false};
  absl::Status status;  // once encoded
  absl::Notification encoded;
};

EncodingWriter::EncodingWriter(std::unique_ptr<PlaneWriter> path, SpaceCoder* coder,
                               const PlaneLayout* layout,
                               std::vector<std::shared_ptr<const SpaceCoder::Positions>> positions,
                               const Deadline& deadline)
    : path_(std::move(path)),
      coder_(*coder),
      layout_(*layout),
      positions_(std::move(positions)),
      deadline_(deadline) {}

EncodingWriter::~EncodingWriter() {
  for (const auto& pending : pending_) pending->unwanted = true;
}

bool EncodingWriter::Append(const PlaneSpec& plane, uint32_t block,
                            std::span<const std::byte> bytes, const v1::PlaneDeclaration*) {
  return Fill(plane, block, [bytes](std::span<std::byte> to) {
    std::memcpy(to.data(), bytes.data(), bytes.size());
    return true;
  });
}

bool EncodingWriter::Fill(const PlaneSpec& plane, uint32_t block, FillPlane fill) {
  if (!Drain(plane.raw_bytes < kAheadBytes ? kAheadBytes - plane.raw_bytes : 0)) return false;
  auto pending = std::make_shared<Pending>();
  pending->plane = &plane;
  pending->block = block;
  pending->values.resize(plane.raw_bytes);
  if (!fill(pending->values)) return false;
  Start(std::move(pending));
  return true;
}

void EncodingWriter::Start(std::shared_ptr<Pending> pending) {
  SpaceCoder::EncodeJob& job = pending->job;
  job.plane = static_cast<size_t>(pending->plane - layout_.planes().data());
  job.positions = positions_[pending->block];
  job.values = pending->values;
  job.unwanted = &pending->unwanted;
  pending_bytes_ += pending->values.size();
  pending_.push_back(pending);
  coder_.Encode(&job, [pending](absl::Status status) {
    pending->status = std::move(status);
    pending->encoded.Notify();
  });
}

bool EncodingWriter::SendFront() {
  const std::shared_ptr<Pending> front = std::move(pending_.front());
  pending_.pop_front();
  pending_bytes_ -= front->values.size();
  {
    const Stopwatch stopwatch(&waited_);
    if (!front->encoded.WaitForNotificationWithTimeout(deadline_.remaining())) {
      front->unwanted = true;
      problem_ = absl::DeadlineExceededError("Put ran out of time for encoding");
      return false;
    }
  }
  problem_ = front->status;
  if (!problem_.ok()) return false;
  const v1::PlaneDeclaration declared = DeclarationOf(front->job.crc32c, front->job.tiles);
  return path_->Append(*front->plane, front->block, front->job.bytes, &declared);
}

bool EncodingWriter::Drain(size_t bytes_left) {
  while (pending_bytes_ > bytes_left ||
         (!pending_.empty() && pending_.front()->encoded.HasBeenNotified())) {
    if (!SendFront()) return false;
  }
  return true;
}

bool EncodingWriter::Flush() { return Drain(0) && path_->Flush(); }

}  // namespace kvstow::client
