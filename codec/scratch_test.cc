#include "codec/scratch.h"

#include <algorithm>
#include <numeric>
#include <utility>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace kvstow {
namespace {

using ::testing::Each;
using ::testing::ElementsAre;

// What lay in memory when it went back to the heap, one piece after the other.
std::vector<std::vector<int>>& GivenBack() {
  static std::vector<std::vector<int>> pieces;
  return pieces;
}

template <typename T>
struct WatchedHeap {
  using value_type = T;
  WatchedHeap() = default;
  T* allocate(size_t count) { return std::allocator<T>().allocate(count); }
  void deallocate(T* memory, size_t count) {
    GivenBack().emplace_back(memory, memory + count);
    std::allocator<T>().deallocate(memory, count);
  }
};
using Watched = std::vector<int, ScratchAllocator<int, WatchedHeap<int>>>;

class ScratchTest : public ::testing::Test {
 protected:
  ScratchTest() { GivenBack().clear(); }
  ~ScratchTest() override { SetOverwritesScratch(true); }
};

TEST_F(ScratchTest, IsOverwrittenBeforeItGoesBack) {
  { const Watched values = {1, 2, 3}; }
  EXPECT_THAT(GivenBack(), ElementsAre(ElementsAre(0, 0, 0)));
}

// Also what it grew out of, and what it holds beyond its size.
TEST_F(ScratchTest, NothingIsLeftInWhatItGrewOutOf) {
  {
    Watched values = {1, 2, 3};
    values.resize(1000, 4);
    values.resize(2);
  }
  ASSERT_EQ(GivenBack().size(), 2u);
  EXPECT_THAT(GivenBack()[0], Each(0));
  EXPECT_EQ(GivenBack()[1].size(), 1000u);
  EXPECT_THAT(GivenBack()[1], Each(0));
}

TEST_F(ScratchTest, StaysWhereItIsWhenItIsMoved) {
  Watched from = {1, 2, 3};
  Watched to = std::move(from);
  EXPECT_TRUE(GivenBack().empty());
  EXPECT_THAT(to, ElementsAre(1, 2, 3));
}

TEST_F(ScratchTest, IsLeftAsItIsWhereThatIsAskedFor) {
  SetOverwritesScratch(false);
  { const Watched values = {1, 2, 3}; }
  EXPECT_THAT(GivenBack(), ElementsAre(ElementsAre(1, 2, 3)));
}

TEST_F(ScratchTest, BytesBeginWithZeros) {
  { const Scratch<std::byte> before(1000, std::byte{1}); }
  EXPECT_THAT(Scratch<std::byte>(1000), Each(std::byte{0}));
}

TEST_F(ScratchTest, ValuesBeginWithZeros) {
  { const Scratch<float> before(1000, 1.0f); }
  EXPECT_THAT(Scratch<float>(1000), Each(0.0f));
}

}  // namespace
}  // namespace kvstow
