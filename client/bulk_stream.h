// The stream of one Put or Get, carrying serialised messages so that bulk bytes pass protobuf by
// (chunk_writer.h, get_message.h): each operation returns by the call's deadline, whether gRPC is
// done with it or not. gRPC's blocking streams do not: their Write waits for the bytes to leave the
// process, which a stopped daemon with a full socket never lets them (graveyard.h takes what is
// left then).
//
// Not thread-safe.
#pragma once

#include <grpcpp/channel.h>
#include <grpcpp/support/byte_buffer.h>
#include <grpcpp/support/status.h>

#include <memory>
#include <string>

#include "absl/functional/function_ref.h"
#include "absl/status/statusor.h"
#include "client/call_control.h"
#include "client/deadline.h"

namespace kvstow::client {

class BulkStream {
 public:
  // On what and until when a call is made, and who may give it up; `control` may be null.
  struct Terms {
    std::shared_ptr<grpc::Channel> channel;
    Deadline deadline;
    CallControl* control;
  };

  // `method` is "Put" or "Get". Starts the call; it ends, whatever happens, at the deadline.
  BulkStream(const Terms& terms, const std::string& method);
  ~BulkStream();

  // False when the stream is broken or the deadline has passed. The message is taken over.
  bool Write(grpc::ByteBuffer message);
  bool WritesDone();
  // False also at the stream's end.
  bool Read(grpc::ByteBuffer* message);
  // Work beside the reading of a message, done again and again until the message is there. False
  // once there is nothing left to do. It may write.
  using Meanwhile = absl::FunctionRef<absl::StatusOr<bool>()>;
  // The same as Read, which goes on waiting when nothing is left to do beside it. An error is that
  // of `meanwhile`; the call is given up then.
  absl::StatusOr<bool> Read(grpc::ByteBuffer* message, Meanwhile meanwhile);

  // Gives the call up: the daemon is told as soon as the transport can.
  void Cancel();
  // How the call ended; DEADLINE_EXCEEDED when gRPC could not say by then. Call once, last.
  grpc::Status Finish();

 private:
  class Call;
  enum class Operation { kRead, kOther };
  // False when it failed, or `deadline_` came first: then the call belongs to the graveyard.
  bool Await(Operation operation);
  void StartRead();
  bool EndRead(grpc::ByteBuffer* message);

  // Nobody else ends it from here on.
  void Disarm();

  const Deadline deadline_;
  CallControl* const control_;
  std::unique_ptr<Call> call_;
};

}  // namespace kvstow::client
