#include "server/tiers/device_mover.h"

#include <algorithm>
#include <utility>

#include "server/tiers/paged_tier.h"

namespace kvstow {
namespace {

// A record's pieces at both ends need not be cut at the same places.
void AddCopies(const RecordMove& move, std::vector<gpu::Copy>* copies) {
  auto from = static_cast<const PagedTier*>(move.source)->Pieces(move.from, move.bytes);
  auto to = static_cast<const PagedTier*>(move.destination)->Pieces(move.to, move.bytes);
  for (size_t f = 0, t = 0; f < from.size();) {
    const size_t n = std::min(from[f].size(), to[t].size());
    copies->push_back({to[t].data(), from[f].data(), n});
    from[f] = from[f].subspan(n);
    to[t] = to[t].subspan(n);
    if (from[f].empty()) ++f;
    if (to[t].empty()) ++t;
  }
}

void KeepHead(const RecordMove& move) {
  const uint64_t bytes = std::min(move.bytes, PagedTier::kPageBytes);
  const auto head = move.source->View(move.from, 0, bytes);
  if (!head.empty()) static_cast<PagedTier*>(move.destination)->KeepHead(move.to, head);
}

}  // namespace

void DeviceMover::Move(std::vector<RecordMove> moves, Done done) {
  {
    absl::MutexLock lock(&mu_);
    waiting_.push_back({std::move(moves), std::move(done)});
    if (std::exchange(running_, true)) return;
  }
  executor_.Schedule(WorkPriority::kBackground, [this] { RunNext(); });
}

void DeviceMover::RunNext() {
  Batch batch;
  {
    absl::MutexLock lock(&mu_);
    batch = std::move(waiting_.front());
    waiting_.pop_front();
  }
  std::vector<gpu::Copy> copies;
  for (const RecordMove& move : batch.moves) AddCopies(move, &copies);
  const absl::Status status = device_.CopyAll(copies);
  if (status.ok()) std::for_each(batch.moves.begin(), batch.moves.end(), KeepHead);
  bool more;
  {
    absl::MutexLock lock(&mu_);
    more = running_ = !waiting_.empty();
  }
  // A piece of work of its own, so that what a request waits for goes between; and before `done`,
  // after which this object may be gone.
  if (more) executor_.Schedule(WorkPriority::kBackground, [this] { RunNext(); });
  std::move(batch.done)(std::vector<absl::Status>(batch.moves.size(), status));
}

}  // namespace kvstow
