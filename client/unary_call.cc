#include "client/unary_call.h"

#include <grpcpp/client_context.h>
#include <grpcpp/completion_queue.h>
#include <grpcpp/generic/generic_stub.h>

#include <utility>

#include "client/graveyard.h"
#include "client/serialize.h"

namespace kvstow::client {
namespace {

// For gRPC to tell that the deadline has ended a call.
constexpr absl::Duration kGrace = absl::Milliseconds(5);

// Everything that gRPC refers to while the call is pending.
class UnaryCall : public Buried {
 public:
  UnaryCall(std::shared_ptr<grpc::Channel> channel, const std::string& method,
            const google::protobuf::MessageLite& request, const Deadline& deadline)
      : channel_(channel), stub_(std::move(channel)) {
    deadline.ApplyTo(&context_);
    reader_ = stub_.PrepareUnaryCall(&context_, "/kvstow.v1.Kvstow/" + method, Serialize(request),
                                     &queue_);
    reader_->StartCall();
    reader_->Finish(&response_, &status_, nullptr);
  }
  ~UnaryCall() override {
    queue_.Shutdown();
    void* tag;
    bool ok;
    while (queue_.Next(&tag, &ok)) {
    }
  }

  bool Await(const Deadline& deadline) {
    void* tag;
    bool ok;
    return queue_.AsyncNext(&tag, &ok, deadline.AsTimespec()) == grpc::CompletionQueue::GOT_EVENT;
  }
  bool TryFinish() override { return Await(Deadline::In(absl::Milliseconds(100))); }
  void Cancel() { context_.TryCancel(); }

  const grpc::Status& status() const { return status_; }
  grpc::ByteBuffer& response() { return response_; }

 private:
  const std::shared_ptr<grpc::Channel> channel_;
  grpc::GenericStub stub_;
  grpc::ClientContext context_;
  grpc::CompletionQueue queue_;
  grpc::ByteBuffer response_;
  grpc::Status status_;
  std::unique_ptr<grpc::ClientAsyncResponseReader<grpc::ByteBuffer>> reader_;
};

}  // namespace

grpc::Status CallUnary(const std::shared_ptr<grpc::Channel>& channel, const std::string& method,
                       const google::protobuf::MessageLite& request, const Deadline& deadline,
                       google::protobuf::MessageLite* response) {
  auto call = std::make_unique<UnaryCall>(channel, method, request, deadline);
  if (!call->Await(Deadline::In(deadline.remaining() + kGrace))) {
    call->Cancel();
    Bury(std::move(call));
    return grpc::Status(grpc::StatusCode::DEADLINE_EXCEEDED, "the daemon took too long");
  }
  if (!call->status().ok() || Parse(&call->response(), response)) return call->status();
  return grpc::Status(grpc::StatusCode::INTERNAL,
                      "the daemon's answer to " + method + " is garbage");
}

}  // namespace kvstow::client
