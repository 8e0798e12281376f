#include "client/tool/doctor/reach.h"

#include <fcntl.h>
#include <netdb.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <memory>
#include <optional>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/strip.h"

namespace kvstow::tool {
namespace {

namespace fs = std::filesystem;

std::string WhoAmI() {
  std::vector<gid_t> groups(static_cast<size_t>(std::max(getgroups(0, nullptr), 0)));
  groups.resize(
      static_cast<size_t>(std::max(getgroups(static_cast<int>(groups.size()), groups.data()), 0)));
  groups.insert(groups.begin(), getegid());
  groups.erase(std::unique(groups.begin(), groups.end()), groups.end());
  return absl::StrCat("user ", geteuid(), " of groups ", absl::StrJoin(groups, ","));
}

std::string Rights(const struct stat& st) {
  return absl::StrFormat("mode %04o, owner %d:%d", st.st_mode & 07777, st.st_uid, st.st_gid);
}

// The first folder on the way to `path` that is not there or may not be entered, as a finding;
// nullopt when the way is free.
std::optional<Finding> BlockedFolder(const fs::path& path) {
  fs::path folder;
  for (const fs::path& part : path.parent_path()) {
    folder /= part;
    struct stat st;
    if (stat(folder.c_str(), &st) != 0) {
      return Finding{
          Finding::Level::kFail, "socket",
          absl::StrCat("there is no folder ", folder.string(), " (", std::strerror(errno), ")"),
          "mount the volume of kvstowd's socket there, in this container too, or name "
          "the socket with --target or $KVSTOW_TARGET"};
    }
    if (faccessat(AT_FDCWD, folder.c_str(), X_OK, AT_EACCESS) != 0) {
      return Finding{
          Finding::Level::kFail, "socket",
          absl::StrCat(WhoAmI(), " may not enter folder ", folder.string(), " (", Rights(st), ")"),
          absl::StrCat("put this container's user into group ", st.st_gid,
                       ": fsGroup of the pod, or supplementalGroups")};
    }
  }
  return std::nullopt;
}

Finding Unconnected(int error, const std::string& path, const struct stat& st) {
  Finding finding{Finding::Level::kFail, "socket", "", ""};
  if (error == EACCES || error == EPERM) {
    finding.found = absl::StrCat(WhoAmI(), " may not use ", path, " (", Rights(st), ")");
    finding.change =
        absl::StrCat("put this container's user into group ", st.st_gid,
                     ": fsGroup of the pod, or supplementalGroups; or let both run as one user");
  } else if (error == ECONNREFUSED) {
    finding.found = absl::StrCat("nobody listens at ", path, ": its daemon is gone (stale socket)");
    finding.change =
        "start kvstowd, which takes the file's place; its log and `kubectl describe pod` say why "
        "it ended";
  } else if (error == EPROTOTYPE) {
    finding.found = absl::StrCat(path, " is a socket of another kind");
    finding.change = "name the socket of kvstowd's unix_socket, not the side channel beside it";
  } else if (error == EAGAIN) {
    finding.found =
        absl::StrCat("the daemon at ", path, " accepts no connection: its queue is full");
    finding.change = "it is stopped, or gets no processor: look at its CPU request and its log";
  } else {
    finding.found = absl::StrCat("cannot connect to ", path, ": ", std::strerror(error));
    finding.change = "see kvstowd's log";
  }
  return finding;
}

void Add(const Finding& finding, Checkup* checkup) {
  checkup->Fail(finding.check, finding.found, finding.change);
}

// Connects without waiting; 0 or errno. REQUIRES: the path fits.
int Dial(const std::string& path, OwnedFd* connection) {
  *connection = OwnedFd(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  path.copy(address.sun_path, sizeof(address.sun_path) - 1);
  if (!*connection) return errno;
  const auto* const to = reinterpret_cast<const sockaddr*>(&address);
  return connect(connection->get(), to, sizeof(address)) == 0 ? 0 : errno;
}

Reached CheckSocket(const std::string& path, Checkup* checkup) {
  if (path.size() >= sizeof(sockaddr_un::sun_path)) {
    checkup->Fail("socket",
                  absl::StrCat("the path has ", path.size(), " bytes, a Unix socket's at most ",
                               sizeof(sockaddr_un::sun_path) - 1),
                  "choose a shorter unix_socket");
    return {};
  }
  if (const auto blocked = BlockedFolder(path)) {
    Add(*blocked, checkup);
    return {};
  }
  struct stat st;
  if (stat(path.c_str(), &st) != 0) {
    checkup->Fail("socket", absl::StrCat(path, ": ", std::strerror(errno)),
                  "is kvstowd running, with this unix_socket, on the same volume? A container that "
                  "does not start says why in its log: kubectl logs POD -c kvstowd");
    return {};
  }
  if (!S_ISSOCK(st.st_mode)) {
    checkup->Fail("socket", absl::StrCat(path, " is no socket"),
                  "name the socket with --target; kvstowd does not replace other files");
    return {};
  }
  OwnedFd connection;
  if (const int error = Dial(path, &connection); error != 0) {
    Add(Unconnected(error, path, st), checkup);
    return {};
  }
  ucred peer{};
  socklen_t size = sizeof(peer);
  getsockopt(connection.get(), SOL_SOCKET, SO_PEERCRED, &peer, &size);
  checkup->Ok("socket", absl::StrCat(path, " answers (", Rights(st), "); this is ", WhoAmI()));
  return {std::move(connection), peer.pid};
}

bool WaitWritable(int fd, absl::Duration timeout) {
  pollfd wait{.fd = fd, .events = POLLOUT, .revents = 0};
  return poll(&wait, 1, static_cast<int>(absl::ToInt64Milliseconds(timeout))) == 1;
}

absl::StatusOr<OwnedFd> DialOne(const addrinfo& to, absl::Duration timeout) {
  OwnedFd fd(socket(to.ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd) return absl::UnavailableError(std::strerror(errno));
  int error = connect(fd.get(), to.ai_addr, to.ai_addrlen) == 0 ? 0 : errno;
  if (error == EINPROGRESS) {
    if (!WaitWritable(fd.get(), timeout)) return absl::UnavailableError(std::strerror(ETIMEDOUT));
    socklen_t size = sizeof(error);
    getsockopt(fd.get(), SOL_SOCKET, SO_ERROR, &error, &size);
  }
  if (error != 0) return absl::UnavailableError(std::strerror(error));
  return fd;
}

}  // namespace

absl::StatusOr<Address> ParseTarget(const std::string& target) {
  absl::string_view rest = target;
  if (absl::ConsumePrefix(&rest, "unix:")) {
    absl::ConsumePrefix(&rest, "//");  // unix:///absolute
    if (!rest.empty()) return Address{std::string(rest), "", ""};
  }
  for (const char* scheme : {"dns:///", "dns:", "ipv4:", "ipv6:"}) {
    if (absl::ConsumePrefix(&rest, scheme)) break;
  }
  const size_t colon = rest.rfind(':');
  if (rest.empty() || colon == absl::string_view::npos || colon + 1 == rest.size() ||
      absl::StrContains(rest, "/")) {
    return absl::InvalidArgumentError(
        absl::StrCat("'", target, "' is neither unix:PATH nor HOST:PORT"));
  }
  absl::string_view host = rest.substr(0, colon);
  if (absl::ConsumePrefix(&host, "[")) absl::ConsumeSuffix(&host, "]");
  return Address{"", std::string(host), std::string(rest.substr(colon + 1))};
}

absl::StatusOr<OwnedFd> DialTcp(const Address& address, absl::Duration timeout) {
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* found = nullptr;
  const int error = getaddrinfo(address.host.c_str(), address.port.c_str(), &hints, &found);
  if (error != 0) return absl::NotFoundError(gai_strerror(error));
  const std::unique_ptr<addrinfo, decltype(&freeaddrinfo)> all(found, freeaddrinfo);
  absl::StatusOr<OwnedFd> last = absl::UnavailableError("the name has no address");
  for (const addrinfo* each = found; each != nullptr; each = each->ai_next) {
    last = DialOne(*each, timeout);
    if (last.ok()) break;
  }
  return last;
}

Reached CheckReach(const Address& address, absl::Duration timeout, Checkup* checkup) {
  if (address.local()) return CheckSocket(address.socket, checkup);
  const std::string where = absl::StrCat(address.host, ":", address.port);
  auto connection = DialTcp(address, timeout);
  if (connection.ok()) {
    checkup->Ok("address", absl::StrCat(where, " accepts connections"));
    return {*std::move(connection), 0};
  }
  const std::string said(connection.status().message());
  if (absl::IsNotFound(connection.status())) {
    checkup->Fail("address", absl::StrCat(address.host, " is not known: ", said),
                  "is it the Service's name, with its namespace (kvstowd.kvstow.svc)? Does this "
                  "pod have DNS?");
  } else {
    checkup->Fail("address", absl::StrCat(where, ": ", said),
                  "is kvstowd running with `tcp` there, is there one on this node, does its "
                  "network policy let this pod in (label kvstow: client)?");
  }
  return {};
}

}  // namespace kvstow::tool
