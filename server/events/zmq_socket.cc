#include "server/events/zmq_socket.h"

#include <sys/stat.h>
#include <zmq.h>

#include <array>
#include <cerrno>
#include <utility>

#include "absl/strings/str_cat.h"
#include "server/core/status_macros.h"
#include "server/events/event_endpoint.h"

namespace kvstow {
namespace {

// Of a subscription or a request for a replay.
constexpr int64_t kLargestRequest = 4096;

// How long what was sent last may take to get away once the daemon stops.
constexpr int kLingerMs = 500;

absl::Status ZmqError(absl::string_view what, const std::string& endpoint) {
  return absl::UnavailableError(absl::StrCat(what, " ", endpoint, ": ", zmq_strerror(zmq_errno())));
}

void ForgetPart(void*, void* part) { delete static_cast<ZmqSocket::Part*>(part); }

}  // namespace

ZmqContext::ZmqContext() : context_(zmq_ctx_new()) {}
ZmqContext::~ZmqContext() {
  while (zmq_ctx_term(context_) != 0 && zmq_errno() == EINTR) {
  }
}

void ZmqSocket::Close::operator()(void* socket) const { zmq_close(socket); }

absl::StatusOr<ZmqSocket> ZmqSocket::Bind(const ZmqContext& context, Kind kind,
                                          const std::string& endpoint, int queued_messages) {
  std::unique_ptr<void, Close> socket(
      zmq_socket(context.get(), kind == Kind::kPublisher ? ZMQ_PUB : ZMQ_ROUTER));
  if (socket == nullptr) return ZmqError("no ZeroMQ socket for", endpoint);
  const int ipv6 = 1, linger = kLingerMs;
  zmq_setsockopt(socket.get(), ZMQ_IPV6, &ipv6, sizeof(ipv6));
  zmq_setsockopt(socket.get(), ZMQ_LINGER, &linger, sizeof(linger));
  zmq_setsockopt(socket.get(), ZMQ_MAXMSGSIZE, &kLargestRequest, sizeof(kLargestRequest));
  zmq_setsockopt(socket.get(), ZMQ_SNDHWM, &queued_messages, sizeof(queued_messages));
  const std::string path = IpcPathOf(endpoint);
  if (!path.empty()) KVSTOW_RETURN_IF_ERROR(ClaimIpcPath(path));
  if (zmq_bind(socket.get(), endpoint.c_str()) != 0) return ZmqError("cannot bind", endpoint);
  if (!path.empty()) chmod(path.c_str(), 0660);
  std::array<char, 256> bound{};
  size_t size = bound.size();
  if (zmq_getsockopt(socket.get(), ZMQ_LAST_ENDPOINT, bound.data(), &size) != 0)
    return ZmqError("cannot tell where it bound", endpoint);
  return ZmqSocket(std::move(socket), bound.data());
}

void ZmqSocket::Send(const std::vector<Part>& parts) {
  for (size_t i = 0; i < parts.size(); ++i) {
    zmq_msg_t message;
    // Taken over with the message: ForgetPart lets go of it.
    auto* const part = new Part(parts[i]);
    zmq_msg_init_data(&message, const_cast<char*>((*part)->data()), (*part)->size(), ForgetPart,
                      part);
    const int more = i + 1 < parts.size() ? ZMQ_SNDMORE : 0;
    if (zmq_msg_send(&message, socket_.get(), ZMQ_DONTWAIT | more) >= 0) continue;
    zmq_msg_close(&message);
    return;
  }
}

std::optional<std::vector<std::string>> ZmqSocket::Receive() {
  std::vector<std::string> parts;
  bool more = true;
  while (more) {
    zmq_msg_t message;
    zmq_msg_init(&message);
    const bool received = zmq_msg_recv(&message, socket_.get(), ZMQ_DONTWAIT) >= 0;
    if (received) {
      parts.emplace_back(static_cast<const char*>(zmq_msg_data(&message)), zmq_msg_size(&message));
      more = zmq_msg_more(&message) != 0;
    }
    zmq_msg_close(&message);
    if (!received) return std::nullopt;
  }
  return parts;
}

}  // namespace kvstow
