#include "staging/shared_region.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>

#include "absl/strings/str_cat.h"

namespace kvstow {
namespace {

constexpr int kSeals = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL;

}  // namespace

OwnedFd::~OwnedFd() {
  if (fd_ >= 0) close(fd_);
}

SharedRegion::~SharedRegion() {
  if (!bytes_.empty()) munmap(bytes_.data(), bytes_.size());
}

absl::StatusOr<SharedRegion> SharedRegion::MapPages(int fd, size_t bytes) {
  void* const at = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  if (at == MAP_FAILED) {
    return absl::ErrnoToStatus(errno, absl::StrCat("cannot map ", bytes, " shared bytes"));
  }
  return SharedRegion({static_cast<std::byte*>(at), bytes});
}

absl::StatusOr<std::pair<SharedRegion, OwnedFd>> SharedRegion::Create(size_t bytes) {
  OwnedFd fd(memfd_create("kvstow-staging", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  if (!fd) return absl::ErrnoToStatus(errno, "memfd_create");
  // All pages now, so that the first calls do not wait for them.
  if (const int error = posix_fallocate(fd.get(), 0, static_cast<off_t>(bytes)); error != 0) {
    return absl::ResourceExhaustedError(
        absl::StrCat("no memory for ", bytes, " shared bytes (error ", error, ")"));
  }
  if (fcntl(fd.get(), F_ADD_SEALS, kSeals) != 0) {
    return absl::ErrnoToStatus(errno, "cannot seal the size of shared memory");
  }
  absl::StatusOr<SharedRegion> region = MapPages(fd.get(), bytes);
  if (!region.ok()) return region.status();
  return std::make_pair(*std::move(region), std::move(fd));
}

absl::StatusOr<SharedRegion> SharedRegion::Map(const OwnedFd& fd, size_t bytes) {
  struct stat file;
  if (fstat(fd.get(), &file) != 0) return absl::ErrnoToStatus(errno, "fstat");
  if (bytes == 0 || static_cast<uint64_t>(file.st_size) != bytes) {
    return absl::FailedPreconditionError(
        absl::StrCat("shared memory of ", file.st_size, " bytes; it should have ", bytes));
  }
  const int seals = fcntl(fd.get(), F_GET_SEALS);
  if (seals < 0 || (seals & F_SEAL_SHRINK) == 0) {
    return absl::FailedPreconditionError("shared memory whose size is not sealed");
  }
  return MapPages(fd.get(), bytes);
}

}  // namespace kvstow
