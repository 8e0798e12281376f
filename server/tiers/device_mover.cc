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

}  // namespace

void DeviceMover::Move(std::vector<RecordMove> moves, Done done) {
  executor_.Schedule(WorkPriority::kBackground,
                     [this, moves = std::move(moves), done = std::move(done)]() mutable {
                       std::vector<gpu::Copy> copies;
                       for (const RecordMove& move : moves) AddCopies(move, &copies);
                       const absl::Status status = device_.CopyAll(copies);
                       std::move(done)(std::vector<absl::Status>(moves.size(), status));
                     });
}

}  // namespace kvstow
