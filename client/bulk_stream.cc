#include "client/bulk_stream.h"

#include <grpcpp/client_context.h>
#include <grpcpp/completion_queue.h>
#include <grpcpp/generic/generic_stub.h>

#include <utility>

#include "client/graveyard.h"
#include "client/patience.h"

namespace kvstow::client {
// Everything that gRPC refers to while operations are pending: one read and one other at a time.
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
    const Deadline soon = Deadline::In(absl::Milliseconds(100));
    return Await(Operation::kRead, soon) && Await(Operation::kOther, soon);
  }

  // Whether the operation is over, or none was begun, by then.
  bool Await(Operation operation, const Deadline& deadline) {
    return Await(operation, deadline.AsTimespec());
  }
  // The same, by now. Not a deadline of now, which gRPC rounds up to the next millisecond.
  bool IsOver(Operation operation) { return Await(operation, gpr_inf_past(GPR_CLOCK_MONOTONIC)); }
  // Of one that is over.
  bool ok(Operation operation) { return state(operation).ok; }

  // The tag of an operation that begins now.
  void* Begin(Operation operation) {
    state(operation).pending = true;
    return &state(operation);
  }

  grpc::GenericClientAsyncReaderWriter& stream() { return *stream_; }
  grpc::ClientContext& context() { return context_; }
  grpc::ByteBuffer& incoming() { return incoming_; }
  grpc::Status& status() { return status_; }

 private:
  struct State {
    bool pending = false;
    bool ok = false;
  };
  bool Await(Operation operation, gpr_timespec deadline) {
    while (state(operation).pending) {
      void* tag;
      bool ok;
      if (queue_.AsyncNext(&tag, &ok, deadline) != grpc::CompletionQueue::GOT_EVENT) return false;
      *static_cast<State*>(tag) = {false, ok};
    }
    return true;
  }
  State& state(Operation operation) { return states_[static_cast<size_t>(operation)]; }

  const std::shared_ptr<grpc::Channel> channel_;
  grpc::ClientContext context_;
  grpc::CompletionQueue queue_;
  grpc::GenericStub stub_;
  std::unique_ptr<grpc::GenericClientAsyncReaderWriter> stream_;
  grpc::ByteBuffer incoming_;
  grpc::Status status_;
  State states_[2];
};

BulkStream::BulkStream(const Terms& terms, const std::string& method)
    : deadline_(terms.deadline),
      control_(terms.control),
      call_(std::make_unique<Call>(terms.channel, method, terms.deadline)) {
  if (control_ != nullptr) {
    control_->Arm([context = &call_->context()] { context->TryCancel(); });
  }
  call_->stream().StartCall(call_->Begin(Operation::kOther));
  // A call that could not start says why in Finish.
  Await(Operation::kOther);
}

BulkStream::~BulkStream() {
  if (call_ == nullptr) return;
  Cancel();
  Finish();
}

void BulkStream::Disarm() {
  if (control_ != nullptr) control_->Disarm();
}

bool BulkStream::Await(Operation operation) {
  if (call_->Await(operation, deadline_)) return call_->ok(operation);
  Disarm();
  call_->context().TryCancel();
  Bury(std::move(call_));
  return false;
}

bool BulkStream::Write(grpc::ByteBuffer message) {
  if (call_ == nullptr) return false;
  call_->stream().Write(message, call_->Begin(Operation::kOther));
  return Await(Operation::kOther);
}

bool BulkStream::WritesDone() {
  if (call_ == nullptr) return false;
  call_->stream().WritesDone(call_->Begin(Operation::kOther));
  return Await(Operation::kOther);
}

bool BulkStream::Read(grpc::ByteBuffer* message) {
  if (call_ == nullptr) return false;
  StartRead();
  return EndRead(message);
}

absl::StatusOr<bool> BulkStream::Read(grpc::ByteBuffer* message, Meanwhile meanwhile) {
  if (call_ == nullptr) return false;
  StartRead();
  for (Patience patience; !call_->IsOver(Operation::kRead) && !deadline_.expired();
       patience.Wait()) {
    const absl::StatusOr<bool> more = meanwhile();
    if (!more.ok()) {
      Cancel();
      return more;
    }
    if (call_ == nullptr) return false;  // it wrote, and that took too long
    if (!*more) break;
  }
  return EndRead(message);
}

void BulkStream::StartRead() {
  call_->stream().Read(&call_->incoming(), call_->Begin(Operation::kRead));
}

bool BulkStream::EndRead(grpc::ByteBuffer* message) {
  if (!Await(Operation::kRead)) return false;
  message->Swap(&call_->incoming());
  return true;
}

void BulkStream::Cancel() {
  if (call_ != nullptr) call_->context().TryCancel();
}

grpc::Status BulkStream::Finish() {
  const grpc::Status late(grpc::StatusCode::DEADLINE_EXCEEDED, "the daemon took too long");
  if (call_ == nullptr) return late;
  // The deadline has made gRPC end the call by itself; that takes a moment to be told.
  const Deadline last = Deadline::In(deadline_.remaining() + absl::Milliseconds(50));
  // A read that was given up ends first: the call is cancelled.
  bool ended = call_->Await(Operation::kRead, last);
  if (ended) {
    call_->stream().Finish(&call_->status(), call_->Begin(Operation::kOther));
    ended = call_->Await(Operation::kOther, last);
  }
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
