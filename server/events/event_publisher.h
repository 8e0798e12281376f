// Publishes what happens to a tenant's blocks on a ZeroMQ PUB socket, as vLLM publishes what
// happens to its own (event_encoder.h): [topic, sequence, batch]. Routers that read the one read
// the other.
//
// Messages are numbered from 0, which says that everything is cleared: a new daemon has nothing.
// The last one says so again, for the daemon that goes. A subscriber that misses a number has lost
// a message, and may ask for it: a request of 8 bytes, big-endian, to the replay socket (ROUTER) is
// answered with [sequence, batch] for every message from that number on that is still there, and
// then with sequence 2^64-1 and an empty batch. When this publisher itself falls behind the store
// it skips a number, and what it lost cannot be replayed.
//
// The store never waits: events come through a bounded queue, and a subscriber that does not read
// loses messages. Thread-safe; owns a thread, and ZeroMQ's.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <thread>

#include "absl/status/statusor.h"
#include "server/core/service.h"
#include "server/core/stats_sink.h"
#include "server/events/event_stream.h"
#include "server/events/zmq_socket.h"
#include "staging/shared_region.h"

namespace kvstow {

struct EventStreamOptions {
  std::string endpoint;
  std::string replay_endpoint = {};  // empty: none
  std::string topic = {};
  TenantId tenant = kDefaultTenant;  // whose blocks
  std::string model = {};            // only of spaces of this model; empty: of all
  std::string medium = {};           // as EventBatch
  EventFormat format = {};
  uint64_t replay_bytes = uint64_t{16} << 20;
  size_t queue_limit = 65536;  // events of the store that wait to be published
};

class EventPublisher {
 public:
  // UNAVAILABLE when an endpoint cannot be bound. `service` and `stats` outlive the publisher.
  // Start before the first space is opened: earlier events are not told.
  static absl::StatusOr<std::unique_ptr<EventPublisher>> Start(EventStreamOptions options,
                                                               Service* service, StatsSink* stats);
  // Publishes what has happened until now, and that all is cleared.
  ~EventPublisher();

  // Where it listens.
  const std::string& endpoint() const { return endpoint_; }
  const std::string& replay_endpoint() const { return replay_endpoint_; }

 private:
  EventPublisher(EventStreamOptions options, Service* service, StatsSink* stats, OwnedFd wake,
                 std::unique_ptr<ZmqContext> context, ZmqSocket publisher,
                 std::optional<ZmqSocket> replay);
  void Run();
  // False when there was nothing to publish; then Wake is called when there is.
  bool PublishSome();
  void PublishAllCleared();
  void Send(const ReplayBuffer::Message& message);
  void Await();
  void ServeReplays();
  void Wake() const;

  const EventStreamOptions options_;
  Service* const service_;
  const OwnedFd wake_;
  const std::shared_ptr<WatchHub::Watcher> follower_;
  std::atomic<bool> stopping_{false};

  // The thread's own.
  const std::unique_ptr<ZmqContext> context_;
  ZmqSocket publisher_;
  std::optional<ZmqSocket> replay_;
  const std::string endpoint_, replay_endpoint_;
  const ZmqSocket::Part topic_;
  EventStream stream_;

  std::thread thread_;  // last: runs on all of the above
};

}  // namespace kvstow
