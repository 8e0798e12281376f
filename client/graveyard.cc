#include "client/graveyard.h"

#include <thread>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"

namespace kvstow::client {
namespace {

class Graveyard {
 public:
  // Never destroyed: a call may be stuck until the process ends.
  static Graveyard& Get() {
    static auto* const graveyard = new Graveyard;
    return *graveyard;
  }

  void Add(std::unique_ptr<Buried> call) {
    absl::MutexLock lock(&mu_);
    calls_.push_back(std::move(call));
  }

 private:
  Graveyard() {
    std::thread([this] { Loop(); }).detach();
  }

  bool HasCalls() const ABSL_SHARED_LOCKS_REQUIRED(mu_) { return !calls_.empty(); }

  [[noreturn]] void Loop() {
    for (;;) {
      std::vector<std::unique_ptr<Buried>> calls;
      {
        absl::MutexLock lock(&mu_);
        mu_.Await(absl::Condition(this, &Graveyard::HasCalls));
        calls.swap(calls_);
      }
      std::erase_if(calls, [](const auto& call) { return call->TryFinish(); });
      absl::MutexLock lock(&mu_);
      for (auto& call : calls) calls_.push_back(std::move(call));
    }
  }

  absl::Mutex mu_;
  std::vector<std::unique_ptr<Buried>> calls_ ABSL_GUARDED_BY(mu_);
};

}  // namespace

void Bury(std::unique_ptr<Buried> call) { Graveyard::Get().Add(std::move(call)); }

}  // namespace kvstow::client
