// A ZeroMQ context and its sockets, with statuses. Of libzmq only what publishing needs.
//
// A ZmqContext is thread-safe; a ZmqSocket belongs to one thread at a time and must be gone before
// its context is.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace kvstow {

class ZmqContext {
 public:
  ZmqContext();
  // Waits for what closed sockets still have to send, as long as they linger.
  ~ZmqContext();
  ZmqContext(const ZmqContext&) = delete;
  void* get() const { return context_; }

 private:
  void* const context_;
};

class ZmqSocket {
 public:
  enum class Kind { kPublisher, kRouter };
  using Part = std::shared_ptr<const std::string>;

  // Bound to `endpoint` (CheckEventEndpoint has seen it); the file of an ipc endpoint is for its
  // user and group. A peer that does not read loses what is beyond `queued_messages`. UNAVAILABLE
  // says what was in the way.
  static absl::StatusOr<ZmqSocket> Bind(const ZmqContext& context, Kind kind,
                                        const std::string& endpoint, int queued_messages);
  ZmqSocket(ZmqSocket&&) noexcept = default;
  ZmqSocket& operator=(ZmqSocket&&) noexcept = default;

  // With the port that was taken for port 0.
  const std::string& endpoint() const { return endpoint_; }
  // One message; never waits. Parts are shared with it, not copied.
  void Send(const std::vector<Part>& parts);
  // A message that has arrived.
  std::optional<std::vector<std::string>> Receive();
  void* get() const { return socket_.get(); }

 private:
  struct Close {
    void operator()(void* socket) const;
  };
  ZmqSocket(std::unique_ptr<void, Close> socket, std::string endpoint)
      : socket_(std::move(socket)), endpoint_(std::move(endpoint)) {}

  std::unique_ptr<void, Close> socket_;
  std::string endpoint_;
};

}  // namespace kvstow
