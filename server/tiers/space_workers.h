// What lanes work with: objects made for one space's layout, as many as there are lanes, each kept
// for the space that used it last and made anew for another one when none of that space is idle.
//
// Thread-safe.
#pragma once

#include <algorithm>
#include <cstddef>
#include <memory>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/functional/function_ref.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "server/core/space_context.h"

namespace kvstow {

template <typename Worker>
class SpaceWorkers {
 public:
  using Make = absl::FunctionRef<absl::StatusOr<std::unique_ptr<Worker>>(const PlaneLayout&)>;
  using Use = absl::FunctionRef<absl::Status(Worker&)>;

  explicit SpaceWorkers(size_t lanes) : entries_(lanes) {}

  // REQUIRES: no more at a time than there are lanes. The status of `make`, or of `use`.
  absl::Status With(const std::shared_ptr<const SpaceContext>& space, Make make, Use use) {
    Entry& entry = Take(*space);
    absl::Status status;
    if (entry.worker == nullptr || entry.space != space) {
      entry.worker = nullptr;  // first: its memory may be what the next one needs
      entry.space = space;
      auto made = make(space->layout());
      status = made.status();
      if (made.ok()) entry.worker = *std::move(made);
    }
    if (status.ok()) status = use(*entry.worker);
    absl::MutexLock lock(&mu_);
    entry.in_use = false;
    return status;
  }

 private:
  struct Entry {
    std::shared_ptr<const SpaceContext> space;  // whose layout `worker` borrows
    std::unique_ptr<Worker> worker;             // null before the first use, and after a failure
    bool in_use = false;
  };

  // One of the space's, if one is idle; else an unused one, else any.
  Entry& Take(const SpaceContext& space) ABSL_LOCKS_EXCLUDED(mu_) {
    absl::MutexLock lock(&mu_);
    const auto find = [this](auto suits) {
      return std::find_if(entries_.begin(), entries_.end(),
                          [&](const Entry& entry) { return !entry.in_use && suits(entry); });
    };
    auto best = find([&](const Entry& e) { return e.worker && e.space.get() == &space; });
    if (best == entries_.end()) best = find([](const Entry& e) { return e.worker == nullptr; });
    if (best == entries_.end()) best = find([](const Entry&) { return true; });
    best->in_use = true;
    return *best;
  }

  absl::Mutex mu_;
  std::vector<Entry> entries_;  // what each holds is its user's; `in_use` is guarded by mu_
};

}  // namespace kvstow
