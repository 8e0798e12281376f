#include "client/tool/health_call.h"

#include <google/protobuf/io/coded_stream.h>
#include <grpcpp/completion_queue.h>
#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/support/proto_buffer_reader.h>

#include "client/outcome.h"

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

}  // namespace

absl::StatusOr<bool> AskHealth(const Connection& connection, const std::string& service) {
  grpc::GenericStub stub(connection.MakeChannel());
  grpc::CompletionQueue queue;
  grpc::ClientContext context;
  connection.Deadline().ApplyTo(&context);
  grpc::ByteBuffer response;
  grpc::Status status;
  auto call =
      stub.PrepareUnaryCall(&context, "/grpc.health.v1.Health/Check", Request(service), &queue);
  call->StartCall();
  call->Finish(&response, &status, nullptr);
  void* tag;
  bool ok;
  queue.Next(&tag, &ok);
  queue.Shutdown();
  if (!status.ok()) return client::FromGrpc(status);
  return IsServing(&response);
}

}  // namespace kvstow::tool
