#include "staging/streaming_copy.h"

#include <algorithm>
#include <vector>

#include "gtest/gtest.h"

namespace kvstow {
namespace {

TEST(StreamingCopyTest, CopiesAnySizeBetweenAnyPlacesAndNothingElse) {
  std::vector<std::byte> from(20000);
  for (size_t i = 0; i < from.size(); ++i) from[i] = static_cast<std::byte>(i * 7 + i / 256);
  for (const size_t size : {0, 1, 63, 64, 4095, 4096, 4097, 4159, 4160, 12345}) {
    for (const size_t in : {0, 1, 16, 63}) {
      for (const size_t out : {0, 1, 15, 32, 64, 65}) {
        std::vector<std::byte> to(size + 200, std::byte{0xee});
        StreamingCopy(std::span(from).subspan(in, size), std::span(to).subspan(out, size));
        ASSERT_TRUE(std::equal(to.begin() + out, to.begin() + out + size, from.begin() + in));
        const auto untouched = [](std::byte b) { return b == std::byte{0xee}; };
        ASSERT_TRUE(std::all_of(to.begin(), to.begin() + out, untouched));
        ASSERT_TRUE(std::all_of(to.begin() + out + size, to.end(), untouched));
      }
    }
  }
}

}  // namespace
}  // namespace kvstow
