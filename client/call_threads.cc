#include "client/call_threads.h"

#include <utility>

namespace kvstow::client {

CallThreads::~CallThreads() {
  std::vector<std::thread> threads;
  {
    absl::MutexLock lock(&mu_);
    stop_ = true;
    threads.swap(threads_);
  }
  for (std::thread& thread : threads) thread.join();
}

std::optional<CallThreads::Ticket> CallThreads::Run(std::function<void()> call) {
  absl::MutexLock lock(&mu_);
  const bool served = idle_ > waiting_.size() || threads_.size() < max_threads_;
  if (!served && waiting_.size() >= max_waiting_) return std::nullopt;
  const Ticket ticket = next_ticket_++;
  waiting_.emplace_back(ticket, std::move(call));
  if (idle_ < waiting_.size() && threads_.size() < max_threads_) {
    threads_.emplace_back([this] { Loop(); });
  }
  return ticket;
}

bool CallThreads::Withdraw(Ticket ticket) {
  absl::MutexLock lock(&mu_);
  return std::erase_if(waiting_, [&](const auto& call) { return call.first == ticket; }) > 0;
}

void CallThreads::Loop() {
  for (;;) {
    std::function<void()> call;
    {
      absl::MutexLock lock(&mu_);
      const auto something = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
        return stop_ || !waiting_.empty();
      };
      ++idle_;
      mu_.Await(absl::Condition(&something));
      --idle_;
      if (waiting_.empty()) return;
      call = std::move(waiting_.front().second);
      waiting_.pop_front();
    }
    call();
  }
}

}  // namespace kvstow::client
