#include "server/events/event_stream.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "server/core/testing/recording_stats.h"

namespace kvstow {
namespace {

using testing::ElementsAre;

class EventStreamTest : public testing::Test {
 protected:
  static WatchHub::Watcher::Item Removed(uint64_t lost = 0) {
    WatchHub::Watcher::Item item{.lost = lost, .event = StoreEvent()};
    item.event->kind = StoreEvent::Kind::kRemoved;
    return item;
  }
  // A message of one block each.
  void Publish(EventStream& stream, int messages) {
    for (int i = 0; i < messages; ++i) {
      stream.Take(Removed());
      stream.Flush();
    }
  }

  RecordingStats stats_;
  std::vector<uint64_t> sequences_;
  EventStream::Send send_ = [this](const ReplayBuffer::Message& message) {
    sequences_.push_back(message.sequence);
  };
};

TEST_F(EventStreamTest, NumbersFromZeroWithoutAGap) {
  EventStream stream({}, &stats_, send_);
  stream.TakeAllCleared();
  stream.Flush();
  stream.Flush();
  Publish(stream, 2);
  EXPECT_THAT(sequences_, ElementsAre(0, 1, 2));
  EXPECT_EQ(stats_.totals().events_published, 2u);
  EXPECT_TRUE(stream.sent().empty()) << "nothing is kept that nobody may ask for";
}

TEST_F(EventStreamTest, ALossIsAGap) {
  EventStream stream({}, &stats_, send_);
  stream.Take(Removed());
  stream.Take(Removed(7));  // what came before the loss goes out before the gap
  stream.Flush();
  stream.Take({.lost = 1, .event = std::nullopt});
  stream.Flush();
  Publish(stream, 1);
  EXPECT_THAT(sequences_, ElementsAre(0, 2, 4));
  EXPECT_EQ(stats_.totals().events_lost, 8u);
  EXPECT_EQ(stats_.totals().events_published, 3u);
}

TEST_F(EventStreamTest, KeepsTheLastMessagesWithinItsBytes) {
  EventStream stream({.replay_bytes = 1000}, &stats_, send_);
  Publish(stream, 100);
  ASSERT_FALSE(stream.sent().empty());
  EXPECT_EQ(stream.sent().back().sequence, 99u);
  uint64_t bytes = 0;
  for (size_t i = 0; i < stream.sent().size(); ++i) {
    bytes += stream.sent()[i].payload->size();
    EXPECT_EQ(stream.sent()[i].sequence, 100 - stream.sent().size() + i);
  }
  EXPECT_LE(bytes, 1000u);
}

}  // namespace
}  // namespace kvstow
