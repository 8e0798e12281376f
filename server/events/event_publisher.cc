#include "server/events/event_publisher.h"

#include <sys/eventfd.h>
#include <unistd.h>
#include <zmq.h>

#include <array>
#include <cerrno>
#include <utility>

#include "server/core/status_macros.h"

namespace kvstow {
namespace {

// Of 64 KiB and less: what a subscriber that does not read costs at most is 64 MiB.
constexpr int kQueuedMessages = 1000;
// A replay is one message a batch, and a subscriber that asks reads.
constexpr int kQueuedReplays = 10'000;

constexpr uint64_t kEndOfReplay = UINT64_MAX;

ZmqSocket::Part PartOf(std::string bytes) {
  return std::make_shared<const std::string>(std::move(bytes));
}

std::optional<uint64_t> SequenceFrom(const std::string& bytes) {
  if (bytes.size() != sizeof(uint64_t)) return std::nullopt;
  uint64_t sequence = 0;
  for (const char c : bytes) sequence = sequence << 8 | static_cast<uint8_t>(c);
  return sequence;
}

}  // namespace

absl::StatusOr<std::unique_ptr<EventPublisher>> EventPublisher::Start(EventStreamOptions options,
                                                                      Service* service,
                                                                      StatsSink* stats) {
  OwnedFd wake(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!wake) return absl::ErrnoToStatus(errno, "eventfd");
  auto context = std::make_unique<ZmqContext>();
  KVSTOW_ASSIGN_OR_RETURN(auto publisher, ZmqSocket::Bind(*context, ZmqSocket::Kind::kPublisher,
                                                          options.endpoint, kQueuedMessages));
  std::optional<ZmqSocket> replay;
  if (!options.replay_endpoint.empty()) {
    KVSTOW_ASSIGN_OR_RETURN(replay, ZmqSocket::Bind(*context, ZmqSocket::Kind::kRouter,
                                                    options.replay_endpoint, kQueuedReplays));
  }
  return std::unique_ptr<EventPublisher>(
      new EventPublisher(std::move(options), service, stats, std::move(wake), std::move(context),
                         std::move(publisher), std::move(replay)));
}

EventPublisher::EventPublisher(EventStreamOptions options, Service* service, StatsSink* stats,
                               OwnedFd wake, std::unique_ptr<ZmqContext> context,
                               ZmqSocket publisher, std::optional<ZmqSocket> replay)
    : options_(std::move(options)),
      service_(service),
      wake_(std::move(wake)),
      follower_(service->Follow(options_.tenant, options_.model, options_.queue_limit)),
      context_(std::move(context)),
      publisher_(std::move(publisher)),
      replay_(std::move(replay)),
      endpoint_(publisher_.endpoint()),
      replay_endpoint_(replay_ ? replay_->endpoint() : ""),
      topic_(PartOf(options_.topic)),
      stream_({.tenant = options_.tenant,
               .medium = options_.medium,
               .format = options_.format,
               .replay_bytes = replay_ ? options_.replay_bytes : 0},
              stats, [this](const ReplayBuffer::Message& message) { Send(message); }),
      thread_([this] { Run(); }) {}

EventPublisher::~EventPublisher() {
  stopping_ = true;
  Wake();
  thread_.join();
  service_->Unfollow(follower_);  // from here on nobody calls Wake
}

void EventPublisher::Run() {
  PublishAllCleared();
  while (true) {
    // Read first: what happened before the stop is published.
    const bool stopping = stopping_;
    while (PublishSome()) ServeReplays();
    if (stopping) break;
    Await();
    ServeReplays();
  }
  PublishAllCleared();
}

bool EventPublisher::PublishSome() {
  auto item = follower_->Next([this] { Wake(); });
  if (!item) return false;
  do {
    stream_.Take(*item);
  } while (!stream_.full() && (item = follower_->Next(nullptr)));
  stream_.Flush();
  return true;
}

void EventPublisher::PublishAllCleared() {
  stream_.TakeAllCleared();
  stream_.Flush();
}

void EventPublisher::Send(const ReplayBuffer::Message& message) {
  publisher_.Send({topic_, PartOf(EncodeSequence(message.sequence)), message.payload});
}

void EventPublisher::Await() {
  std::array<zmq_pollitem_t, 2> wait{};
  wait[0] = {.socket = nullptr, .fd = wake_.get(), .events = ZMQ_POLLIN, .revents = 0};
  if (replay_) {
    wait[1] = {.socket = replay_->get(), .fd = -1, .events = ZMQ_POLLIN, .revents = 0};
  }
  zmq_poll(wait.data(), replay_ ? 2 : 1, -1);
  uint64_t woken = 0;
  static_cast<void>(read(wake_.get(), &woken, sizeof(woken)));
}

void EventPublisher::ServeReplays() {
  if (!replay_) return;
  while (auto request = replay_->Receive()) {
    // [who asks, nothing, from where]; whoever says something else gets no answer.
    if (request->size() != 3 || !(*request)[1].empty()) continue;
    const auto from = SequenceFrom(request->back());
    if (!from) continue;
    const auto who = PartOf((*request)[0]), nothing = PartOf("");
    for (const ReplayBuffer::Message& message : stream_.sent()) {
      if (message.sequence < *from) continue;
      replay_->Send({who, nothing, PartOf(EncodeSequence(message.sequence)), message.payload});
    }
    replay_->Send({who, nothing, PartOf(EncodeSequence(kEndOfReplay)), nothing});
  }
}

void EventPublisher::Wake() const {
  const uint64_t one = 1;
  static_cast<void>(write(wake_.get(), &one, sizeof(one)));
}

}  // namespace kvstow
