#include "tests/testing/bare_service.h"

#include <algorithm>
#include <memory>

#include "client/bulk_stream.h"
#include "client/channel.h"
#include "client/socket_buffers.h"
#include "client/unary_call.h"
#include "codec/crc32c.h"
#include "grpcpp/grpcpp.h"
#include "kvstow/v1/kvstow.grpc.pb.h"
#include "server/rpc/connection_listener.h"
#include "space/streaming_copy.h"

namespace kvstow::testing {
namespace {

using Bidi = grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>;

constexpr size_t kStreamBytes = kBareStreamBytes;
constexpr auto kLong = absl::Minutes(1);

enum class Sums { kNone, kOfAll };

// One end's: all that a stream carries, or as much as a chunk for every place in it.
class Bytes {
 public:
  explicit Bytes(BareBytes which, Sums sums = Sums::kNone)
      : sums_(sums), bytes_(which == BareBytes::kOneChunk ? kBareChunkBytes : kStreamBytes) {
    for (size_t i = 0; i < bytes_.size(); ++i) bytes_[i] = static_cast<std::byte>(i * 31 >> 5);
  }
  // The chunk that begins at `offset` of the stream, borrowed for ever.
  grpc::ByteBuffer Chunk(size_t offset) {
    if (sums_ == Sums::kOfAll) {
      sum_ = Crc32c(std::span(bytes_).subspan(offset, kBareChunkBytes));
    }
    const grpc::Slice slice(
        bytes_.data() + offset % bytes_.size(), kBareChunkBytes, [](void*) {}, nullptr);
    return grpc::ByteBuffer(&slice, 1);
  }
  // Takes the message that begins there; returns where the next one does.
  size_t Land(const grpc::ByteBuffer& message, size_t offset) {
    if (bytes_.size() < kStreamBytes) return offset + message.Length();
    std::vector<grpc::Slice> slices;
    if (!message.Dump(&slices).ok()) std::abort();
    for (const grpc::Slice& slice : slices) {
      if (slice.size() > bytes_.size() - offset) std::abort();
      LandPiece({reinterpret_cast<const std::byte*>(slice.begin()), slice.size()}, offset);
      offset += slice.size();
    }
    return offset;
  }

 private:
  // In steps that the nearest cache holds, as the daemon does it.
  void LandPiece(std::span<const std::byte> piece, size_t offset) {
    constexpr size_t kStep = 8 << 10;
    for (size_t at = 0; at < piece.size(); at += kStep) {
      const auto step = piece.subspan(at, std::min(kStep, piece.size() - at));
      if (sums_ == Sums::kOfAll) sum_ = ExtendCrc32c(sum_, step);
      StreamingCopy(bytes_.data() + offset + at, step.data(), step.size());
    }
  }

  const Sums sums_;
  uint32_t sum_ = 0;  // what a sender would compare, and a receiver keep
  std::vector<std::byte> bytes_;
};

// A stream's first message says what it moves.
grpc::ByteBuffer Naming(BareBytes which) {
  const auto name = static_cast<uint8_t>(which);
  const grpc::Slice slice(&name, 1);
  return grpc::ByteBuffer(&slice, 1);
}

// What the serving end has of each.
struct Held {
  Bytes chunk{BareBytes::kOneChunk};
  Bytes memory{BareBytes::kMemory};
  Bytes checked{BareBytes::kChecked, Sums::kOfAll};
  Bytes* Named(const grpc::ByteBuffer& first) {
    grpc::Slice slice;
    if (!first.DumpToSingleSlice(&slice).ok() || slice.size() != 1) return &chunk;
    switch (static_cast<BareBytes>(*slice.begin())) {
      case BareBytes::kMemory:
        return &memory;
      case BareBytes::kChecked:
        return &checked;
      default:
        return &chunk;
    }
  }
};

// Writes its bytes and ends.
class Sender final : public Bidi {
 public:
  explicit Sender(Held* held) : held_(*held) { StartRead(&message_); }
  void OnReadDone(bool ok) override {
    if (!ok) return Finish(grpc::Status(grpc::StatusCode::ABORTED, "nothing named"));
    bytes_ = held_.Named(message_);
    OnWriteDone(true);
  }
  void OnWriteDone(bool ok) override {
    if (!ok || sent_ == kStreamBytes) return Finish(grpc::Status::OK);
    message_ = bytes_->Chunk(sent_);
    sent_ += kBareChunkBytes;
    StartWrite(&message_);
  }
  void OnDone() override { delete this; }

 private:
  Held& held_;
  Bytes* bytes_ = nullptr;
  grpc::ByteBuffer message_;
  size_t sent_ = 0;
};

// Reads to the end.
class Receiver final : public Bidi {
 public:
  explicit Receiver(Held* held) : held_(*held) { StartRead(&message_); }
  void OnReadDone(bool ok) override {
    if (!ok) return Finish(grpc::Status::OK);
    if (bytes_ == nullptr) {
      bytes_ = held_.Named(message_);
    } else {
      received_ = bytes_->Land(message_, received_);
    }
    message_.Clear();
    StartRead(&message_);
  }
  void OnDone() override { delete this; }

 private:
  Held& held_;
  Bytes* bytes_ = nullptr;
  grpc::ByteBuffer message_;
  size_t received_ = 0;
};

using Base = v1::Kvstow::WithRawCallbackMethod_Put<v1::Kvstow::WithRawCallbackMethod_Get<
    v1::Kvstow::WithCallbackMethod_Lookup<v1::Kvstow::Service>>>;

class Service final : public Base {
 public:
  Bidi* Get(grpc::CallbackServerContext*) override { return new Sender(&held_); }
  Bidi* Put(grpc::CallbackServerContext*) override { return new Receiver(&held_); }
  grpc::ServerUnaryReactor* Lookup(grpc::CallbackServerContext* context, const v1::LookupRequest*,
                                   v1::LookupResponse*) override {
    auto* reactor = context->DefaultReactor();
    reactor->Finish(grpc::Status::OK);
    return reactor;
  }

 private:
  Held held_;
};

std::shared_ptr<grpc::Channel> Connect(const std::string& socket) {
  auto channel = client::MakeChannel("unix:" + socket);
  channel->WaitForConnected(client::Deadline::In(kLong).AsTimespec());
  client::WidenSendBuffers(socket);
  return channel;
}

}  // namespace

void ServeBare(const std::string& socket) {
  Service service;
  grpc::ServerBuilder builder;
  builder.RegisterService(&service);
  using Builder = grpc::ServerBuilder::experimental_type;
  using Connection = grpc::experimental::ExternalConnectionAcceptor::NewConnectionParameters;
  // Connections come from the daemon's own listener, with its settings.
  const auto acceptor = builder.experimental().AddExternalConnectionAcceptor(
      Builder::ExternalConnectionType::FROM_FD, grpc::InsecureServerCredentials());
  const auto server = builder.BuildAndStart();
  ConnectionListener listener;
  const absl::Status listens = listener.ListenUnix(socket, [&acceptor](int fd) {
    Connection taken;
    taken.fd = fd;
    acceptor->HandleNewConnection(&taken);
  });
  if (!listens.ok()) std::abort();
  listener.Start();
  server->Wait();
  std::abort();  // nobody shuts it down
}

struct BareStreams::State {
  State(const std::string& socket, BareBytes bytes)
      : which(bytes), channel(Connect(socket)), bytes(bytes) {}
  client::BulkStream Open(const char* method) {
    return client::BulkStream({channel, client::Deadline::In(kLong), nullptr}, method);
  }
  const BareBytes which;
  const std::shared_ptr<grpc::Channel> channel;
  Bytes bytes;
};

BareStreams::BareStreams(const std::string& socket, BareBytes bytes)
    : state_(std::make_unique<State>(socket, bytes)) {}
BareStreams::~BareStreams() = default;

bool BareStreams::From() {
  client::BulkStream stream = state_->Open("Get");
  size_t received = 0;
  grpc::ByteBuffer message;
  if (!stream.Write(Naming(state_->which)) || !stream.WritesDone()) return false;
  while (stream.Read(&message)) received = state_->bytes.Land(message, received);
  return stream.Finish().ok() && received == kStreamBytes;
}

bool BareStreams::To() {
  client::BulkStream stream = state_->Open("Put");
  bool sent = stream.Write(Naming(state_->which));
  for (size_t at = 0; at < kStreamBytes; at += kBareChunkBytes) {
    sent = sent && stream.Write(state_->bytes.Chunk(at));
  }
  sent = sent && stream.WritesDone();
  return stream.Finish().ok() && sent;
}

std::function<void()> BareCaller(const std::string& socket, size_t request_bytes) {
  v1::LookupRequest request;
  request.set_keys(std::string(request_bytes, 'k'));
  return [channel = Connect(socket), request] {
    v1::LookupResponse response;
    client::CallUnary(channel, "Lookup", request, client::Deadline::In(kLong), &response);
  };
}

}  // namespace kvstow::testing
