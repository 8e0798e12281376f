#include "staging/shared_region.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>

#include "gtest/gtest.h"

namespace kvstow {
namespace {

constexpr size_t kBytes = 1 << 16;

OwnedFd Duplicate(const OwnedFd& fd) { return OwnedFd(fcntl(fd.get(), F_DUPFD_CLOEXEC, 0)); }

TEST(SharedRegionTest, BothSidesSeeTheSameBytes) {
  auto made = SharedRegion::Create(kBytes);
  ASSERT_TRUE(made.ok()) << made.status();
  auto& [daemon, fd] = *made;
  auto worker = SharedRegion::Map(fd, kBytes);
  ASSERT_TRUE(worker.ok()) << worker.status();
  EXPECT_TRUE(std::all_of(daemon.bytes().begin(), daemon.bytes().end(),
                          [](std::byte b) { return b == std::byte{0}; }));
  worker->bytes()[kBytes - 1] = std::byte{42};
  EXPECT_EQ(daemon.bytes()[kBytes - 1], std::byte{42});
}

TEST(SharedRegionTest, OutlivesItsDescriptor) {
  auto made = SharedRegion::Create(kBytes);
  ASSERT_TRUE(made.ok());
  auto worker = SharedRegion::Map(made->second, kBytes);
  made->second = OwnedFd();
  made->first = SharedRegion();
  worker->bytes()[0] = std::byte{1};
  EXPECT_EQ(worker->bytes()[0], std::byte{1});
}

// A worker that could cut the memory short could make the daemon fault.
TEST(SharedRegionTest, ItsSizeIsSealed) {
  auto made = SharedRegion::Create(kBytes);
  ASSERT_TRUE(made.ok());
  const OwnedFd fd = Duplicate(made->second);
  EXPECT_NE(ftruncate(fd.get(), 0), 0);
  EXPECT_NE(ftruncate(fd.get(), 2 * kBytes), 0);
  EXPECT_NE(fcntl(fd.get(), F_ADD_SEALS, F_SEAL_WRITE), 0);
}

TEST(SharedRegionTest, HolesThatAreMadeInItReadAsZeros) {
  auto made = SharedRegion::Create(kBytes);
  ASSERT_TRUE(made.ok());
  made->first.bytes()[0] = std::byte{7};
  ASSERT_EQ(fallocate(made->second.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, kBytes),
            0);
  EXPECT_EQ(made->first.bytes()[0], std::byte{0});
}

TEST(SharedRegionTest, RefusesWhatIsNotSealedOrNotOfThatSize) {
  OwnedFd loose(memfd_create("loose", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  ASSERT_EQ(ftruncate(loose.get(), kBytes), 0);
  EXPECT_EQ(SharedRegion::Map(loose, kBytes).status().code(),
            absl::StatusCode::kFailedPrecondition);
  auto made = SharedRegion::Create(kBytes);
  EXPECT_EQ(SharedRegion::Map(made->second, 2 * kBytes).status().code(),
            absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(SharedRegion::Map(made->second, 0).status().code(),
            absl::StatusCode::kFailedPrecondition);
  EXPECT_FALSE(SharedRegion::Map(OwnedFd(), kBytes).ok());
}

// Sizes that no file has. (What a machine has not, the kernel takes from its processes before it
// says no; the daemon's budget is what bounds it.)
TEST(SharedRegionTest, SaysWhenThereCannotBeSoMuch) {
  EXPECT_EQ(SharedRegion::Create(~size_t{0}).status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(SharedRegion::Create(0).status().code(), absl::StatusCode::kResourceExhausted);
}

}  // namespace
}  // namespace kvstow
