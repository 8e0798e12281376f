// How many calls a tenant may make: a bucket a tenant, filled at its rate, a second's worth deep,
// so that a burst passes and a stream of calls does not.
//
// Thread-safe.
#pragma once

#include <algorithm>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "server/core/ids.h"

namespace kvstow {

class RequestRate {
 public:
  // Calls a second by TenantId; 0, and tenants beyond the list, for no limit.
  RequestRate(const std::vector<double>& rates, absl::Time now) {
    for (const double rate : rates) buckets_.push_back({rate, std::max(rate, 1.0), now});
  }

  // Whether one call more is within the rate; counts it if so. `now` is Clock's: it never goes
  // back.
  bool Take(TenantId tenant, absl::Time now) {
    const auto index = static_cast<size_t>(tenant);
    absl::MutexLock lock(&mu_);
    if (index >= buckets_.size() || buckets_[index].rate <= 0) return true;
    Bucket& bucket = buckets_[index];
    bucket.calls = std::min(std::max(bucket.rate, 1.0),
                            bucket.calls + absl::ToDoubleSeconds(now - bucket.at) * bucket.rate);
    bucket.at = now;
    if (bucket.calls < 1) return false;
    bucket.calls -= 1;
    return true;
  }

 private:
  struct Bucket {
    double rate = 0;
    double calls = 0;  // that may come at once
    absl::Time at;     // when `calls` was right
  };
  absl::Mutex mu_;
  std::vector<Bucket> buckets_ ABSL_GUARDED_BY(mu_);
};

}  // namespace kvstow
