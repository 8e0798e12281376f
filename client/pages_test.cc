#include "client/kvstow/pages.h"

#include <algorithm>
#include <random>
#include <vector>

#include "gtest/gtest.h"

namespace kvstow {
namespace {

constexpr uint32_t kPool = 40;  // pages of the engine

class PagesTest : public ::testing::TestWithParam<std::tuple<uint32_t, bool>> {
 protected:
  PagesTest() {
    SpaceSpec spec;
    spec.model = {"pages", "", ""};
    spec.groups = {{.layers = {0}, .kv_heads = 3, .k_dim = 64, .v_dim = 64, .rotary = {}}};
    layout_.emplace(*PlaneLayout::Create(spec, {}));
    std::mt19937 random(1);
    pages_.resize(kPool);
    for (uint32_t i = 0; i < kPool; ++i) pages_[i] = i;
    std::shuffle(pages_.begin(), pages_.end(), random);
    pages_.resize(128 / page_tokens());
    cache_.resize(kPool * stride());
    for (std::byte& b : cache_) b = static_cast<std::byte>(random());
  }
  uint32_t page_tokens() const { return std::get<0>(GetParam()); }
  bool nhd() const { return std::get<1>(GetParam()); }
  // With a gap behind each page, as where K and V share it.
  size_t stride() const { return 2 * page_tokens() * 3 * 64 * 2; }
  const PlaneSpec& plane() const { return layout_->planes()[0]; }
  PagedKv Paged() {
    return nhd() ? PagedKv::Nhd(cache_.data(), plane(), page_tokens(), stride())
                 : PagedKv::Hnd(cache_.data(), plane(), page_tokens(), stride());
  }
  // Where a byte of the plane lies, by plain arithmetic.
  size_t PlaceOf(uint32_t head, uint32_t token, uint32_t byte) const {
    const uint32_t in_page = token % page_tokens();
    const size_t row = nhd() ? in_page * 3 + head : head * page_tokens() + in_page;
    return pages_[token / page_tokens()] * stride() + row * 128 + byte;
  }

  std::optional<PlaneLayout> layout_;
  std::vector<uint32_t> pages_;
  std::vector<std::byte> cache_;
};
INSTANTIATE_TEST_SUITE_P(Layouts, PagesTest,
                         ::testing::Combine(::testing::Values(4u, 16u, 128u), ::testing::Bool()));

TEST_P(PagesTest, GathersEveryByteFromItsPlace) {
  std::vector<std::byte> bytes(plane().raw_bytes);
  ASSERT_TRUE(GatherPlane(plane(), Paged(), pages_, bytes).ok());
  size_t at = 0;
  for (uint32_t head = 0; head < 3; ++head) {
    for (uint32_t token = 0; token < 128; ++token) {
      for (uint32_t b = 0; b < 128; ++b) ASSERT_EQ(bytes[at++], cache_[PlaceOf(head, token, b)]);
    }
  }
}

TEST_P(PagesTest, ScatteringTouchesTheBlocksPagesAndNothingElse) {
  std::vector<std::byte> bytes(plane().raw_bytes);
  ASSERT_TRUE(GatherPlane(plane(), Paged(), pages_, bytes).ok());
  const std::vector<std::byte> before = cache_;
  for (uint32_t head = 0; head < 3; ++head) {
    for (uint32_t token = 0; token < 128; ++token) {
      for (uint32_t b = 0; b < 128; ++b) cache_[PlaceOf(head, token, b)] ^= std::byte{0xff};
    }
  }
  ASSERT_TRUE(ScatterPlane(plane(), bytes, Paged(), pages_).ok());
  EXPECT_TRUE(cache_ == before);
}

TEST_P(PagesTest, SaysWhatDoesNotFit) {
  std::vector<std::byte> bytes(plane().raw_bytes);
  const auto code = [](const absl::Status& s) { return s.code(); };
  PagedKv paged = Paged();
  EXPECT_EQ(code(GatherPlane(plane(), paged, std::span(pages_).first(pages_.size() - 1), bytes)),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code(ScatterPlane(plane(), std::span(bytes).first(7), paged, pages_)),
            absl::StatusCode::kInvalidArgument);
  paged.page_tokens = 48;
  EXPECT_EQ(code(GatherPlane(plane(), paged, pages_, bytes)), absl::StatusCode::kInvalidArgument);
  paged.page_tokens = 0;
  EXPECT_EQ(code(GatherPlane(plane(), paged, pages_, bytes)), absl::StatusCode::kInvalidArgument);
  PlaneSpec opaque;
  opaque.kind = PlaneKind::kOpaque;
  EXPECT_EQ(code(GatherPlane(opaque, Paged(), pages_, {})), absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace kvstow
