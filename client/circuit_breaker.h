// Circuit breaker: after enough failures in a row calls are refused at once, so that a daemon that
// hangs costs its deadline a few times and not with every request. After a cooldown one trial call
// goes through; its success closes the breaker, its failure doubles the cooldown.
//
// Thread-safe. Reads time from the clock it is given only.
#pragma once

#include <chrono>
#include <functional>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"

namespace kvstow::client {

class CircuitBreaker {
 public:
  using Now = std::function<std::chrono::steady_clock::time_point()>;

  struct Options {
    int failures = 3;  // in a row; 0 or less never opens
    absl::Duration cooldown = absl::Milliseconds(500);
    absl::Duration max_cooldown = absl::Seconds(30);
  };

  // Leave to make one call. Tell how it ended, once; a permit that goes without a word says nothing
  // about the daemon, and a trial that ends so leaves the next trial to the next caller.
  class Permit {
   public:
    Permit() = default;  // no leave
    Permit(Permit&& other) noexcept;
    Permit& operator=(Permit&&) = delete;
    ~Permit();

    explicit operator bool() const { return breaker_ != nullptr; }
    void Success();
    void Failure();

   private:
    friend class CircuitBreaker;
    Permit(CircuitBreaker* breaker, bool trial, uint64_t epoch)
        : breaker_(breaker), trial_(trial), epoch_(epoch) {}

    CircuitBreaker* breaker_ = nullptr;
    bool trial_ = false;
    uint64_t epoch_ = 0;
  };

  explicit CircuitBreaker(Options options, Now now = std::chrono::steady_clock::now);

  // A false permit while the breaker is open.
  Permit Admit() ABSL_LOCKS_EXCLUDED(mu_);

  // Forgets all failures: there is another daemon now. Calls still under way no longer count.
  void Reset() ABSL_LOCKS_EXCLUDED(mu_);

  bool open() const ABSL_LOCKS_EXCLUDED(mu_);

 private:
  void OnSuccess(bool trial, uint64_t epoch) ABSL_LOCKS_EXCLUDED(mu_);
  void OnFailure(bool trial, uint64_t epoch) ABSL_LOCKS_EXCLUDED(mu_);
  void OnNothing(bool trial, uint64_t epoch) ABSL_LOCKS_EXCLUDED(mu_);
  void Close() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void Open(absl::Duration cooldown) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  const Options options_;
  const Now now_;

  mutable absl::Mutex mu_;
  int failures_ ABSL_GUARDED_BY(mu_) = 0;
  bool open_ ABSL_GUARDED_BY(mu_) = false;
  bool trial_running_ ABSL_GUARDED_BY(mu_) = false;
  absl::Duration cooldown_ ABSL_GUARDED_BY(mu_);
  std::chrono::steady_clock::time_point retry_at_ ABSL_GUARDED_BY(mu_);
  // Counts Reset() and every change of open_, so that calls admitted before it have no say.
  uint64_t epoch_ ABSL_GUARDED_BY(mu_) = 0;
};

}  // namespace kvstow::client
