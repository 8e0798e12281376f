// Connections below gRPC, for clients that do not speak as they should.
#pragma once

#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <string>

#include "absl/strings/match.h"
#include "absl/strings/string_view.h"
#include "staging/shared_region.h"

namespace kvstow::testing {

// What an HTTP/2 client says first, with empty SETTINGS.
inline constexpr absl::string_view kHttp2Preface(
    "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0", 33);

// To "unix:/path" or "127.0.0.1:port"; empty when it fails.
inline OwnedFd Connect(const std::string& listener) {
  const bool local = absl::StartsWith(listener, "unix:");
  OwnedFd fd(socket(local ? AF_UNIX : AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_un path{};
  path.sun_family = AF_UNIX;
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  int done = -1;
  if (local) {
    listener.copy(path.sun_path, sizeof(path.sun_path) - 1, 5);
    done = connect(fd.get(), reinterpret_cast<sockaddr*>(&path), sizeof(path));
  } else {
    address.sin_port =
        htons(static_cast<uint16_t>(std::stoi(listener.substr(listener.rfind(':') + 1))));
    done = connect(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address));
  }
  return done == 0 ? std::move(fd) : OwnedFd();
}

// False when the other end is gone.
inline bool Say(const OwnedFd& fd, absl::string_view bytes) {
  return send(fd.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL) ==
         static_cast<ssize_t>(bytes.size());
}

// Takes what there is to read, after `timeout_ms` at most. False when the other end has closed.
inline bool Listen(const OwnedFd& fd, int timeout_ms) {
  pollfd wait{.fd = fd.get(), .events = POLLIN, .revents = 0};
  if (poll(&wait, 1, timeout_ms) <= 0) return true;
  char bytes[4096];
  const ssize_t n = recv(fd.get(), bytes, sizeof(bytes), MSG_DONTWAIT);
  return n > 0 || (n < 0 && errno == EAGAIN);
}

}  // namespace kvstow::testing
