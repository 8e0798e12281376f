#include "server/app/thread_pool.h"

#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <vector>

#include "absl/synchronization/notification.h"
#include "gtest/gtest.h"

namespace kvstow {
namespace {

int NicenessHere() { return getpriority(PRIO_PROCESS, static_cast<id_t>(gettid())); }

int NicenessIn(ThreadPool& pool) {
  int niceness = 0;
  pool.Schedule(WorkPriority::kGet, [&niceness] { niceness = NicenessHere(); });
  pool.Drain();
  return niceness;
}

TEST(ThreadPoolTest, OthersGoFirstWhereItIsNice) {
  constexpr int kMost = 19;
  ThreadPool plain(1), nice(1, 5);
  EXPECT_EQ(NicenessIn(plain), NicenessHere());
  EXPECT_EQ(NicenessIn(nice), std::min(NicenessHere() + 5, kMost));
}

TEST(ThreadPoolTest, RunsByPriorityAndInOrderWithinIt) {
  std::vector<int> order;
  ThreadPool pool(1);
  absl::Notification go;
  pool.Schedule(WorkPriority::kGet, [&go] { go.WaitForNotification(); });
  pool.Schedule(WorkPriority::kBackground, [&order] { order.push_back(5); });
  pool.Schedule(WorkPriority::kPut, [&order] { order.push_back(3); });
  pool.Schedule(WorkPriority::kPut, [&order] { order.push_back(4); });
  pool.Schedule(WorkPriority::kGet, [&order] { order.push_back(1); });
  pool.Schedule(WorkPriority::kGet, [&order] { order.push_back(2); });
  go.Notify();
  pool.Drain();
  EXPECT_EQ(order, (std::vector<int>{1, 2, 3, 4, 5}));
}

TEST(ThreadPoolTest, WhatIsQueuedRunsBeforeItGoes) {
  std::atomic<int> ran{0};
  {
    ThreadPool pool(2);
    for (int i = 0; i < 100; ++i) pool.Schedule(WorkPriority::kPut, [&ran] { ++ran; });
  }
  EXPECT_EQ(ran, 100);
}

}  // namespace
}  // namespace kvstow
