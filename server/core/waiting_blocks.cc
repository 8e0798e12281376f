#include "server/core/waiting_blocks.h"

namespace kvstow {

void BlockQuality::Merge(const DeclaredQuality& other_k, const DeclaredQuality& other_v) {
  if (other_k.centred_nmse > k.centred_nmse) k = other_k;
  if (other_v.nmse > v.nmse) v = other_v;
}

void WaitingBlocks::Add(Block* block, absl::Time now, const DeclaredQuality& k,
                        const DeclaredQuality& v) {
  const auto [it, added] = blocks_.try_emplace(block);
  Waiting& waiting = it->second;
  if (!added) {
    waiting.quality.Merge(k, v);
    return;
  }
  waiting = {.since = now, .sequence = next_sequence_++, .quality = {k, v}};
  by_age_.emplace(now, waiting.sequence, block);
}

BlockQuality WaitingBlocks::Remove(Block* block) {
  const auto it = blocks_.find(block);
  const Waiting waiting = it->second;
  by_age_.erase({waiting.since, waiting.sequence, block});
  blocks_.erase(it);
  return waiting.quality;
}

Block* WaitingBlocks::Oldest(absl::Time until) const {
  if (by_age_.empty() || std::get<0>(*by_age_.begin()) > until) return nullptr;
  return std::get<2>(*by_age_.begin());
}

}  // namespace kvstow
