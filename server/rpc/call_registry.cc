#include "server/rpc/call_registry.h"

#include <vector>

#include "absl/strings/str_cat.h"

namespace kvstow {

absl::Status CallRegistry::Add(const std::shared_ptr<OpenCall>& call) {
  absl::MutexLock lock(&mu_);
  if (draining_) return absl::UnavailableError("the daemon is shutting down");
  const bool is_bulk = call->kind() == OpenCall::Kind::kBulk;
  if (is_bulk && bulk_ >= max_bulk_) {
    return absl::ResourceExhaustedError(absl::StrCat(
        "all ", max_bulk_, " bulk streams are in use; try again or raise max_bulk_streams"));
  }
  uint32_t* const streams = StreamsOf(*call);
  if (streams != nullptr) {
    const uint32_t most = max_streams_[static_cast<size_t>(call->tenant())];
    if (*streams >= most) {
      return absl::ResourceExhaustedError(absl::StrCat(
          "all ", most, " streams of this tenant are in use; try again or raise quota.streams"));
    }
    ++*streams;
  }
  bulk_ += is_bulk;
  calls_.emplace(call.get(), call);
  return absl::OkStatus();
}

uint32_t* CallRegistry::StreamsOf(const OpenCall& call) {
  const auto tenant = static_cast<size_t>(call.tenant());
  if (!IsStream(call) || tenant >= max_streams_.size() || max_streams_[tenant] == 0) return nullptr;
  return &streams_[tenant];
}

void CallRegistry::Remove(const OpenCall* call) {
  absl::MutexLock lock(&mu_);
  if (calls_.erase(call) == 0) return;
  if (uint32_t* streams = StreamsOf(*call)) --*streams;
  bulk_ -= call->kind() == OpenCall::Kind::kBulk;
}

std::vector<std::shared_ptr<OpenCall>> CallRegistry::Collect() const {
  std::vector<std::shared_ptr<OpenCall>> out;
  absl::MutexLock lock(&mu_);
  for (const auto& [key, weak] : calls_) {
    if (auto call = weak.lock()) out.push_back(std::move(call));
  }
  return out;
}

size_t CallRegistry::AbortStalled(absl::Time before) {
  size_t aborted = 0;
  for (const auto& call : Collect()) {
    if (call->kind() != OpenCall::Kind::kBulk || call->waiting_since() >= before) continue;
    call->Abort(absl::DeadlineExceededError("no bytes moved for too long; the call was ended"));
    call->Cut();
    ++aborted;
  }
  return aborted;
}

void CallRegistry::StartDraining() {
  {
    absl::MutexLock lock(&mu_);
    draining_ = true;
  }
  for (const auto& call : Collect()) call->NoteDraining();
}

void CallRegistry::AbortAll() {
  for (const auto& call : Collect()) {
    call->Abort(absl::UnavailableError("the daemon is shutting down"));
  }
}

size_t CallRegistry::bulk_calls() const {
  absl::MutexLock lock(&mu_);
  return bulk_;
}

bool CallRegistry::WaitForBulk(absl::Time deadline) const {
  absl::MutexLock lock(&mu_);
  const auto none_left = [this]() ABSL_SHARED_LOCKS_REQUIRED(mu_) { return bulk_ == 0; };
  return mu_.AwaitWithDeadline(absl::Condition(&none_left), deadline);
}

}  // namespace kvstow
