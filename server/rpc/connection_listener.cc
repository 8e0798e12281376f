#include "server/rpc/connection_listener.h"

#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"

namespace kvstow {
namespace {

constexpr int kBacklog = 4096;  // the kernel cuts it to net.core.somaxconn
// What a Unix socket may hold, doubled by the kernel, as far as net.core.wmem_max allows: by
// default it is full after a fifth of a chunk, and each time that it is costs both sides a wait; a
// whole chunk would leave the near caches on its way. TCP sizes its own.
constexpr int kUnixSendBytes = 256 << 10;
// Other connections get their turn.
constexpr int kAcceptsAtATime = 64;

// The first descriptor that is not for connections.
int FirstReserved() {
  rlimit files{};
  getrlimit(RLIMIT_NOFILE, &files);
  const auto limit = static_cast<int>(std::min<rlim_t>(files.rlim_cur, 1 << 30));
  return limit - std::min(ConnectionListener::kReservedDescriptors, limit / 2);
}

void SetOption(int fd, int level, int option, int value = 1) {
  setsockopt(fd, level, option, &value, sizeof(value));
}

// A listening socket; -1 with errno.
int ListenAt(const addrinfo& at) {
  const int fd = socket(at.ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd < 0) return -1;
  // After a restart the port is free at once; but two daemons cannot share it (SO_REUSEPORT).
  SetOption(fd, SOL_SOCKET, SO_REUSEADDR);
  SetOption(fd, IPPROTO_TCP, TCP_NODELAY);  // what is accepted inherits it
  if (bind(fd, at.ai_addr, at.ai_addrlen) == 0 && listen(fd, kBacklog) == 0) return fd;
  const int error = errno;
  close(fd);
  errno = error;
  return -1;
}

int PortOf(int fd) {
  sockaddr_storage name{};
  socklen_t size = sizeof(name);
  getsockname(fd, reinterpret_cast<sockaddr*>(&name), &size);
  return ntohs(name.ss_family == AF_INET6 ? reinterpret_cast<sockaddr_in6&>(name).sin6_port
                                          : reinterpret_cast<sockaddr_in&>(name).sin_port);
}

void SetPort(addrinfo* at, int port) {
  const auto value = htons(static_cast<uint16_t>(port));
  if (at->ai_family == AF_INET6) {
    reinterpret_cast<sockaddr_in6*>(at->ai_addr)->sin6_port = value;
  } else {
    reinterpret_cast<sockaddr_in*>(at->ai_addr)->sin_port = value;
  }
}

}  // namespace

ConnectionListener::~ConnectionListener() { Stop(); }

absl::Status ConnectionListener::ListenUnix(const std::string& path, Take take) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  path.copy(address.sun_path, sizeof(address.sun_path) - 1);
  const int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  const bool bound =
      fd >= 0 && bind(fd, reinterpret_cast<sockaddr*>(&address), sizeof(address)) == 0;
  // The user and its group, before anybody can connect: a worker container of the same pod shares
  // one of them.
  if (!bound || chmod(path.c_str(), 0660) != 0 || listen(fd, kBacklog) != 0) {
    const int error = errno;
    if (bound) unlink(path.c_str());
    if (fd >= 0) close(fd);
    return absl::UnavailableError(
        absl::StrCat("cannot listen on unix_socket '", path, "': ", std::strerror(error),
                     "; does its folder exist, may this user write there?"));
  }
  unix_path_ = path;
  listening_.push_back({fd, kUnixSendBytes, std::move(take)});
  return absl::OkStatus();
}

absl::StatusOr<int> ConnectionListener::ListenTcp(const std::string& address, Take take) {
  const size_t colon = address.rfind(':');
  absl::string_view host = absl::string_view(address).substr(0, colon);
  if (absl::ConsumePrefix(&host, "[")) absl::ConsumeSuffix(&host, "]");
  const std::string port_text = colon == std::string::npos ? "" : address.substr(colon + 1);
  const auto failed = [&](const char* why) {
    return absl::UnavailableError(absl::StrCat("cannot listen on tcp '", address, "': ", why,
                                               "; is the port free, is the address this host's?"));
  };
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_PASSIVE;
  addrinfo* found = nullptr;
  const int error = getaddrinfo(std::string(host).c_str(), port_text.c_str(), &hints, &found);
  if (error != 0) return failed(gai_strerror(error));
  const std::unique_ptr<addrinfo, decltype(&freeaddrinfo)> all(found, freeaddrinfo);
  int port = 0;
  for (addrinfo* at = found; at != nullptr; at = at->ai_next) {
    if (port != 0) SetPort(at, port);  // one port, also where it is any
    const int fd = ListenAt(*at);
    if (fd < 0) continue;
    if (port == 0) port = PortOf(fd);
    listening_.push_back({fd, 0, take});
  }
  if (port == 0) return failed(std::strerror(errno));
  return port;
}

void ConnectionListener::Start() {
  stop_ = eventfd(0, EFD_CLOEXEC);
  thread_ = std::thread([this] { Loop(); });
}

void ConnectionListener::Stop() {
  if (thread_.joinable()) {
    const uint64_t one = 1;
    static_cast<void>(write(stop_, &one, sizeof(one)));
    thread_.join();
    close(stop_);
  }
  if (!unix_path_.empty()) unlink(unix_path_.c_str());
  unix_path_.clear();
  for (const Listening& each : listening_) close(each.fd);
  listening_.clear();
}

void ConnectionListener::Loop() {
  std::vector<pollfd> wait = {{.fd = stop_, .events = POLLIN, .revents = 0}};
  for (const Listening& each : listening_) {
    wait.push_back({.fd = each.fd, .events = POLLIN, .revents = 0});
  }
  while (true) {
    poll(wait.data(), wait.size(), -1);
    if (wait.front().revents != 0) return;
    for (size_t i = 1; i < wait.size(); ++i) {
      if (wait[i].revents != 0) Accept(listening_[i - 1]);
    }
  }
}

void ConnectionListener::Accept(const Listening& from) {
  const int first_reserved = FirstReserved();
  for (int i = 0; i < kAcceptsAtATime; ++i) {
    const int fd = accept4(from.fd, nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (fd < 0) {
      const bool nobody = errno == EAGAIN || errno == EINTR || errno == ECONNABORTED;
      // Others took even the reserved ones, or memory is short: those who wait go on waiting.
      if (!nobody) Rest();
      return;
    }
    // The kernel gives the lowest free number.
    if (fd < first_reserved) {
      if (from.send_bytes > 0) SetOption(fd, SOL_SOCKET, SO_SNDBUF, from.send_bytes);
      from.take(fd);
    } else {
      close(fd);
      ++refused_;
    }
  }
}

void ConnectionListener::Rest() const {
  pollfd stop{.fd = stop_, .events = POLLIN, .revents = 0};
  poll(&stop, 1, 100);
}

}  // namespace kvstow
