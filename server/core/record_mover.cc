#include "server/core/record_mover.h"

#include <algorithm>
#include <atomic>
#include <utility>

#include "codec/scratch.h"

namespace kvstow {
namespace {

// A source that cannot be looked at where it lies is copied through a buffer of this size.
constexpr uint64_t kPieceBytes = uint64_t{1} << 20;

absl::Status Copy(const RecordMove& move) {
  Scratch<std::byte> buffer;
  for (uint64_t offset = 0; offset < move.bytes; offset += kPieceBytes) {
    const uint64_t size = std::min(kPieceBytes, move.bytes - offset);
    std::span<const std::byte> piece = move.source->View(move.from, offset, size);
    if (piece.empty()) {
      buffer.resize(size);
      if (absl::Status s = move.source->Read(move.from, offset, buffer); !s.ok()) return s;
      piece = buffer;
    }
    absl::Status s = move.destination->Write(move.to, offset, piece);
    if (!s.ok()) return s;
  }
  return absl::OkStatus();
}

}  // namespace

struct ExecutorMover::Batch {
  Batch(std::vector<RecordMove> m, Done d)
      : moves(std::move(m)), done(std::move(d)), results(moves.size()), left(moves.size()) {}
  std::vector<RecordMove> moves;
  Done done;
  std::vector<absl::Status> results;
  std::atomic<size_t> left;
};

void ExecutorMover::Move(std::vector<RecordMove> moves, Done done) {
  const size_t count = moves.size();
  auto batch = std::make_shared<Batch>(std::move(moves), std::move(done));
  for (size_t i = 0; i < count; ++i) {
    // A record each, so that what a request waits for gets its turn between them.
    executor_->Schedule(WorkPriority::kBackground, [batch, i] {
      batch->results[i] = Copy(batch->moves[i]);
      if (batch->left.fetch_sub(1, std::memory_order_acq_rel) > 1) return;
      std::move(batch->done)(batch->results);
    });
  }
}

}  // namespace kvstow
