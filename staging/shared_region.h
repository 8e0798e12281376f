// Memory that a daemon shares with one worker process: an anonymous file (memfd) whose size is
// sealed, so that neither side can make the other fault by cutting it short. It has no name in any
// file system; who holds its descriptor holds it.
//
// The contents are the peer's to change at any moment. Read each byte once, into memory of your
// own, before believing anything about it.
#pragma once

#include <cstddef>
#include <span>
#include <utility>

#include "absl/status/statusor.h"

namespace kvstow {

// A file descriptor that is closed with its owner. Move-only.
class OwnedFd {
 public:
  OwnedFd() = default;
  explicit OwnedFd(int fd) : fd_(fd) {}
  OwnedFd(OwnedFd&& o) noexcept : fd_(std::exchange(o.fd_, -1)) {}
  OwnedFd& operator=(OwnedFd&& o) noexcept {
    std::swap(fd_, o.fd_);
    return *this;
  }
  ~OwnedFd();

  int get() const { return fd_; }
  explicit operator bool() const { return fd_ >= 0; }

 private:
  int fd_ = -1;
};

// A mapping of such a file, unmapped with its owner. Move-only.
class SharedRegion {
 public:
  SharedRegion() = default;
  SharedRegion(SharedRegion&& o) noexcept : bytes_(std::exchange(o.bytes_, {})) {}
  SharedRegion& operator=(SharedRegion&& o) noexcept {
    std::swap(bytes_, o.bytes_);
    return *this;
  }
  ~SharedRegion();

  // Makes a region of zeros whose pages are all there, and the descriptor to pass on.
  // RESOURCE_EXHAUSTED for what no file can have; callers keep within a budget that the machine has
  // memory for, since Linux would rather end a process than refuse it pages.
  static absl::StatusOr<std::pair<SharedRegion, OwnedFd>> Create(size_t bytes);

  // Maps what a peer made. FAILED_PRECONDITION when the descriptor is no sealed memfd of this size.
  static absl::StatusOr<SharedRegion> Map(const OwnedFd& fd, size_t bytes);

  std::span<std::byte> bytes() const { return bytes_; }

 private:
  explicit SharedRegion(std::span<std::byte> bytes) : bytes_(bytes) {}
  static absl::StatusOr<SharedRegion> MapPages(int fd, size_t bytes);

  std::span<std::byte> bytes_;
};

}  // namespace kvstow
