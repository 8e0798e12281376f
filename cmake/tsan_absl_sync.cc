// Tells ThreadSanitizer what the installed Abseil does not: Debian builds it without the sanitizer,
// so locks taken inside the library go unseen, and everything they guard looks like a race.
//
// The linker's --wrap sends each call of Abseil's synchronisation through here, where it is
// annotated; KvstowTsanAbslSync.cmake lists the symbols. Only in builds with
// KVSTOW_SANITIZE=thread.
#include <sanitizer/tsan_interface.h>

#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"

using absl::Condition;
using absl::CondVar;
using absl::Duration;
using absl::Mutex;
using absl::Time;

namespace {

void BeforeLock(Mutex* mu, unsigned flags = 0) { __tsan_mutex_pre_lock(mu, flags); }
void AfterLock(Mutex* mu, unsigned flags = 0) { __tsan_mutex_post_lock(mu, flags, 0); }
void BeforeUnlock(Mutex* mu, unsigned flags = 0) { __tsan_mutex_pre_unlock(mu, flags); }
void AfterUnlock(Mutex* mu, unsigned flags = 0) { __tsan_mutex_post_unlock(mu, flags); }

// A wait gives the lock up and comes back with it. Conditions run on whichever thread holds the
// lock, inside the library: the sanitizer looks away between Before and After.
void BeforeWait(Mutex* mu) {
  BeforeUnlock(mu);
  AfterUnlock(mu);
  BeforeLock(mu);
}

// Where a Notification keeps whether it was notified.
void* FlagOf(void* notification) { return static_cast<Mutex*>(notification) + 1; }

}  // namespace

#define SYMBOL(kind, name) kind##name
#define DECLARE(result, name, ...)           \
  result SYMBOL(__real_, name)(__VA_ARGS__); \
  result SYMBOL(__wrap_, name)(__VA_ARGS__)

extern "C" {

DECLARE(void, _ZN4absl7debian35Mutex4LockEv, Mutex* mu) {
  BeforeLock(mu);
  __real__ZN4absl7debian35Mutex4LockEv(mu);
  AfterLock(mu);
}
DECLARE(void, _ZN4absl7debian35Mutex6UnlockEv, Mutex* mu) {
  BeforeUnlock(mu);
  __real__ZN4absl7debian35Mutex6UnlockEv(mu);
  AfterUnlock(mu);
}
DECLARE(bool, _ZN4absl7debian35Mutex7TryLockEv, Mutex* mu) {
  BeforeLock(mu, __tsan_mutex_try_lock);
  const bool locked = __real__ZN4absl7debian35Mutex7TryLockEv(mu);
  AfterLock(mu,
            locked ? __tsan_mutex_try_lock : __tsan_mutex_try_lock | __tsan_mutex_try_lock_failed);
  return locked;
}
DECLARE(void, _ZN4absl7debian35Mutex10ReaderLockEv, Mutex* mu) {
  BeforeLock(mu, __tsan_mutex_read_lock);
  __real__ZN4absl7debian35Mutex10ReaderLockEv(mu);
  AfterLock(mu, __tsan_mutex_read_lock);
}
DECLARE(void, _ZN4absl7debian35Mutex12ReaderUnlockEv, Mutex* mu) {
  BeforeUnlock(mu, __tsan_mutex_read_lock);
  __real__ZN4absl7debian35Mutex12ReaderUnlockEv(mu);
  AfterUnlock(mu, __tsan_mutex_read_lock);
}
DECLARE(void, _ZN4absl7debian35MutexD1Ev, Mutex* mu) {
  __tsan_mutex_destroy(mu, __tsan_mutex_not_static);
  __real__ZN4absl7debian35MutexD1Ev(mu);
}
DECLARE(void, _ZN4absl7debian35Mutex8LockWhenERKNS0_9ConditionE, Mutex* mu, const Condition* c) {
  BeforeLock(mu);
  __real__ZN4absl7debian35Mutex8LockWhenERKNS0_9ConditionE(mu, c);
  AfterLock(mu);
}
DECLARE(bool, _ZN4absl7debian35Mutex19LockWhenWithTimeoutERKNS0_9ConditionENS0_8DurationE,
        Mutex* mu, const Condition* c, Duration timeout) {
  BeforeLock(mu);
  const bool met =
      __real__ZN4absl7debian35Mutex19LockWhenWithTimeoutERKNS0_9ConditionENS0_8DurationE(mu, c,
                                                                                         timeout);
  AfterLock(mu);
  return met;
}
DECLARE(void, _ZN4absl7debian35Mutex5AwaitERKNS0_9ConditionE, Mutex* mu, const Condition* c) {
  BeforeWait(mu);
  __real__ZN4absl7debian35Mutex5AwaitERKNS0_9ConditionE(mu, c);
  AfterLock(mu);
}
DECLARE(bool, _ZN4absl7debian35Mutex16AwaitWithTimeoutERKNS0_9ConditionENS0_8DurationE, Mutex* mu,
        const Condition* c, Duration timeout) {
  BeforeWait(mu);
  const bool met = __real__ZN4absl7debian35Mutex16AwaitWithTimeoutERKNS0_9ConditionENS0_8DurationE(
      mu, c, timeout);
  AfterLock(mu);
  return met;
}
DECLARE(bool, _ZN4absl7debian35Mutex17AwaitWithDeadlineERKNS0_9ConditionENS0_4TimeE, Mutex* mu,
        const Condition* c, Time deadline) {
  BeforeWait(mu);
  const bool met =
      __real__ZN4absl7debian35Mutex17AwaitWithDeadlineERKNS0_9ConditionENS0_4TimeE(mu, c, deadline);
  AfterLock(mu);
  return met;
}
DECLARE(void, _ZN4absl7debian37CondVar4WaitEPNS0_5MutexE, CondVar* cv, Mutex* mu) {
  BeforeWait(mu);
  __real__ZN4absl7debian37CondVar4WaitEPNS0_5MutexE(cv, mu);
  AfterLock(mu);
}
DECLARE(bool, _ZN4absl7debian37CondVar15WaitWithTimeoutEPNS0_5MutexENS0_8DurationE, CondVar* cv,
        Mutex* mu, Duration timeout) {
  BeforeWait(mu);
  const bool timed_out =
      __real__ZN4absl7debian37CondVar15WaitWithTimeoutEPNS0_5MutexENS0_8DurationE(cv, mu, timeout);
  AfterLock(mu);
  return timed_out;
}
DECLARE(bool, _ZN4absl7debian37CondVar16WaitWithDeadlineEPNS0_5MutexENS0_4TimeE, CondVar* cv,
        Mutex* mu, Time deadline) {
  BeforeWait(mu);
  const bool timed_out =
      __real__ZN4absl7debian37CondVar16WaitWithDeadlineEPNS0_5MutexENS0_4TimeE(cv, mu, deadline);
  AfterLock(mu);
  return timed_out;
}
// Notifications and counters hand on what happened before them. HasBeenNotified is inline and reads
// its flag, which follows the lock, in sight of the sanitizer: what it is to acquire there must be
// released there, so the waits go by the same address.
DECLARE(void, _ZN4absl7debian312Notification6NotifyEv, void* n) {
  __tsan_release(FlagOf(n));
  __real__ZN4absl7debian312Notification6NotifyEv(n);
}
DECLARE(void, _ZNK4absl7debian312Notification19WaitForNotificationEv, void* n) {
  __real__ZNK4absl7debian312Notification19WaitForNotificationEv(n);
  __tsan_acquire(FlagOf(n));
}
DECLARE(bool, _ZNK4absl7debian312Notification30WaitForNotificationWithTimeoutENS0_8DurationE,
        void* n, Duration timeout) {
  const bool notified =
      __real__ZNK4absl7debian312Notification30WaitForNotificationWithTimeoutENS0_8DurationE(
          n, timeout);
  if (notified) __tsan_acquire(FlagOf(n));
  return notified;
}
DECLARE(bool, _ZN4absl7debian315BlockingCounter14DecrementCountEv, void* counter) {
  __tsan_release(counter);
  return __real__ZN4absl7debian315BlockingCounter14DecrementCountEv(counter);
}
DECLARE(void, _ZN4absl7debian315BlockingCounter4WaitEv, void* counter) {
  __real__ZN4absl7debian315BlockingCounter4WaitEv(counter);
  __tsan_acquire(counter);
}

}  // extern "C"
