#include "server/core/slab_allocator.h"

#include <random>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace kvstow {
namespace {

using testing::ElementsAre;
using testing::Optional;

TEST(SlabAllocator, TakesTheSmallestRunThatFits) {
  SlabAllocator pages(32, 32);
  const auto a = pages.Allocate(8), b = pages.Allocate(1), c = pages.Allocate(4),
             d = pages.Allocate(1);
  pages.Free(*a);  // 8 pages at 0
  pages.Free(*c);  // 4 pages at 9; 18 at the end
  EXPECT_THAT(pages.Allocate(3), Optional(ElementsAre(PageRun{9, 3})));
  EXPECT_THAT(pages.Allocate(5), Optional(ElementsAre(PageRun{0, 5})));
  EXPECT_THAT(pages.Allocate(9), Optional(ElementsAre(PageRun{14, 9})));
}

TEST(SlabAllocator, FreedNeighboursMerge) {
  SlabAllocator pages(16, 16);
  const auto a = pages.Allocate(4), b = pages.Allocate(4), c = pages.Allocate(4);
  pages.Free(*a);
  pages.Free(*c);
  EXPECT_EQ(pages.free_runs(), 2u);
  pages.Free(*b);
  EXPECT_EQ(pages.free_runs(), 1u);
  EXPECT_THAT(pages.Allocate(16), Optional(ElementsAre(PageRun{0, 16})));
}

TEST(SlabAllocator, NoRunCrossesSlabs) {
  SlabAllocator pages(24, 8);
  const auto all = pages.Allocate(24);
  EXPECT_THAT(all, Optional(ElementsAre(PageRun{0, 8}, PageRun{8, 8}, PageRun{16, 8})));
  pages.Free(*all);
  EXPECT_EQ(pages.free_runs(), 3u);
}

TEST(SlabAllocator, GrowsOnlyWhenNeeded) {
  SlabAllocator pages(20, 8);  // the last slab has 4
  EXPECT_EQ(pages.grown_slabs(), 0u);
  const auto a = pages.Allocate(6);
  EXPECT_EQ(pages.grown_slabs(), 1u);
  const auto b = pages.Allocate(2);
  EXPECT_EQ(pages.grown_slabs(), 1u);
  // A fresh slab rather than pieces.
  pages.Free(*b);
  EXPECT_THAT(pages.Allocate(3), Optional(ElementsAre(PageRun{8, 3})));
  EXPECT_EQ(pages.grown_slabs(), 2u);
}

TEST(SlabAllocator, RefusalChangesNothing) {
  SlabAllocator pages(10, 8);
  const auto a = pages.Allocate(4);
  EXPECT_EQ(pages.Allocate(7), std::nullopt);
  EXPECT_EQ(pages.used_pages(), 4u);
  EXPECT_NE(pages.Allocate(6), std::nullopt);
}

// Against a plain array of pages: no page is handed out twice, sums agree, and whatever fits is
// given.
TEST(SlabAllocator, AgreesWithAnArrayOfPages) {
  for (uint32_t seed = 1; seed <= 20; ++seed) {
    SCOPED_TRACE(testing::Message() << "seed " << seed);
    std::mt19937 random(seed);
    const uint32_t slab = 1 + random() % 40, total = 1 + random() % 300;
    SlabAllocator pages(total, slab);
    std::vector<bool> taken(total);
    uint32_t used = 0;
    std::vector<Allocation> live;
    for (int step = 0; step < 2000; ++step) {
      if (random() % 100 < 55) {
        const uint32_t want = 1 + random() % (random() % 10 == 0 ? total + 2 : 12);
        const auto got = pages.Allocate(want);
        ASSERT_EQ(got.has_value(), want <= total - used);
        if (!got.has_value()) continue;
        uint32_t sum = 0;
        for (const PageRun& run : *got) {
          ASSERT_GT(run.count, 0u);
          ASSERT_LE(run.first + run.count, total);
          ASSERT_EQ(run.first / slab, (run.first + run.count - 1) / slab);
          for (uint32_t p = run.first; p < run.first + run.count; ++p) {
            ASSERT_FALSE(taken[p]);
            taken[p] = true;
          }
          sum += run.count;
        }
        ASSERT_EQ(sum, want);
        used += want;
        live.push_back(*got);
      } else if (!live.empty()) {
        std::swap(live[random() % live.size()], live.back());
        for (const PageRun& run : live.back()) {
          for (uint32_t p = run.first; p < run.first + run.count; ++p) taken[p] = false;
          used -= run.count;
        }
        pages.Free(live.back());
        live.pop_back();
      }
      ASSERT_EQ(pages.used_pages(), used);
      size_t runs = 0;
      for (uint32_t p = 0; p < std::min(total, pages.grown_slabs() * slab); ++p) {
        runs += !taken[p] && (p % slab == 0 || taken[p - 1]);
      }
      ASSERT_EQ(pages.free_runs(), runs) << "free neighbours have not merged";
    }
  }
}

}  // namespace
}  // namespace kvstow
