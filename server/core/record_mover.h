// Copies records from one tier to another. The store decides what moves where, has taken the room,
// and makes the copy the record when it is there; a mover only copies. So a device's mover can hand
// a whole batch to its copy engines and report when they are done.
//
// Thread-safe.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "server/core/executor.h"
#include "server/core/tier.h"

namespace kvstow {

struct RecordMove {
  const Tier* source = nullptr;
  Allocation from;
  Tier* destination = nullptr;
  Allocation to;
  uint64_t bytes = 0;  // both allocations hold as many
};

class RecordMover {
 public:
  // One status a move, in the order of the moves. What is not OK has not been copied, or not whole.
  using Done = absl::AnyInvocable<void(std::span<const absl::Status> results) &&>;

  virtual ~RecordMover() = default;
  // Begins to copy and returns. Calls `done` once, when nothing of this batch touches either
  // allocation any more: on any thread, never on the caller's stack. Until then nobody writes or
  // frees the allocations; others may read the source. REQUIRES at least one move.
  virtual void Move(std::vector<RecordMove> moves, Done done) = 0;
};

// Copies by Tier::View, Read and Write, each record a piece of background work.
class ExecutorMover final : public RecordMover {
 public:
  // `executor` outlives it.
  explicit ExecutorMover(Executor* executor) : executor_(executor) {}
  void Move(std::vector<RecordMove> moves, Done done) override;

 private:
  struct Batch;
  Executor* const executor_;
};

}  // namespace kvstow
