#include "server/core/promotion_queue.h"

#include <algorithm>
#include <iterator>

namespace kvstow {

void PromotionQueue::Add(const Candidate& candidate) {
  Remove(candidate.block, candidate.slot);
  newest_first_.push_front(candidate);
  by_record_[{candidate.block, candidate.slot}] = newest_first_.begin();
  if (newest_first_.size() <= limit_) return;
  const Candidate oldest = newest_first_.back();
  Remove(oldest.block, oldest.slot);
}

void PromotionQueue::Remove(Block* block, uint32_t slot) {
  const auto it = by_record_.find({block, slot});
  if (it == by_record_.end()) return;
  newest_first_.erase(it->second);
  by_record_.erase(it);
}

std::vector<Candidate> PromotionQueue::Newest(size_t count) const {
  const auto end = std::next(newest_first_.begin(), std::min(count, newest_first_.size()));
  return {newest_first_.begin(), end};
}

}  // namespace kvstow
