#include "tests/testing/byte_stream.h"

#include <algorithm>
#include <chrono>
#include <memory>
#include <vector>

#include "client/bulk_stream.h"
#include "client/channel.h"
#include "grpcpp/grpcpp.h"
#include "kvstow/v1/kvstow.grpc.pb.h"

namespace kvstow::testing {
namespace {

constexpr size_t kStreamBytes = size_t{128} << 20;

// Writes its bytes and ends.
class Sender final : public grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer> {
 public:
  Sender(std::byte* bytes, size_t size)
      : message_(MakeMessage(bytes, size)), left_(kStreamBytes / size) {
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
  static grpc::ByteBuffer MakeMessage(std::byte* bytes, size_t size) {
    const grpc::Slice slice(
        bytes, size, [](void*) {}, nullptr);
    return grpc::ByteBuffer(&slice, 1);
  }
  const grpc::ByteBuffer message_;
  size_t left_;
};

class Service final : public v1::Kvstow::WithRawCallbackMethod_Get<v1::Kvstow::Service> {
 public:
  explicit Service(size_t chunk_bytes) : bytes_(chunk_bytes, std::byte{1}) {}
  grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>* Get(
      grpc::CallbackServerContext*) override {
    return new Sender(bytes_.data(), bytes_.size());
  }

 private:
  std::vector<std::byte> bytes_;
};

}  // namespace

double BareStreamRate(const std::string& socket, size_t chunk_bytes, double seconds) {
  using Clock = std::chrono::steady_clock;
  Service service(chunk_bytes);
  grpc::ServerBuilder builder;
  builder.RegisterService(&service);
  builder.AddListeningPort("unix:" + socket, grpc::InsecureServerCredentials());
  const auto server = builder.BuildAndStart();
  const auto channel = client::MakeChannel("unix:" + socket);
  std::vector<double> rates;
  for (const auto end = Clock::now() + std::chrono::duration<double>(seconds);
       Clock::now() < end || rates.size() < 5;) {
    client::BulkStream stream({channel, client::Deadline::In(absl::Minutes(1)), nullptr}, "Get");
    const auto start = Clock::now();
    size_t received = 0;
    grpc::ByteBuffer message;
    while (stream.Read(&message)) received += message.Length();
    const std::chrono::duration<double> took = Clock::now() - start;
    if (received == kStreamBytes) rates.push_back(received / 1e9 / took.count());
    stream.Finish();
  }
  server->Shutdown();
  std::nth_element(rates.begin(), rates.begin() + rates.size() / 2, rates.end());
  return rates[rates.size() / 2];
}

}  // namespace kvstow::testing
