#include "client/socket_buffers.h"

#include <dirent.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <cstddef>
#include <cstring>

#include "absl/strings/numbers.h"
#include "absl/strings/string_view.h"

namespace kvstow::client {
namespace {

// The kernel doubles it.
constexpr int kSendBytes = 256 << 10;

bool LeadsTo(int fd, absl::string_view path) {
  sockaddr_un peer{};
  socklen_t size = sizeof(peer);
  if (getpeername(fd, reinterpret_cast<sockaddr*>(&peer), &size) != 0) return false;
  if (peer.sun_family != AF_UNIX || size <= offsetof(sockaddr_un, sun_path)) return false;
  return path == absl::string_view(peer.sun_path, strnlen(peer.sun_path, sizeof(peer.sun_path)));
}

}  // namespace

void WidenSendBuffers(const std::string& path) {
  DIR* const own = opendir("/proc/self/fd");
  if (own == nullptr) return;
  while (const dirent* entry = readdir(own)) {
    int fd = -1;
    if (!absl::SimpleAtoi(entry->d_name, &fd) || !LeadsTo(fd, path)) continue;
    setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &kSendBytes, sizeof(kSendBytes));
  }
  closedir(own);
}

}  // namespace kvstow::client
