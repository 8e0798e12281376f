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
    item.event = std::move(queue_.front());
    queue_.pop_front();
  }
  if (item.lost > 0 || item.event) return item;
  wake_ = std::move(wake);
  return std::nullopt;
}

std::shared_ptr<WatchHub::Watcher> WatchHub::Watch(SpaceId space) {
  std::shared_ptr<Watcher> watcher(new Watcher(this, queue_limit_, false));
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

std::shared_ptr<WatchHub::Watcher> WatchHub::Follow(TenantId tenant, std::string model,
                                                    size_t queue_limit) {
  std::shared_ptr<Watcher> follower(new Watcher(this, queue_limit, true));
  absl::MutexLock lock(&mu_);
  followings_.push_back({tenant, std::move(model), follower});
  for (const auto& [space, owner] : spaces_) {
    if (followings_.back().Covers(owner)) watchers_[space].push_back(follower);
  }
  return follower;
}

void WatchHub::Unfollow(const std::shared_ptr<Watcher>& follower) {
  absl::AnyInvocable<void()> wake;  // destroyed outside the lock
  absl::MutexLock lock(&mu_);
  std::erase_if(followings_, [&](const Following& f) { return f.follower == follower; });
  absl::erase_if(watchers_, [&](auto& entry) {
    std::erase(entry.second, follower);
    return entry.second.empty();
  });
  wake = std::move(follower->wake_);
}

void WatchHub::AddSpace(SpaceId space, TenantId tenant, const std::string& model) {
  absl::MutexLock lock(&mu_);
  const auto [it, added] = spaces_.try_emplace(space, Owner{tenant, model});
  if (!added) return;
  for (const Following& following : followings_) {
    if (following.Covers(it->second)) watchers_[space].push_back(following.follower);
  }
}

bool WatchHub::IsFollowed(SpaceId space) const {
  absl::MutexLock lock(&mu_);
  const auto it = watchers_.find(space);
  return it != watchers_.end() && std::any_of(it->second.begin(), it->second.end(),
                                              [](const auto& w) { return w->follows_; });
}

void WatchHub::OnEvent(const StoreEvent& event) {
  absl::MutexLock lock(&mu_);
  auto it = watchers_.find(event.space);
  if (it == watchers_.end()) return;
  for (const auto& watcher : it->second) Deliver(event, watcher.get());
}

void WatchHub::Deliver(const StoreEvent& event, Watcher* watcher) {
  if (!watcher->follows_ && event.kind == StoreEvent::Kind::kMoved) return;
  if (watcher->queue_.size() >= watcher->queue_limit_) {
    watcher->queue_.pop_front();
    ++watcher->lost_;
  }
  watcher->queue_.push_back(event);
  if (!watcher->follows_) watcher->queue_.back().token_ids = nullptr;
  if (watcher->wake_) std::exchange(watcher->wake_, nullptr)();
}

}  // namespace kvstow
