#include "client/bulk_stream.h"

#include <grpcpp/client_context.h>
#include <grpcpp/completion_queue.h>
#include <grpcpp/generic/generic_stub.h>

#include <utility>

#include "client/graveyard.h"

namespace kvstow::client {
// Everything that gRPC refers to while operations are pending. One operation at a time.
class BulkStream::Call : public Buried {
 public:
  Call(std::shared_ptr<grpc::Channel> channel, const std::string& method, const Deadline& deadline)
      : channel_(channel), stub_(std::move(channel)) {
    deadline.ApplyTo(&context_);
    stream_ = stub_.PrepareCall(&context_, "/kvstow.v1.Kvstow/" + method, &queue_);
  }
  ~Call() override {
    queue_.Shutdown();
    void* tag;
    bool ok;
    while (queue_.Next(&tag, &ok)) {
    }
  }

  // Completes at once or soon: what was pending was cancelled before.
  bool TryFinish() override {
    bool ok;
    return !pending_ || Await(Deadline::In(absl::Milliseconds(100)), &ok);
  }

  bool Await(const Deadline& deadline, bool* ok) {
    void* tag;
    if (queue_.AsyncNext(&tag, ok, deadline.AsTimespec()) != grpc::CompletionQueue::GOT_EVENT) {
      return false;
    }
    pending_ = false;
    return true;
  }

  grpc::GenericClientAsyncReaderWriter& Begin() {
    pending_ = true;
    return *stream_;
  }

  grpc::ClientContext& context() { return context_; }
  grpc::ByteBuffer& incoming() { return incoming_; }
  grpc::Status& status() { return status_; }

 private:
  const std::shared_ptr<grpc::Channel> channel_;
  grpc::ClientContext context_;
  grpc::CompletionQueue queue_;
  grpc::GenericStub stub_;
  std::unique_ptr<grpc::GenericClientAsyncReaderWriter> stream_;
  grpc::ByteBuffer incoming_;
  grpc::Status status_;
  bool pending_ = false;
};

BulkStream::BulkStream(const Terms& terms, const std::string& method)
    : deadline_(terms.deadline),
      control_(terms.control),
      call_(std::make_unique<Call>(terms.channel, method, terms.deadline)) {
  if (control_ != nullptr) {
    control_->Arm([context = &call_->context()] { context->TryCancel(); });
  }
  call_->Begin().StartCall(nullptr);
  bool ok = false;
  // A call that could not start says why in Finish.
  Await(&ok);
}

BulkStream::~BulkStream() {
  if (call_ == nullptr) return;
  Cancel();
  Finish();
}

void BulkStream::Disarm() {
  if (control_ != nullptr) control_->Disarm();
}

bool BulkStream::Await(bool* ok) {
  if (call_->Await(deadline_, ok)) return true;
  *ok = false;
  Disarm();
  call_->context().TryCancel();
  Bury(std::move(call_));
  return false;
}

bool BulkStream::Write(grpc::ByteBuffer message) {
  if (call_ == nullptr) return false;
  call_->Begin().Write(message, nullptr);
  bool ok;
  return Await(&ok) && ok;
}

bool BulkStream::WritesDone() {
  if (call_ == nullptr) return false;
  call_->Begin().WritesDone(nullptr);
  bool ok;
  return Await(&ok) && ok;
}

bool BulkStream::Read(grpc::ByteBuffer* message) {
  if (call_ == nullptr) return false;
  call_->Begin().Read(&call_->incoming(), nullptr);
  bool ok;
  if (!Await(&ok) || !ok) return false;
  message->Swap(&call_->incoming());
  return true;
}

void BulkStream::Cancel() {
  if (call_ != nullptr) call_->context().TryCancel();
}

grpc::Status BulkStream::Finish() {
  const grpc::Status late(grpc::StatusCode::DEADLINE_EXCEEDED, "the daemon took too long");
  if (call_ == nullptr) return late;
  call_->Begin().Finish(&call_->status(), nullptr);
  // The deadline has made gRPC end the call by itself; that takes a moment to be told.
  bool ok;
  const bool ended =
      call_->Await(Deadline::In(deadline_.remaining() + absl::Milliseconds(50)), &ok);
  Disarm();
  if (!ended) {
    Bury(std::move(call_));
    return late;
  }
  const grpc::Status status = call_->status();
  call_.reset();
  return status;
}

}  // namespace kvstow::client
