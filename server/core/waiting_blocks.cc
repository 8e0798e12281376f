#include "server/core/waiting_blocks.h"

namespace kvstow {

void BlockNews::Merge(const BlockNews& other) {
  if (other.k.centred_nmse > k.centred_nmse) k = other.k;
  if (other.v.nmse > v.nmse) v = other.v;
  if (token_ids == nullptr) token_ids = other.token_ids;
}

void WaitingBlocks::Add(Block* block, absl::Time now, const BlockNews& news) {
  const auto [it, added] = blocks_.try_emplace(block);
  Waiting& waiting = it->second;
  if (!added) {
    waiting.news.Merge(news);
    return;
  }
  waiting = {.since = now, .sequence = next_sequence_++, .news = news};
  by_age_.emplace(now, waiting.sequence, block);
}

BlockNews WaitingBlocks::Remove(Block* block) {
  const auto it = blocks_.find(block);
  const Waiting waiting = it->second;
  by_age_.erase({waiting.since, waiting.sequence, block});
  blocks_.erase(it);
  return waiting.news;
}

Block* WaitingBlocks::Oldest(absl::Time until) const {
  if (by_age_.empty() || std::get<0>(*by_age_.begin()) > until) return nullptr;
  return std::get<2>(*by_age_.begin());
}

}  // namespace kvstow
