#include "server/core/tier_queue.h"

namespace kvstow {

void TierQueue::Push(Item item) { waiting_.Push(EntryOf(item)); }

void TierQueue::Remove(Item item) {
  Record& record = item.block->records()[item.slot];
  if (record.queue_position == kNotQueued) return;
  (record.set_aside ? aside_ : waiting_).RemoveAt(record.queue_position);
  record.set_aside = false;
}

void TierQueue::Cool(Item item) {
  const Record& record = item.block->records()[item.slot];
  if (record.queue_position == kNotQueued || record.set_aside) return;
  waiting_.UpdateAt(record.queue_position, EntryOf(item));
}

std::optional<TierQueue::Item> TierQueue::Coldest() {
  while (!waiting_.empty()) {
    const Item item = waiting_.top().item();
    const Entry now = EntryOf(item);
    if (waiting_.top().key == now.key) return item;
    waiting_.UpdateAt(0, now);
  }
  return std::nullopt;
}

void TierQueue::SetAside(Item item) {
  Remove(item);
  aside_.Push(EntryOf(item));
  item.block->records()[item.slot].set_aside = true;
}

void TierQueue::BringBack() {
  while (!aside_.empty()) {
    const Item item = aside_.top().item();
    Remove(item);
    Push(item);
  }
}

}  // namespace kvstow
