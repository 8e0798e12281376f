// Waits that a step of the wall clock neither prolongs nor cuts short.
//
// Abseil before 2023-08 hands the kernel a wait's end as a time of the wall clock, and gRPC waits
// through Abseil: set back by an hour, every wait that is under way lasts an hour longer, timers,
// deadlines and maintenance with it. Abseil lets a program bring its own semaphore for a thread to
// sleep on; this one takes the time that is left when a wait begins, and counts it on the monotonic
// clock. Linked into programs, never into the library that others link.
#include "absl/base/config.h"

#if defined(ABSL_LTS_RELEASE_VERSION) && ABSL_LTS_RELEASE_VERSION < 20230802

#include <linux/futex.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdint>
#include <optional>

#include "absl/synchronization/internal/per_thread_sem.h"

namespace {

using absl::base_internal::ThreadIdentity;
using absl::synchronization_internal::KernelTimeout;

constexpr int64_t kSecond = 1'000'000'000;

int64_t Nanos(const timespec& t) { return int64_t{t.tv_sec} * kSecond + t.tv_nsec; }

int64_t Read(clockid_t clock) {
  timespec now{};
  clock_gettime(clock, &now);
  return Nanos(now);
}

// The count, where Abseil would have its own: zero when a thread begins.
std::atomic<int32_t>& CountOf(ThreadIdentity* identity) {
  static_assert(sizeof(std::atomic<int32_t>) <= sizeof(identity->waiter_state.data));
  return *reinterpret_cast<std::atomic<int32_t>*>(&identity->waiter_state.data);
}

bool TakeOne(std::atomic<int32_t>& count) {
  int32_t n = count.load(std::memory_order_relaxed);
  while (n > 0) {
    if (count.compare_exchange_weak(n, n - 1, std::memory_order_acquire)) return true;
  }
  return false;
}

// When a wait that ends at `wall` ends by the monotonic clock. A thread that is woken before and
// waits on for the same end keeps what was found the first time.
int64_t SteadyEnd(int64_t wall) {
  thread_local int64_t last_wall = 0, last_end = 0;
  if (wall != last_wall) {
    last_end = Read(CLOCK_MONOTONIC) + (wall - Read(CLOCK_REALTIME));
    last_wall = wall;
  }
  return last_end;
}

// Until the count may have changed; false when there is no time left. A futex counts a relative
// timeout on the monotonic clock.
bool Sleep(std::atomic<int32_t>& count, std::optional<int64_t> end) {
  timespec left{};
  if (end) {
    const int64_t nanos = *end - Read(CLOCK_MONOTONIC);
    if (nanos <= 0) return false;
    left = {nanos / kSecond, nanos % kSecond};
  }
  syscall(SYS_futex, &count, FUTEX_WAIT | FUTEX_PRIVATE_FLAG, 0, end ? &left : nullptr);
  return true;
}

}  // namespace

extern "C" {

void ABSL_INTERNAL_C_SYMBOL(AbslInternalPerThreadSemPost)(ThreadIdentity* identity) {
  std::atomic<int32_t>& count = CountOf(identity);
  if (count.fetch_add(1, std::memory_order_release) == 0) {
    syscall(SYS_futex, &count, FUTEX_WAKE | FUTEX_PRIVATE_FLAG, 1);
  }
}

bool ABSL_INTERNAL_C_SYMBOL(AbslInternalPerThreadSemWait)(KernelTimeout timeout) {
  std::atomic<int32_t>& count =
      CountOf(absl::synchronization_internal::GetOrCreateCurrentThreadIdentity());
  std::optional<int64_t> end;
  if (timeout.has_timeout()) end = SteadyEnd(Nanos(timeout.MakeAbsTimespec()));
  while (!TakeOne(count)) {
    if (!Sleep(count, end)) return TakeOne(count);
  }
  return true;
}

}  // extern "C"

#endif
