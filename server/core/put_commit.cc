// How a Put ends: its records into the store, several at a time, since a prompt's are hundreds of
// megabytes to copy.
#include <algorithm>
#include <atomic>
#include <utility>

#include "server/core/put_call.h"

namespace kvstow {

// Records on their way into the store.
struct PutCall::Committing {
  std::vector<kvstow::Store::Reservation> reservations;  // as wanted_
  PutResults results;
  Done done;
  std::atomic<size_t> next{0};  // of wanted_
  std::atomic<size_t> running{0};
};

namespace {

// What is worth a thread of its own.
constexpr uint64_t kBytesOfRunner = uint64_t{4} << 20;

}  // namespace

void PutCall::Store() {
  absl::Status failure;
  const auto commit = std::make_shared<Committing>();
  {
    absl::MutexLock lock(&mu_);
    if (cancelled_) return;
    failure = failure_;
    commit->done = std::move(done_);
    commit->reservations = std::move(reservations_);
  }
  if (session_->ended()) failure.Update(absl::FailedPreconditionError("the session ended"));
  if (!failure.ok()) {
    wanted_.clear();
    commit->reservations.clear();
    GiveStaged();
    commit->done(failure);
    return;
  }
  commit->results.blocks.resize(intents_.size());
  for (size_t i = 0; i < answers_.size(); ++i) {
    commit->results.blocks[i].refusal = answers_[i].refusal;
  }
  uint64_t bytes = 0;
  for (const WantedBlock& block : wanted_) {
    if (block.in_place == nullptr) bytes += block.record->unwritten_bytes();
  }
  const size_t most = std::min(wanted_.size(), context_.executor.concurrency());
  const size_t runners = std::clamp<size_t>(bytes / kBytesOfRunner, 1, std::max<size_t>(most, 1));
  commit->running = runners;
  for (size_t i = 1; i < runners; ++i) {
    context_.executor.Schedule(WorkPriority::kPut,
                               [self = shared_from_this(), commit] { self->StoreSome(commit); });
  }
  StoreSome(commit);
}

void PutCall::StoreSome(const std::shared_ptr<Committing>& commit) {
  {
    const CallPhases::Scope copy(&phases_, CallPhase::kCopy);
    for (size_t i; (i = commit->next++) < wanted_.size();) {
      WantedBlock& block = wanted_[i];
      commit->results.blocks[block.index] = StoreBlock(block, std::move(commit->reservations[i]));
      block.record = nullptr;
    }
  }
  if (--commit->running == 0) FinishStore(*commit);
}

void PutCall::FinishStore(Committing& commit) {
  PutResults& results = commit.results;
  std::vector<BlockKey> stored;
  for (const WantedBlock& block : wanted_) {
    const PutResult& result = results.blocks[block.index];
    if (!result.stored) continue;
    results.k.Merge(result.k);
    results.v.Merge(result.v);
    stored.push_back(intents_[block.index].key);
  }
  if (ttl_ > absl::ZeroDuration() && !stored.empty()) {
    results.lease = context_.store.Lease(space_->id(), stored, session_->id(), ttl_);
  }
  wanted_.clear();
  // Whoever hears of the results may put more at once, long before this call is destroyed.
  GiveStaged();
  commit.done(std::move(results));
}

PutResult PutCall::StoreBlock(WantedBlock& block, kvstow::Store::Reservation reservation) {
  return block.in_place != nullptr ? StoreRecord(*block.in_place, std::move(reservation))
                                   : StoreRecord(*block.record, std::move(reservation));
}

template <typename Record>
PutResult PutCall::StoreRecord(Record& record, kvstow::Store::Reservation reservation) {
  PutResult result;
  Store::RecordMeta meta;
  const auto pieces = record.Finish();
  meta.raw_bytes = space_->layout().raw_bytes();
  meta.record_bytes = record.record_bytes();
  meta.k = Declare(record.k_report());
  meta.v = Declare(record.v_report());
  const absl::Status status = context_.store.Commit(std::move(reservation), pieces, meta);
  if (!status.ok()) {
    result.refusal = Refusal::kFull;
    return result;
  }
  result.stored = true;
  result.record_bytes = record.record_bytes();
  space_->NoteRecordBytes(result.record_bytes);
  result.k = record.k_report();
  result.v = record.v_report();
  context_.stats.OnEncoded(space_->tenant(), result.record_bytes, space_->layout().entries(),
                           result.k, result.v);
  return result;
}

}  // namespace kvstow
