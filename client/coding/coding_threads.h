// The threads of the CPU coder: a bounded number, what is decoded before what is encoded.
//
// Thread-safe.
#pragma once

#include <cstddef>
#include <deque>
#include <functional>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"

namespace kvstow::coding {

class CodingThreads {
 public:
  // Starts them; at least one.
  explicit CodingThreads(size_t threads);
  // Does what is left. Not on one of them.
  ~CodingThreads();

  using Work = std::function<void()>;
  void RunFirst(Work work) ABSL_LOCKS_EXCLUDED(mu_) { Add(&urgent_, std::move(work)); }
  void Run(Work work) ABSL_LOCKS_EXCLUDED(mu_) { Add(&waiting_, std::move(work)); }

 private:
  void Add(std::deque<Work>* line, Work work);
  bool HasNews() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    return stop_ || !urgent_.empty() || !waiting_.empty();
  }
  void Loop();

  absl::Mutex mu_;
  std::deque<Work> urgent_ ABSL_GUARDED_BY(mu_), waiting_ ABSL_GUARDED_BY(mu_);
  bool stop_ ABSL_GUARDED_BY(mu_) = false;
  std::vector<std::thread> threads_;
};

}  // namespace kvstow::coding
