#include "tests/testing/bare_service.h"

#include <algorithm>
#include <chrono>
#include <memory>
#include <thread>

#include "absl/strings/str_cat.h"
#include "client/bulk_stream.h"
#include "client/channel.h"
#include "client/socket_buffers.h"
#include "client/unary_call.h"
#include "grpcpp/grpcpp.h"
#include "kvstow/v1/kvstow.grpc.pb.h"
#include "server/rpc/connection_listener.h"
#include "tests/testing/latencies.h"

namespace kvstow::testing {
namespace {

using Clock = std::chrono::steady_clock;
using Bidi = grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>;

constexpr size_t kStreamBytes = size_t{128} << 20;
constexpr auto kLong = absl::Minutes(1);

// Borrows the bytes for ever.
grpc::ByteBuffer Borrowed(std::vector<std::byte>& bytes) {
  const grpc::Slice slice(
      bytes.data(), bytes.size(), [](void*) {}, nullptr);
  return grpc::ByteBuffer(&slice, 1);
}

// Writes its bytes and ends.
class Sender final : public Bidi {
 public:
  explicit Sender(std::vector<std::byte>& chunk)
      : message_(Borrowed(chunk)), left_(kStreamBytes / chunk.size()) {
    OnWriteDone(true);
  }
  void OnWriteDone(bool ok) override {
    if (!ok || left_-- == 0) {
      Finish(grpc::Status::OK);
    } else {
      StartWrite(&message_);
    }
  }
  void OnDone() override { delete this; }

 private:
  const grpc::ByteBuffer message_;
  size_t left_;
};

// Reads to the end.
class Receiver final : public Bidi {
 public:
  Receiver() { StartRead(&message_); }
  void OnReadDone(bool ok) override {
    if (!ok) {
      Finish(grpc::Status::OK);
      return;
    }
    message_.Clear();
    StartRead(&message_);
  }
  void OnDone() override { delete this; }

 private:
  grpc::ByteBuffer message_;
};

using Base = v1::Kvstow::WithRawCallbackMethod_Put<v1::Kvstow::WithRawCallbackMethod_Get<
    v1::Kvstow::WithCallbackMethod_Lookup<v1::Kvstow::Service>>>;

class Service final : public Base {
 public:
  Bidi* Get(grpc::CallbackServerContext*) override { return new Sender(chunk_); }
  Bidi* Put(grpc::CallbackServerContext*) override { return new Receiver(); }
  // The request id says how many tiers the answer has, a byte each.
  grpc::ServerUnaryReactor* Lookup(grpc::CallbackServerContext* context,
                                   const v1::LookupRequest* request,
                                   v1::LookupResponse* response) override {
    const size_t bytes = std::stoul(request->request_id());
    response->mutable_tiers()->Resize(static_cast<int>(bytes), v1::TIER_HOST);
    auto* reactor = context->DefaultReactor();
    reactor->Finish(grpc::Status::OK);
    return reactor;
  }

 private:
  std::vector<std::byte> chunk_ = std::vector<std::byte>(kBareChunkBytes, std::byte{1});
};

std::shared_ptr<grpc::Channel> Connect(const std::string& socket) {
  auto channel = client::MakeChannel("unix:" + socket);
  channel->WaitForConnected(client::Deadline::In(kLong).AsTimespec());
  client::WidenSendBuffers(socket);
  return channel;
}

// Median rate of `stream`, which is true when it has moved all of kStreamBytes.
template <typename Stream>
double MedianRate(double seconds, Stream stream) {
  std::vector<double> rates;
  for (const auto end = Clock::now() + std::chrono::duration<double>(seconds);
       Clock::now() < end || rates.size() < 5;) {
    const auto start = Clock::now();
    const bool whole = stream();
    const std::chrono::duration<double> took = Clock::now() - start;
    if (whole) rates.push_back(kStreamBytes / 1e9 / took.count());
  }
  std::nth_element(rates.begin(), rates.begin() + rates.size() / 2, rates.end());
  return rates[rates.size() / 2];
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

double BareStreamFrom(const std::string& socket, double seconds) {
  const auto channel = Connect(socket);
  return MedianRate(seconds, [&] {
    client::BulkStream stream({channel, client::Deadline::In(kLong), nullptr}, "Get");
    size_t received = 0;
    grpc::ByteBuffer message;
    while (stream.Read(&message)) received += message.Length();
    return stream.Finish().ok() && received == kStreamBytes;
  });
}

double BareStreamTo(const std::string& socket, double seconds) {
  const auto channel = Connect(socket);
  std::vector<std::byte> chunk(kBareChunkBytes, std::byte{1});
  return MedianRate(seconds, [&] {
    client::BulkStream stream({channel, client::Deadline::In(kLong), nullptr}, "Put");
    bool sent = true;
    for (size_t i = 0; i < kStreamBytes / chunk.size(); ++i) {
      sent = sent && stream.Write(Borrowed(chunk));
    }
    sent = sent && stream.WritesDone();
    return stream.Finish().ok() && sent;
  });
}

std::vector<double> BareCalls(const std::string& socket, size_t clients, size_t request_bytes,
                              size_t response_bytes, double seconds) {
  return Latencies(clients, seconds, [&] {
    v1::LookupRequest request;
    request.set_request_id(absl::StrCat(response_bytes));
    request.set_keys(std::string(request_bytes, 'k'));
    return [channel = Connect(socket), request] {
      v1::LookupResponse response;
      client::CallUnary(channel, "Lookup", request, client::Deadline::In(kLong), &response);
    };
  });
}

}  // namespace kvstow::testing
