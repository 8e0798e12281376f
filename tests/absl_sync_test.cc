// What Abseil orders between threads ThreadSanitizer has to know, or it reports races that are none
// (cmake/tsan_absl_sync.cc): here a plain value goes from one thread to another by each of the ways
// that kvstow uses.
#include <functional>
#include <thread>

#include "absl/synchronization/blocking_counter.h"
#include "absl/synchronization/mutex.h"
#include "absl/synchronization/notification.h"
#include "absl/time/time.h"
#include "gtest/gtest.h"

namespace kvstow {
namespace {

// The value is one that `sender` set before `tell` and this thread reads after `hear`.
void ExpectHandedOver(const std::function<void()>& tell, const std::function<void()>& hear) {
  int value = 0;
  std::thread sender([&] {
    value = 7;
    tell();
  });
  hear();
  EXPECT_EQ(value, 7);
  sender.join();
}

TEST(AbslSync, NotificationThatIsAskedFor) {
  absl::Notification n;
  ExpectHandedOver([&] { n.Notify(); },
                   [&] {
                     while (!n.HasBeenNotified()) std::this_thread::yield();
                   });
}

TEST(AbslSync, NotificationThatIsWaitedFor) {
  absl::Notification n;
  ExpectHandedOver([&] { n.Notify(); }, [&] { n.WaitForNotification(); });
}

TEST(AbslSync, NotificationThatIsWaitedForWithATimeout) {
  absl::Notification n;
  ExpectHandedOver([&] { n.Notify(); },
                   [&] { EXPECT_TRUE(n.WaitForNotificationWithTimeout(absl::Hours(1))); });
}

TEST(AbslSync, BlockingCounter) {
  absl::BlockingCounter counter(1);
  ExpectHandedOver([&] { counter.DecrementCount(); }, [&] { counter.Wait(); });
}

TEST(AbslSync, Mutex) {
  absl::Mutex mu;
  bool told = false;
  ExpectHandedOver(
      [&] {
        const absl::MutexLock lock(&mu);
        told = true;
      },
      [&] {
        const absl::MutexLock lock(&mu);
        mu.Await(absl::Condition(&told));
      });
}

TEST(AbslSync, CondVar) {
  absl::Mutex mu;
  absl::CondVar changed;
  bool told = false;
  ExpectHandedOver(
      [&] {
        const absl::MutexLock lock(&mu);
        told = true;
        changed.Signal();
      },
      [&] {
        const absl::MutexLock lock(&mu);
        while (!told) changed.Wait(&mu);
      });
}

}  // namespace
}  // namespace kvstow
