#include "staging/side_channel.h"

#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "absl/strings/str_cat.h"

namespace kvstow {
namespace {

constexpr uint32_t kMagic = 0x5353564b;  // "KVSS"
constexpr uint32_t kVersion = 1;

struct RequestPacket {
  uint32_t magic = kMagic;
  uint32_t version = kVersion;
  std::array<uint8_t, 16> session{};
  uint64_t bytes = 0;
};
static_assert(sizeof(RequestPacket) == 32);

struct AnswerPacket {
  uint32_t magic = kMagic;
  uint32_t version = kVersion;
  uint32_t code = 0;  // absl::StatusCode; with 0 comes one descriptor
  uint32_t region = 0;
  uint64_t bytes = 0;
  std::array<char, 232> message{};  // for people, of a refusal
};
static_assert(sizeof(AnswerPacket) == 256);

absl::StatusOr<sockaddr_un> AddressOf(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.empty() || path.size() >= sizeof(address.sun_path)) {
    return absl::InvalidArgumentError(absl::StrCat("a Unix socket's path has 1 to ",
                                                   sizeof(address.sun_path) - 1,
                                                   " bytes, this one ", path.size(), ": ", path));
  }
  std::memcpy(address.sun_path, path.data(), path.size());
  return address;
}

const sockaddr* Generic(const sockaddr_un& address) {
  return reinterpret_cast<const sockaddr*>(&address);
}

absl::StatusOr<OwnedFd> Dial(const std::string& path) {
  auto address = AddressOf(path);
  if (!address.ok()) return address.status();
  OwnedFd fd(socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd) return absl::ErrnoToStatus(errno, "socket");
  if (connect(fd.get(), Generic(*address), sizeof(*address)) != 0) {
    return absl::UnavailableError(
        absl::StrCat("nobody offers shared memory at ", path, ": ", std::strerror(errno)));
  }
  return fd;
}

// True when somebody listens there, be it with a full backlog.
bool IsLive(const sockaddr_un& address) {
  const OwnedFd fd(socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  return fd && (connect(fd.get(), Generic(address), sizeof(address)) == 0 || errno == EAGAIN);
}

bool WaitReadable(const OwnedFd& fd, absl::Duration timeout) {
  const auto ms = std::max<int64_t>(absl::ToInt64Milliseconds(timeout), 0);
  pollfd wait{.fd = fd.get(), .events = POLLIN, .revents = 0};
  int n = 0;
  do {
    n = poll(&wait, 1, static_cast<int>(std::min<int64_t>(ms, 60'000)));
  } while (n < 0 && errno == EINTR);
  return n == 1;
}

// The answer and what descriptor came with it.
absl::StatusOr<AnswerPacket> ReceiveAnswer(const OwnedFd& connection, OwnedFd* memory) {
  AnswerPacket answer;
  iovec data{.iov_base = &answer, .iov_len = sizeof(answer)};
  alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof(int))> control{};
  msghdr message{};
  message.msg_iov = &data;
  message.msg_iovlen = 1;
  message.msg_control = control.data();
  message.msg_controllen = control.size();
  const ssize_t n = recvmsg(connection.get(), &message, MSG_CMSG_CLOEXEC);
  if (const cmsghdr* header = CMSG_FIRSTHDR(&message);
      n >= 0 && header != nullptr && header->cmsg_type == SCM_RIGHTS) {
    int fd = -1;
    std::memcpy(&fd, CMSG_DATA(header), sizeof(fd));
    *memory = OwnedFd(fd);
  }
  if (n <= 0) return absl::UnavailableError("the daemon ended the side channel");
  if (n != sizeof(answer) || answer.magic != kMagic) {
    return absl::InternalError("what answered on the side channel is no kvstow daemon");
  }
  if (answer.version != kVersion) {
    return absl::UnimplementedError(absl::StrCat("side channel version ", answer.version));
  }
  return answer;
}

void Send(const OwnedFd& connection, const AnswerPacket& answer, const OwnedFd* memory) {
  iovec data{.iov_base = const_cast<AnswerPacket*>(&answer), .iov_len = sizeof(answer)};
  alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof(int))> control{};
  msghdr message{};
  message.msg_iov = &data;
  message.msg_iovlen = 1;
  if (memory != nullptr) {
    message.msg_control = control.data();
    message.msg_controllen = control.size();
    cmsghdr* const header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(sizeof(int));
    const int fd = memory->get();
    std::memcpy(CMSG_DATA(header), &fd, sizeof(fd));
  }
  // Fits the buffer of a fresh connection; who does not read has only itself to blame.
  static_cast<void>(sendmsg(connection.get(), &message, MSG_NOSIGNAL | MSG_DONTWAIT));
}

}  // namespace

std::string SideChannelPath(absl::string_view unix_socket) {
  return absl::StrCat(unix_socket, ".staging");
}

absl::StatusOr<GrantedRegion> RequestRegion(const std::string& path, const StagingRequest& request,
                                            absl::Duration timeout) {
  auto connection = Dial(path);
  if (!connection.ok()) return connection.status();
  RequestPacket packet;
  packet.session = request.session;
  packet.bytes = request.bytes;
  if (send(connection->get(), &packet, sizeof(packet), MSG_NOSIGNAL) != sizeof(packet)) {
    return absl::UnavailableError("the side channel broke");
  }
  if (!WaitReadable(*connection, timeout)) {
    return absl::UnavailableError("the daemon does not answer on its side channel");
  }
  OwnedFd memory;
  auto answer = ReceiveAnswer(*connection, &memory);
  if (!answer.ok()) return answer.status();
  if (answer->code != 0) {
    answer->message.back() = 0;
    return absl::Status(static_cast<absl::StatusCode>(answer->code), answer->message.data());
  }
  if (!memory) return absl::InternalError("the daemon granted shared memory and passed none");
  auto region = SharedRegion::Map(memory, answer->bytes);
  if (!region.ok()) return region.status();
  return GrantedRegion{answer->region, *std::move(region)};
}

absl::StatusOr<OwnedFd> ListenSideChannel(const std::string& path) {
  auto address = AddressOf(path);
  if (!address.ok()) return address.status();
  OwnedFd fd(socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd) return absl::ErrnoToStatus(errno, "socket");
  struct stat there;
  if (lstat(path.c_str(), &there) == 0) {
    if (!S_ISSOCK(there.st_mode)) {
      return absl::UnavailableError(absl::StrCat(path, " exists and is no socket"));
    }
    if (IsLive(*address)) {
      return absl::UnavailableError(absl::StrCat(
          path, " is in use by a running process; stop it or choose another Unix socket"));
    }
    unlink(path.c_str());
  }
  if (bind(fd.get(), Generic(*address), sizeof(*address)) != 0 || listen(fd.get(), 64) != 0) {
    return absl::UnavailableError(
        absl::StrCat("cannot listen at ", path, ": ", std::strerror(errno)));
  }
  chmod(path.c_str(), 0660);  // as the daemon's own
  return fd;
}

absl::StatusOr<std::optional<StagingRequest>> ReceiveRequest(const OwnedFd& connection) {
  RequestPacket packet;
  const ssize_t n = recv(connection.get(), &packet, sizeof(packet), MSG_TRUNC);
  if (n < 0 && (errno == EAGAIN || errno == EINTR)) return std::optional<StagingRequest>();
  if (n != sizeof(packet) || packet.magic != kMagic) {
    return absl::InvalidArgumentError("what came on the side channel is no request for staging");
  }
  if (packet.version != kVersion) {
    return absl::UnimplementedError(
        absl::StrCat("side channel version ", packet.version, "; this daemon speaks ", kVersion));
  }
  return std::optional<StagingRequest>(StagingRequest{packet.session, packet.bytes});
}

void SendGrant(const OwnedFd& connection, const StagingGrant& grant, const OwnedFd& memory) {
  AnswerPacket answer;
  answer.region = grant.region;
  answer.bytes = grant.bytes;
  Send(connection, answer, &memory);
}

void SendRefusal(const OwnedFd& connection, const absl::Status& why) {
  AnswerPacket answer;
  answer.code = static_cast<uint32_t>(why.code());
  const absl::string_view message = why.message().substr(0, answer.message.size() - 1);
  std::memcpy(answer.message.data(), message.data(), message.size());
  Send(connection, answer, nullptr);
}

}  // namespace kvstow
