#include "server/core/byte_budget.h"

#include <utility>

namespace kvstow {

bool ByteBudget::TryTake(uint64_t bytes) {
  absl::MutexLock lock(&mu_);
  if (used_ != 0 && used_ + bytes > limit_) return false;
  used_ += bytes;
  return true;
}

void ByteBudget::Take(uint64_t bytes) {
  absl::MutexLock lock(&mu_);
  used_ += bytes;
}

void ByteBudget::Give(uint64_t bytes) {
  std::vector<absl::AnyInvocable<void()>> resume;
  {
    absl::MutexLock lock(&mu_);
    used_ -= bytes;
    if (used_ < limit_) resume.swap(waiting_);
  }
  for (auto& r : resume) r();
}

bool ByteBudget::below_limit() const {
  absl::MutexLock lock(&mu_);
  return used_ < limit_;
}

uint64_t ByteBudget::used() const {
  absl::MutexLock lock(&mu_);
  return used_;
}

void ByteBudget::WhenBelowLimit(absl::AnyInvocable<void()> resume) {
  {
    absl::MutexLock lock(&mu_);
    if (used_ >= limit_) {
      waiting_.push_back(std::move(resume));
      return;
    }
  }
  resume();
}

}  // namespace kvstow
