#include "client/session_call.h"

#include <grpc/support/time.h>

#include <utility>

#include "client/outcome.h"

namespace kvstow::client {
namespace {

constexpr char kVersion[] = KVSTOW_VERSION;

gpr_timespec After(absl::Duration timeout) {
  if (timeout == absl::InfiniteDuration()) return gpr_inf_future(GPR_CLOCK_MONOTONIC);
  // Until now gRPC would sleep a millisecond, it rounds up.
  if (timeout <= absl::ZeroDuration()) return gpr_inf_past(GPR_CLOCK_MONOTONIC);
  return gpr_time_add(gpr_now(GPR_CLOCK_MONOTONIC),
                      gpr_time_from_nanos(absl::ToInt64Nanoseconds(timeout), GPR_TIMESPAN));
}

}  // namespace

SessionCall::SessionCall(std::shared_ptr<grpc::Channel> channel, const std::string& client_name,
                         double prefill_tokens_per_second)
    : stub_(std::move(channel)) {
  v1::SessionRequest request;
  request.set_client_name(client_name);
  request.set_client_version(kVersion);
  request.set_prefill_tokens_per_second(prefill_tokens_per_second);
  reader_ = stub_.PrepareAsyncSession(&context_, request, &queue_);
  reader_->StartCall(nullptr);
}

SessionCall::~SessionCall() {
  if (!finished_) Finish().IgnoreError();
  queue_.Shutdown();
  void* tag;
  bool ok;
  while (queue_.Next(&tag, &ok)) {
  }
}

bool SessionCall::Await(gpr_timespec until, bool* ok) {
  void* tag;
  return queue_.AsyncNext(&tag, ok, until) == grpc::CompletionQueue::GOT_EVENT;
}

SessionCall::Next SessionCall::Wait(absl::Duration timeout, v1::SessionEvent* event) {
  const gpr_timespec until = After(timeout);
  bool ok = true;
  if (pending_ == Pending::kStart) {
    if (!Await(until, &ok)) return Next::kTimeout;
    pending_ = Pending::kNothing;
    if (!ok) return End();
  }
  if (pending_ == Pending::kNothing) {
    reader_->Read(&event_, nullptr);
    pending_ = Pending::kRead;
  }
  if (!Await(until, &ok)) return Next::kTimeout;
  pending_ = Pending::kNothing;
  if (!ok) return End();
  *event = event_;
  return Next::kEvent;
}

absl::Status SessionCall::Finish() {
  finished_ = true;
  bool ok = true;
  // Of a stream that ended by itself the status is wanted: why the daemon ended it.
  if (!ended_) Cancel();
  if (pending_ != Pending::kNothing) Await(gpr_inf_future(GPR_CLOCK_MONOTONIC), &ok);
  grpc::Status status;
  reader_->Finish(&status, nullptr);
  Await(gpr_inf_future(GPR_CLOCK_MONOTONIC), &ok);
  return FromGrpc(status);
}

}  // namespace kvstow::client
