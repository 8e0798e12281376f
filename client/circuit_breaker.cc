#include "client/circuit_breaker.h"

#include <algorithm>
#include <utility>

namespace kvstow::client {

CircuitBreaker::Permit::Permit(Permit&& other) noexcept
    : breaker_(std::exchange(other.breaker_, nullptr)),
      trial_(other.trial_),
      epoch_(other.epoch_) {}

CircuitBreaker::Permit::~Permit() {
  if (breaker_ != nullptr) breaker_->OnNothing(trial_, epoch_);
}

void CircuitBreaker::Permit::Success() {
  if (auto* breaker = std::exchange(breaker_, nullptr)) breaker->OnSuccess(trial_, epoch_);
}

void CircuitBreaker::Permit::Failure() {
  if (auto* breaker = std::exchange(breaker_, nullptr)) breaker->OnFailure(trial_, epoch_);
}

CircuitBreaker::CircuitBreaker(Options options, Now now)
    : options_(options), now_(std::move(now)), cooldown_(options.cooldown) {}

CircuitBreaker::Permit CircuitBreaker::Admit() {
  absl::MutexLock lock(&mu_);
  if (!open_) return Permit(this, /*trial=*/false, epoch_);
  if (trial_running_ || now_() < retry_at_) return Permit();
  trial_running_ = true;
  return Permit(this, /*trial=*/true, epoch_);
}

void CircuitBreaker::Reset() {
  absl::MutexLock lock(&mu_);
  Close();
}

bool CircuitBreaker::open() const {
  absl::MutexLock lock(&mu_);
  return open_;
}

void CircuitBreaker::OnSuccess(bool trial, uint64_t epoch) {
  absl::MutexLock lock(&mu_);
  if (epoch != epoch_) return;
  if (trial) {
    Close();
  } else {
    failures_ = 0;
  }
}

void CircuitBreaker::OnFailure(bool trial, uint64_t epoch) {
  absl::MutexLock lock(&mu_);
  if (epoch != epoch_ || options_.failures <= 0) return;
  if (trial) {
    Open(std::min(cooldown_ * 2, options_.max_cooldown));
  } else if (++failures_ >= options_.failures) {
    Open(options_.cooldown);
  }
}

void CircuitBreaker::OnNothing(bool trial, uint64_t epoch) {
  absl::MutexLock lock(&mu_);
  if (epoch == epoch_ && trial) trial_running_ = false;
}

void CircuitBreaker::Close() {
  ++epoch_;
  open_ = false;
  trial_running_ = false;
  failures_ = 0;
  cooldown_ = options_.cooldown;
}

void CircuitBreaker::Open(absl::Duration cooldown) {
  ++epoch_;
  open_ = true;
  trial_running_ = false;
  cooldown_ = cooldown;
  retry_at_ = now_() + absl::ToChronoNanoseconds(cooldown);
}

}  // namespace kvstow::client
