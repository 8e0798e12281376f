#include "server/events/event_endpoint.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "staging/shared_region.h"

namespace kvstow {
namespace {

absl::Status Invalid(const std::string& endpoint, absl::string_view what) {
  return absl::InvalidArgumentError(absl::StrCat("'", endpoint, "' ", what));
}

absl::Status CheckIpc(const std::string& endpoint, const std::string& path) {
  if (!absl::StartsWith(path, "/")) {
    return Invalid(endpoint, "has no absolute path; write ipc:///run/kvstow/events.sock");
  }
  if (path.size() >= sizeof(sockaddr_un::sun_path)) {
    return Invalid(endpoint,
                   absl::StrCat("has a path longer than the ", sizeof(sockaddr_un::sun_path) - 1,
                                " bytes that a socket's may have"));
  }
  return absl::OkStatus();
}

// False for what is no numeric address.
bool ParseHost(absl::string_view host, bool* loopback) {
  *loopback = false;
  if (host == "*") return true;
  in_addr v4{};
  if (inet_pton(AF_INET, std::string(host).c_str(), &v4) == 1) {
    *loopback = (ntohl(v4.s_addr) >> 24) == 127;
    return true;
  }
  in6_addr v6{};
  if (!absl::ConsumePrefix(&host, "[") || !absl::ConsumeSuffix(&host, "]") ||
      inet_pton(AF_INET6, std::string(host).c_str(), &v6) != 1)
    return false;
  *loopback = IN6_IS_ADDR_LOOPBACK(&v6);
  return true;
}

absl::Status CheckTcp(const std::string& endpoint, absl::string_view address, bool insecure) {
  const size_t colon = address.rfind(':');
  uint32_t port = 0;
  bool loopback = false;
  if (colon == absl::string_view::npos || !absl::SimpleAtoi(address.substr(colon + 1), &port) ||
      port > 65535 || !ParseHost(address.substr(0, colon), &loopback)) {
    return Invalid(endpoint,
                   "is not tcp://address:port with a numeric address, like tcp://127.0.0.1:5557");
  }
  if (loopback || insecure) return absl::OkStatus();
  return Invalid(endpoint,
                 "can be read by everybody who reaches the port, with the token ids that Puts send "
                 "along. Use 127.0.0.1 or ipc://, or say --insecure if they may");
}

bool IsLive(const std::string& path) {
  const OwnedFd fd(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::memcpy(address.sun_path, path.data(), path.size());
  return fd && (connect(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)) == 0 ||
                errno == EAGAIN);
}

}  // namespace

std::string IpcPathOf(const std::string& endpoint) {
  absl::string_view path = endpoint;
  return absl::ConsumePrefix(&path, "ipc://") ? std::string(path) : "";
}

absl::Status CheckEventEndpoint(const std::string& endpoint, bool insecure) {
  absl::string_view rest = endpoint;
  if (absl::ConsumePrefix(&rest, "ipc://")) return CheckIpc(endpoint, std::string(rest));
  if (absl::ConsumePrefix(&rest, "tcp://")) return CheckTcp(endpoint, rest, insecure);
  return Invalid(endpoint,
                 "is no endpoint; write ipc:///run/kvstow/events.sock or tcp://127.0.0.1:5557");
}

absl::Status ClaimIpcPath(const std::string& path) {
  struct stat there;
  if (lstat(path.c_str(), &there) != 0) return absl::OkStatus();
  if (!S_ISSOCK(there.st_mode)) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, " exists and is no socket; choose another path"));
  }
  if (IsLive(path)) {
    return absl::UnavailableError(
        absl::StrCat(path, " is in use by a running process; stop it or choose another path"));
  }
  unlink(path.c_str());
  return absl::OkStatus();
}

}  // namespace kvstow
