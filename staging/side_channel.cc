#include "staging/side_channel.h"

#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstring>

#include "absl/strings/str_cat.h"

namespace kvstow {
namespace {

constexpr uint32_t kMagic = 0x5353564b;  // "KVSS"
constexpr uint32_t kVersion = 2;

enum class MemoryKind : uint32_t { kHost = 0, kDevice = 1 };

struct RequestPacket {
  uint32_t magic = kMagic;
  uint32_t version = kVersion;
  std::array<uint8_t, 16> session{};
  uint64_t bytes = 0;
  MemoryKind kind = MemoryKind::kHost;
  SideChannelUuid gpu{};
  std::array<uint8_t, 12> reserved{};
};
static_assert(sizeof(RequestPacket) == 64);

// What the worker says of device memory.
struct ProofPacket {
  uint32_t magic = kMagic;
  uint32_t version = kVersion;
  uint32_t code = 0;  // absl::StatusCode; 0: found and answered
  std::array<char, 116> message{};
};
static_assert(sizeof(ProofPacket) == 128);

struct AnswerPacket {
  uint32_t magic = kMagic;
  uint32_t version = kVersion;
  uint32_t code = 0;  // absl::StatusCode; with 0 comes one descriptor
  uint32_t region = 0;
  uint64_t bytes = 0;
  StagingProbe probe;               // of device memory that is to be proved
  std::array<char, 216> message{};  // for people, of a refusal
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

// `memory`: a descriptor to pass on, or -1.
void Send(const OwnedFd& connection, const AnswerPacket& answer, int memory) {
  iovec data{.iov_base = const_cast<AnswerPacket*>(&answer), .iov_len = sizeof(answer)};
  alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof(int))> control{};
  msghdr message{};
  message.msg_iov = &data;
  message.msg_iovlen = 1;
  if (memory >= 0) {
    message.msg_control = control.data();
    message.msg_controllen = control.size();
    cmsghdr* const header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(sizeof(int));
    std::memcpy(CMSG_DATA(header), &memory, sizeof(memory));
  }
  // Fits the buffer of a fresh connection; who does not read has only itself to blame.
  static_cast<void>(sendmsg(connection.get(), &message, MSG_NOSIGNAL | MSG_DONTWAIT));
}

// As much of it as there is room for, ending in 0.
template <size_t kRoom>
void PutMessage(absl::string_view message, std::array<char, kRoom>* out) {
  message = message.substr(0, kRoom - 1);
  std::copy(message.begin(), message.end(), out->begin());
}

absl::StatusOr<OwnedFd> Ask(const std::string& path, const StagingRequest& request) {
  auto connection = Dial(path);
  if (!connection.ok()) return connection;
  RequestPacket packet;
  packet.session = request.session;
  packet.bytes = request.bytes;
  if (request.gpu) {
    packet.kind = MemoryKind::kDevice;
    packet.gpu = *request.gpu;
  }
  if (send(connection->get(), &packet, sizeof(packet), MSG_NOSIGNAL) != sizeof(packet)) {
    return absl::UnavailableError("the side channel broke");
  }
  return connection;
}

// An answer that is no refusal.
absl::StatusOr<AnswerPacket> AwaitAnswer(const OwnedFd& connection, absl::Duration timeout,
                                         OwnedFd* memory) {
  if (!WaitReadable(connection, timeout)) {
    return absl::UnavailableError("the daemon does not answer on its side channel");
  }
  auto answer = ReceiveAnswer(connection, memory);
  if (!answer.ok() || answer->code == 0) return answer;
  answer->message.back() = 0;
  return absl::Status(static_cast<absl::StatusCode>(answer->code), answer->message.data());
}

}  // namespace

std::string SideChannelPath(absl::string_view unix_socket) {
  return absl::StrCat(unix_socket, ".staging");
}

StagingProbe StagingProbe::Answer() const {
  StagingProbe answer;
  for (size_t i = 0; i < bytes.size(); ++i) answer.bytes[i] = static_cast<uint8_t>(~bytes[i]);
  return answer;
}

absl::StatusOr<GrantedRegion> RequestRegion(const std::string& path, const StagingRequest& request,
                                            absl::Duration timeout) {
  OwnedFd memory;
  auto connection = Ask(path, request);
  if (!connection.ok()) return connection.status();
  auto answer = AwaitAnswer(*connection, timeout, &memory);
  if (!answer.ok()) return answer.status();
  if (!memory) return absl::InternalError("the daemon granted shared memory and passed none");
  auto region = SharedRegion::Map(memory, answer->bytes);
  if (!region.ok()) return region.status();
  return GrantedRegion{answer->region, *std::move(region)};
}

absl::StatusOr<StagingGrant> RequestDeviceRegion(const std::string& path,
                                                 const StagingRequest& request,
                                                 absl::Duration timeout, ProveMemory prove) {
  OwnedFd memory, none;
  auto connection = Ask(path, request);
  if (!connection.ok()) return connection.status();
  auto answer = AwaitAnswer(*connection, timeout, &memory);
  if (!answer.ok()) return answer.status();
  if (!memory) return absl::InternalError("the daemon granted device memory and passed none");
  const absl::Status proved = prove(memory, answer->bytes, answer->probe);
  ProofPacket proof;
  proof.code = static_cast<uint32_t>(proved.code());
  PutMessage(proved.message(), &proof.message);
  if (send(connection->get(), &proof, sizeof(proof), MSG_NOSIGNAL) != sizeof(proof)) {
    return absl::UnavailableError("the side channel broke");
  }
  if (!proved.ok()) return proved;
  auto granted = AwaitAnswer(*connection, timeout, &none);
  if (!granted.ok()) return granted.status();
  return StagingGrant{granted->region, answer->bytes};
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
  // Versions differ in size.
  constexpr ssize_t kPrefix = offsetof(RequestPacket, session);
  if (n < kPrefix || packet.magic != kMagic ||
      (packet.version == kVersion && n != sizeof(packet))) {
    return absl::InvalidArgumentError("what came on the side channel is no request for staging");
  }
  if (packet.version != kVersion) {
    return absl::UnimplementedError(
        absl::StrCat("side channel version ", packet.version, "; this daemon speaks ", kVersion));
  }
  StagingRequest request{packet.session, packet.bytes};
  if (packet.kind == MemoryKind::kDevice) {
    request.gpu = packet.gpu;
  } else if (packet.kind != MemoryKind::kHost) {
    return absl::InvalidArgumentError(
        absl::StrCat("no kind of memory: ", static_cast<uint32_t>(packet.kind)));
  }
  return std::optional(request);
}

void SendGrant(const OwnedFd& connection, const StagingGrant& grant, int memory) {
  AnswerPacket answer;
  answer.region = grant.region;
  answer.bytes = grant.bytes;
  Send(connection, answer, memory);
}

void SendProbe(const OwnedFd& connection, uint64_t bytes, const StagingProbe& probe, int memory) {
  AnswerPacket answer;
  answer.bytes = bytes;
  answer.probe = probe;
  Send(connection, answer, memory);
}

absl::StatusOr<std::optional<absl::Status>> ReceiveProof(const OwnedFd& connection) {
  ProofPacket packet;
  const ssize_t n = recv(connection.get(), &packet, sizeof(packet), MSG_TRUNC);
  if (n < 0 && (errno == EAGAIN || errno == EINTR)) return std::optional<absl::Status>();
  if (n != sizeof(packet) || packet.magic != kMagic || packet.version != kVersion) {
    return absl::InvalidArgumentError("what came on the side channel is no word on the probe");
  }
  packet.message.back() = 0;
  return std::optional(
      absl::Status(static_cast<absl::StatusCode>(packet.code), packet.message.data()));
}

void SendProved(const OwnedFd& connection, const StagingGrant& grant) {
  SendGrant(connection, grant, -1);
}

void SendRefusal(const OwnedFd& connection, const absl::Status& why) {
  AnswerPacket answer;
  answer.code = static_cast<uint32_t>(why.code());
  PutMessage(why.message(), &answer.message);
  Send(connection, answer, -1);
}

}  // namespace kvstow
