// Which planes a wait in the line is for. An expired deadline asks: does it have to wait still?
#include "client/decode_line.h"

#include <utility>
#include <vector>

#include "absl/time/time.h"
#include "gtest/gtest.h"

namespace kvstow::client {
namespace {

// Finishes what it is told to.
class SteppedCoder : public SpaceCoder {
 public:
  std::shared_ptr<const Positions> At(uint64_t) const override { return nullptr; }
  size_t MaxEncodedBytes(size_t) const override { return 1; }
  void Encode(EncodeJob*, Done done) override { done(absl::UnimplementedError("decodes only")); }
  void Decode(DecodeJob*, Done done) override { waiting_.push_back(std::move(done)); }

  // By the order in which they came.
  void Finish(size_t i) { std::exchange(waiting_[i], nullptr)(absl::OkStatus()); }
  void FinishAll() {
    for (Done& done : waiting_) {
      if (done) std::exchange(done, nullptr)(absl::OkStatus());
    }
  }

 private:
  std::vector<Done> waiting_;
};

class DecodeLineTest : public ::testing::Test {
 protected:
  ~DecodeLineTest() override { coder_.FinishAll(); }

  void Add(size_t index) {
    auto plane = std::make_unique<DecodeLine::Plane>();
    plane->index = index;
    plane->scratch = std::make_unique<std::byte[]>(kPlaneBytes);
    plane->job.values = {plane->scratch.get(), kPlaneBytes};
    line_.Add(std::move(plane));
  }
  bool Awaited(size_t last_index) const {
    return line_.AwaitFront(last_index, Deadline::In(-absl::Seconds(1)));
  }

  static constexpr size_t kPlaneBytes = 64;
  SteppedCoder coder_;
  DecodeLine line_{&coder_};
};

TEST_F(DecodeLineTest, OneWaitIsForHalfOfTheLine) {
  for (size_t index : {0, 1, 2, 3, 4}) Add(index);
  EXPECT_FALSE(Awaited(4));
  coder_.Finish(0);
  EXPECT_FALSE(Awaited(4));
  coder_.Finish(1);
  EXPECT_TRUE(Awaited(4));
}

TEST_F(DecodeLineTest, OneWaitEndsWithTheLayer) {
  for (size_t index : {0, 1, 1, 2, 2, 2}) Add(index);
  coder_.Finish(0);
  EXPECT_TRUE(Awaited(0));
  EXPECT_FALSE(Awaited(1));
}

TEST_F(DecodeLineTest, APlaneBeyondTheLayerIsWaitedForByItself) {
  for (size_t index : {5, 5, 5, 5}) Add(index);
  EXPECT_FALSE(Awaited(4));
  coder_.Finish(0);
  EXPECT_TRUE(Awaited(4));
}

TEST_F(DecodeLineTest, TheOldestIsWaitedForThoughLaterOnesAreDone) {
  for (size_t index : {0, 0, 0, 0}) Add(index);
  coder_.Finish(1);
  EXPECT_FALSE(Awaited(0));
  coder_.Finish(0);
  ASSERT_TRUE(Awaited(0));
  EXPECT_TRUE(line_.front_ready());
  line_.TakeFront();
  EXPECT_TRUE(line_.front_ready());
  line_.TakeFront();
  EXPECT_FALSE(line_.front_ready());
}

TEST_F(DecodeLineTest, TheLastPlaneIsWaitedFor) {
  Add(7);
  EXPECT_FALSE(Awaited(7));
  coder_.Finish(0);
  EXPECT_TRUE(Awaited(7));
}

}  // namespace
}  // namespace kvstow::client
