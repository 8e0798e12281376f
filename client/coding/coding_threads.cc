#include "client/coding/coding_threads.h"

#include <algorithm>
#include <utility>

namespace kvstow::coding {

CodingThreads::CodingThreads(size_t threads) {
  for (size_t i = 0; i < std::max<size_t>(threads, 1); ++i) {
    threads_.emplace_back([this] { Loop(); });
  }
}

CodingThreads::~CodingThreads() {
  {
    absl::MutexLock lock(&mu_);
    stop_ = true;
  }
  for (std::thread& thread : threads_) thread.join();
}

void CodingThreads::Add(std::deque<Work>* line, Work work) {
  absl::MutexLock lock(&mu_);
  line->push_back(std::move(work));
}

void CodingThreads::Loop() {
  for (;;) {
    Work work;
    {
      absl::MutexLock lock(&mu_);
      mu_.Await(absl::Condition(this, &CodingThreads::HasNews));
      std::deque<Work>& line = urgent_.empty() ? waiting_ : urgent_;
      if (line.empty()) return;
      work = std::move(line.front());
      line.pop_front();
    }
    work();
  }
}

}  // namespace kvstow::coding
