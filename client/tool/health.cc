// kvstow health: the standard gRPC health check.
#include <google/protobuf/io/coded_stream.h>
#include <grpcpp/completion_queue.h>
#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/support/proto_buffer_reader.h>

#include <cstdio>

#include "client/outcome.h"
#include "client/tool/command.h"

namespace kvstow::tool {
namespace {

constexpr uint64_t kServing = 1;  // grpc.health.v1.HealthCheckResponse.SERVING

// grpc.health.v1's generated code is not part of Debian's gRPC; its messages have one field each.
grpc::ByteBuffer Request(const std::string& service) {
  std::string wire;
  if (!service.empty()) {
    wire = std::string(1, '\x0a') + static_cast<char>(service.size()) + service;
  }
  const grpc::Slice slice(wire);
  return grpc::ByteBuffer(&slice, 1);
}

bool IsServing(grpc::ByteBuffer* response) {
  grpc::ProtoBufferReader reader(response);
  google::protobuf::io::CodedInputStream in(&reader);
  uint64_t status = 0;
  return in.ReadTag() == 0x08 && in.ReadVarint64(&status) && status == kServing;
}

class Health : public Command {
 public:
  std::string name() const override { return "health"; }
  std::string summary() const override { return "whether the daemon is serving"; }
  std::string details() const override {
    return "Prints one line. For probes and scripts:\n"
           "  until kvstow health --deadline=1s; do sleep 1; done\n";
  }
  void AddFlags(FlagSet* flags) override {
    flags->Add("service", &service_, "Ask for one gRPC service, kvstow.v1.Kvstow say");
  }
  absl::Status Check(const FlagSet&) override {
    return service_.size() < 128 ? absl::OkStatus()
                                 : absl::InvalidArgumentError("--service is too long");
  }

  int Run(const Connection& connection) override {
    grpc::ByteBuffer response;
    const absl::Status status = Ask(connection, &response);
    if (absl::IsNotFound(status)) {
      std::printf("unknown service %s at %s\n", service_.c_str(), connection.target.c_str());
      return kExitNo;
    }
    if (!status.ok()) return Complain(status, connection);
    const bool serving = IsServing(&response);
    std::printf("%s: %s\n", connection.target.c_str(), serving ? "serving" : "not serving");
    return serving ? kExitOk : kExitNo;
  }

 private:
  absl::Status Ask(const Connection& connection, grpc::ByteBuffer* response) {
    grpc::GenericStub stub(connection.MakeChannel());
    grpc::CompletionQueue queue;
    grpc::ClientContext context;
    connection.Deadline().ApplyTo(&context);
    grpc::Status status;
    auto call =
        stub.PrepareUnaryCall(&context, "/grpc.health.v1.Health/Check", Request(service_), &queue);
    call->StartCall();
    call->Finish(response, &status, nullptr);
    void* tag;
    bool ok;
    queue.Next(&tag, &ok);
    queue.Shutdown();
    return client::FromGrpc(status);
  }

  std::string service_;
};

}  // namespace

std::unique_ptr<Command> MakeHealth() { return std::make_unique<Health>(); }

}  // namespace kvstow::tool
