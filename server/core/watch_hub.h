// Hands the store's events to watchers, of one space, and to followers, of all that a tenant has.
// Each has a bounded queue; one that falls behind loses events, is told how many, and never holds
// up the store.
//
// Thread-safe.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <string>
#include <vector>

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
    Watcher(WatchHub* hub, size_t queue_limit, bool follows)
        : hub_(hub), queue_limit_(queue_limit), follows_(follows) {}
    WatchHub* const hub_;
    const size_t queue_limit_;
    const bool follows_;
    std::deque<StoreEvent> queue_;  // guarded by hub_->mu_
    uint64_t lost_ = 0;
    absl::AnyInvocable<void()> wake_;
  };

  // Blocks of the space that become visible or go, without their token ids. Ends when the pointer
  // is let go and Unwatch was called.
  std::shared_ptr<Watcher> Watch(SpaceId space);
  void Unwatch(SpaceId space, const std::shared_ptr<Watcher>& watcher);

  // Everything that happens in the spaces of a tenant; with a `model`, in those of that model only.
  // Ends when the pointer is let go and Unfollow was called.
  std::shared_ptr<Watcher> Follow(TenantId tenant, std::string model, size_t queue_limit);
  void Unfollow(const std::shared_ptr<Watcher>& follower);

  // Before anything happens in the space; again does nothing.
  void AddSpace(SpaceId space, TenantId tenant, const std::string& model);
  // Whether token ids of the space's blocks would reach anybody.
  bool IsFollowed(SpaceId space) const;

  // The store's listener.
  void OnEvent(const StoreEvent& event);

 private:
  struct Owner {
    TenantId tenant{};
    std::string model;
  };
  struct Following {
    TenantId tenant{};
    std::string model;  // empty: all
    std::shared_ptr<Watcher> follower;
    bool Covers(const Owner& owner) const {
      return tenant == owner.tenant && (model.empty() || model == owner.model);
    }
  };
  void Deliver(const StoreEvent& event, Watcher* watcher) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  const size_t queue_limit_;  // of a watcher
  mutable absl::Mutex mu_;
  absl::flat_hash_map<SpaceId, std::vector<std::shared_ptr<Watcher>>> watchers_
      ABSL_GUARDED_BY(mu_);  // followers, too
  absl::flat_hash_map<SpaceId, Owner> spaces_ ABSL_GUARDED_BY(mu_);
  std::vector<Following> followings_ ABSL_GUARDED_BY(mu_);
};

}  // namespace kvstow
