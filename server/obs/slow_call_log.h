// A line in the log for each call that took longer than a threshold, and where its time went.
// Passes every call on.
//
// Thread-safe.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "server/core/call_sink.h"
#include "server/core/clock.h"

namespace kvstow {

class SlowCallLog final : public CallSink {
 public:
  // A daemon in trouble must not drown its log, too.
  static constexpr uint64_t kLinesASecond = 10;

  struct Options {
    absl::Duration threshold = absl::InfiniteDuration();  // infinite: no log
    std::vector<std::string> tenants;                     // by TenantId
  };
  using Write = std::function<void(const std::string& line)>;
  // `next` and `clock` outlive it; `write` is called on the calls' threads.
  SlowCallLog(Options options, CallSink* next, const Clock* clock, Write write)
      : options_(std::move(options)), next_(*next), clock_(*clock), write_(std::move(write)) {}

  void OnCall(const CallRecord& call) override;

 private:
  bool MayWrite(uint64_t& left_out) ABSL_LOCKS_EXCLUDED(mu_);
  std::string LineOf(const CallRecord& call) const;

  const Options options_;
  CallSink& next_;
  const Clock& clock_;
  const Write write_;
  absl::Mutex mu_;
  absl::Time second_began_ ABSL_GUARDED_BY(mu_) = absl::InfinitePast();
  uint64_t lines_ ABSL_GUARDED_BY(mu_) = 0;     // in that second
  uint64_t left_out_ ABSL_GUARDED_BY(mu_) = 0;  // since the last line
};

}  // namespace kvstow
