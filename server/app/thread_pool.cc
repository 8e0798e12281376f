#include "server/app/thread_pool.h"

#include <sys/resource.h>
#include <unistd.h>

#include <utility>

namespace kvstow {

namespace {

// Of this thread, which Linux counts as a process here. Where it is refused the thread is as
// before.
void AddNiceness(int niceness) {
  if (niceness == 0) return;
  const auto thread = static_cast<id_t>(gettid());
  setpriority(PRIO_PROCESS, thread, getpriority(PRIO_PROCESS, thread) + niceness);
}

}  // namespace

ThreadPool::ThreadPool(size_t threads, int niceness) {
  threads_.reserve(threads);
  for (size_t i = 0; i < threads; ++i) threads_.emplace_back([this, niceness] { Run(niceness); });
}

ThreadPool::~ThreadPool() {
  {
    absl::MutexLock lock(&mu_);
    stopping_ = true;
  }
  for (std::thread& t : threads_) t.join();
}

void ThreadPool::Schedule(WorkPriority priority, absl::AnyInvocable<void()> work) {
  absl::MutexLock lock(&mu_);
  queues_[static_cast<size_t>(priority)].push_back(std::move(work));
  ++queued_;
}

size_t ThreadPool::queue_depth() const {
  absl::MutexLock lock(&mu_);
  return queued_;
}

void ThreadPool::Drain() {
  absl::MutexLock lock(&mu_);
  mu_.Await(absl::Condition(this, &ThreadPool::IsIdle));
}

absl::AnyInvocable<void()> ThreadPool::PopWork() {
  for (auto& queue : queues_) {
    if (queue.empty()) continue;
    auto work = std::move(queue.front());
    queue.pop_front();
    --queued_;
    ++running_;
    return work;
  }
  return nullptr;
}

void ThreadPool::Run(int niceness) {
  AddNiceness(niceness);
  for (;;) {
    absl::AnyInvocable<void()> work;
    {
      absl::MutexLock lock(&mu_);
      mu_.Await(absl::Condition(this, &ThreadPool::ShouldWake));
      work = PopWork();
    }
    if (!work) return;  // stopping, and nothing is left
    work();
    work = nullptr;  // lets go of what it held before anybody is told that nothing runs
    absl::MutexLock lock(&mu_);
    --running_;
  }
}

}  // namespace kvstow
