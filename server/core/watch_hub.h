// Hands the store's events to watchers. Each has a bounded queue; one that falls behind loses
// events, is told how many, and never holds up the store.
//
// Thread-safe.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <optional>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/functional/any_invocable.h"
#include "absl/synchronization/mutex.h"
#include "server/core/store.h"

namespace kvstow {

class WatchHub {
 public:
  explicit WatchHub(size_t queue_limit) : queue_limit_(queue_limit) {}

  class Watcher {
   public:
    struct Item {
      uint64_t lost = 0;  // events lost before `event`
      std::optional<StoreEvent> event;
    };
    // The oldest event, or what was lost; nothing when there is neither: then `wake` is called,
    // once, when there is. Pass null to only look. `wake` runs under the hub's lock and must not
    // call back.
    std::optional<Item> Next(absl::AnyInvocable<void()> wake);

   private:
    friend class WatchHub;
    explicit Watcher(WatchHub* hub) : hub_(hub) {}
    WatchHub* const hub_;
    std::deque<StoreEvent> queue_;  // guarded by hub_->mu_
    uint64_t lost_ = 0;
    absl::AnyInvocable<void()> wake_;
  };

  // Ends when the pointer is let go and Unwatch was called.
  std::shared_ptr<Watcher> Watch(SpaceId space);
  void Unwatch(SpaceId space, const std::shared_ptr<Watcher>& watcher);

  // The store's listener.
  void OnEvent(const StoreEvent& event);

 private:
  const size_t queue_limit_;
  absl::Mutex mu_;
  absl::flat_hash_map<SpaceId, std::vector<std::shared_ptr<Watcher>>> watchers_
      ABSL_GUARDED_BY(mu_);
};

}  // namespace kvstow
