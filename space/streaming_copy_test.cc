#include "space/streaming_copy.h"

#include <algorithm>
#include <vector>

#include "gtest/gtest.h"

namespace kvstow {
namespace {

TEST(StreamingCopyTest, CopiesExactlyWhatItIsTold) {
  std::vector<std::byte> from(20'000);
  for (size_t i = 0; i < from.size(); ++i) from[i] = static_cast<std::byte>(i * 31 % 251 + 1);
  for (const size_t bytes : {0, 1, 63, 64, 4095, 4096, 4097, 4159, 10'000, 16'384}) {
    for (const size_t to_at : {0, 1, 16, 63}) {
      for (const size_t from_at : {0, 5, 32}) {
        std::vector<std::byte> to(from.size() + 128);
        StreamingCopy(to.data() + to_at, from.data() + from_at, bytes);
        std::vector<std::byte> expected(to.size());
        std::copy_n(from.begin() + static_cast<ptrdiff_t>(from_at), bytes,
                    expected.begin() + static_cast<ptrdiff_t>(to_at));
        EXPECT_EQ(to, expected) << bytes << " to " << to_at << " from " << from_at;
      }
    }
  }
}

}  // namespace
}  // namespace kvstow
