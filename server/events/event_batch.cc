#include "server/events/event_batch.h"

#include <utility>

namespace kvstow {
namespace {

constexpr size_t kMostBlocks = 512;
constexpr size_t kMostTokenIds = 8192;

// Whether `event` goes on where `last` ends.
bool Continues(const KvEvent& last, const StoreEvent& event, const std::string& medium) {
  return last.kind == KvEvent::Kind::kStored && event.first_position != 0 &&
         last.blocks.back() == event.parent && last.medium == medium &&
         last.block_tokens == event.block_tokens &&
         last.token_ids.empty() == (event.token_ids == nullptr);
}

}  // namespace

absl::string_view MediumOf(TierKind tier) { return tier == TierKind::kGpu ? "GPU" : "CPU"; }

void EventBatch::Clear() {
  events_.clear();
  blocks_ = token_ids_ = 0;
}

bool EventBatch::full() const { return blocks_ >= kMostBlocks || token_ids_ >= kMostTokenIds; }

std::string EventBatch::MediumAt(TierKind tier) const {
  return medium_.empty() ? std::string(MediumOf(tier)) : medium_;
}

void EventBatch::Add(const StoreEvent& event) {
  switch (event.kind) {
    case StoreEvent::Kind::kStored:
      AddStored(event);
      return;
    case StoreEvent::Kind::kRemoved:
      AddRemoved(event.key, MediumAt(event.tier));
      return;
    case StoreEvent::Kind::kMoved:
      if (!medium_.empty()) return;
      // In this order: at no time it seems to be gone.
      AddStored(event);
      AddRemoved(event.key, MediumAt(event.from));
      return;
  }
}

void EventBatch::AddStored(const StoreEvent& event) {
  const std::string medium = MediumAt(event.tier);
  if (events_.empty() || !Continues(events_.back(), event, medium)) {
    events_.push_back({.kind = KvEvent::Kind::kStored,
                       .blocks = {},
                       .has_parent = event.first_position != 0,
                       .parent = event.parent,
                       .token_ids = {},
                       .block_tokens = event.block_tokens,
                       .medium = medium});
  }
  KvEvent& last = events_.back();
  last.blocks.push_back(event.key);
  ++blocks_;
  if (event.token_ids == nullptr) return;
  last.token_ids.insert(last.token_ids.end(), event.token_ids->begin(), event.token_ids->end());
  token_ids_ += event.token_ids->size();
}

void EventBatch::AddRemoved(const BlockKey& key, std::string medium) {
  if (events_.empty() || events_.back().kind != KvEvent::Kind::kRemoved ||
      events_.back().medium != medium) {
    events_.push_back({.kind = KvEvent::Kind::kRemoved,
                       .blocks = {},
                       .has_parent = false,
                       .parent = {},
                       .token_ids = {},
                       .block_tokens = 0,
                       .medium = std::move(medium)});
  }
  events_.back().blocks.push_back(key);
  ++blocks_;
}

}  // namespace kvstow
