// Copies as ExecutorMover does, and says that it failed when a test wants that. Thread-safe.
#pragma once

#include <atomic>
#include <utility>
#include <vector>

#include "server/core/record_mover.h"

namespace kvstow {

class FlakyMover : public RecordMover {
 public:
  explicit FlakyMover(Executor* executor) : mover_(executor) {}

  // As long as this is set, every second copy of those that end fails, the first included.
  void SetFailing(bool failing) { failing_ = failing; }

  void Move(std::vector<RecordMove> moves, Done done) override {
    mover_.Move(std::move(moves),
                [this, done = std::move(done)](std::span<const absl::Status> results) mutable {
                  std::vector<absl::Status> told(results.begin(), results.end());
                  for (absl::Status& status : told) {
                    if (failing_ && ended_++ % 2 == 0)
                      status = absl::InternalError("as the test wants it");
                  }
                  std::move(done)(told);
                });
  }

 private:
  ExecutorMover mover_;
  std::atomic<bool> failing_ = false;
  std::atomic<uint32_t> ended_ = 0;
};

}  // namespace kvstow
