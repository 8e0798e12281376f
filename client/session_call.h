// One Session stream, read with timeouts on one thread. On a completion queue of its own rather
// than gRPC's callbacks: 1.51 now and then aborts in their shared queue when channels come and go.
//
// Thread-compatible, but for Cancel(), which any thread may call.
#pragma once

#include <grpcpp/channel.h>
#include <grpcpp/client_context.h>
#include <grpcpp/completion_queue.h>

#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "kvstow/v1/kvstow.grpc.pb.h"

namespace kvstow::client {

class SessionCall {
 public:
  enum class Next { kEvent, kTimeout, kEnd };

  // Starts the stream.
  SessionCall(std::shared_ptr<grpc::Channel> channel, const std::string& client_name,
              double prefill_tokens_per_second);
  // Cancels what Finish() did not end.
  ~SessionCall();

  // Waits for the next event. After kTimeout it may be called again, after kEnd not.
  Next Wait(absl::Duration timeout, v1::SessionEvent* event);
  // Why the stream ended; cancels it first when it did not. Call once.
  absl::Status Finish();

  // Ends the stream soon.
  void Cancel() { context_.TryCancel(); }

 private:
  enum class Pending { kNothing, kStart, kRead };

  Next End() {
    ended_ = true;
    return Next::kEnd;
  }
  // False on timeout.
  bool Await(gpr_timespec until, bool* ok);

  v1::Kvstow::Stub stub_;
  grpc::ClientContext context_;
  grpc::CompletionQueue queue_;
  std::unique_ptr<grpc::ClientAsyncReader<v1::SessionEvent>> reader_;
  v1::SessionEvent event_;
  Pending pending_ = Pending::kStart;
  bool ended_ = false;  // by itself
  bool finished_ = false;
};

}  // namespace kvstow::client
