#include "server/core/watch_hub.h"

#include <algorithm>
#include <utility>

namespace kvstow {

std::optional<WatchHub::Watcher::Item> WatchHub::Watcher::Next(absl::AnyInvocable<void()> wake) {
  absl::MutexLock lock(&hub_->mu_);
  Item item;
  // Losses come first: the queue kept the newest events.
  item.lost = std::exchange(lost_, 0);
  if (!queue_.empty()) {
    item.event = queue_.front();
    queue_.pop_front();
  }
  if (item.lost > 0 || item.event) return item;
  wake_ = std::move(wake);
  return std::nullopt;
}

std::shared_ptr<WatchHub::Watcher> WatchHub::Watch(SpaceId space) {
  std::shared_ptr<Watcher> watcher(new Watcher(this));
  absl::MutexLock lock(&mu_);
  watchers_[space].push_back(watcher);
  return watcher;
}

void WatchHub::Unwatch(SpaceId space, const std::shared_ptr<Watcher>& watcher) {
  absl::AnyInvocable<void()> wake;  // destroyed outside the lock
  absl::MutexLock lock(&mu_);
  auto it = watchers_.find(space);
  if (it == watchers_.end()) return;
  std::erase(it->second, watcher);
  if (it->second.empty()) watchers_.erase(it);
  wake = std::move(watcher->wake_);
}

void WatchHub::OnEvent(const StoreEvent& event) {
  absl::MutexLock lock(&mu_);
  auto it = watchers_.find(event.space);
  if (it == watchers_.end()) return;
  for (const auto& watcher : it->second) {
    if (watcher->queue_.size() >= queue_limit_) {
      watcher->queue_.pop_front();
      ++watcher->lost_;
    }
    watcher->queue_.push_back(event);
    if (watcher->wake_) std::exchange(watcher->wake_, nullptr)();
  }
}

}  // namespace kvstow
