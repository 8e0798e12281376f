#include "server/core/batched_plane_codec.h"

#include <utility>

namespace kvstow {
namespace {

// Takes work from the front of a queue until it makes up a batch.
template <typename Task>
std::vector<std::unique_ptr<Task>> TakeBatch(std::deque<std::unique_ptr<Task>>& queue) {
  std::vector<std::unique_ptr<Task>> batch;
  for (size_t bytes = 0; !queue.empty() && bytes < BatchedPlaneCodec::kBatchBytes;) {
    bytes += queue.front()->work->values.size();
    batch.push_back(std::move(queue.front()));
    queue.pop_front();
  }
  return batch;
}

}  // namespace

namespace {

// The calls of a batch are all at the codec while it is.
template <typename Tasks>
void NotePhase(const Tasks& batch, void (CallPhases::*note)(CallPhase)) {
  for (const auto& task : batch) {
    if (task->work->phases != nullptr) (task->work->phases->*note)(CallPhase::kCodec);
  }
}

bool IsAllRaw(const PlaneView& view) {
  for (size_t i = 0; i < view.tiles(); ++i) {
    if (view.head(i).mode != TileMode::kRaw) return false;
  }
  return true;
}

}  // namespace

struct BatchedPlaneCodec::EncodeTask {
  PlaneEncodeWork* work = nullptr;
  Done done;
  PlaneEncodeJobs jobs;
};
struct BatchedPlaneCodec::DecodeTask {
  PlaneDecodeWork* work = nullptr;
  Done done;
  std::vector<TileDecodeJob> jobs;
};

BatchedPlaneCodec::BatchedPlaneCodec(std::vector<Codec*> codecs, PlaneCodec* fallback,
                                     Executor* executor, const Clock* clock, StatsSink* stats)
    : front_(*codecs.front()),
      fallback_(*fallback),
      executor_(*executor),
      clock_(*clock),
      stats_(*stats),
      idle_(std::move(codecs)) {}

BatchedPlaneCodec::~BatchedPlaneCodec() = default;

void BatchedPlaneCodec::Encode(PlaneEncodeWork* work, Done done) {
  if (!healthy()) {
    fallback_.Encode(work, std::move(done));
    return;
  }
  auto task = std::make_unique<EncodeTask>();
  task->work = work;
  task->done = std::move(done);
  {
    absl::MutexLock lock(&mu_);
    encodes_.push_back(std::move(task));
  }
  Dispatch();
}

void BatchedPlaneCodec::Decode(PlaneDecodeWork* work, Done done) {
  if (work->spec->is_opaque() || !healthy()) {
    fallback_.Decode(work, std::move(done));
    return;
  }
  auto view = PlaneView::Parse(work->encoded, *work->spec);
  if (!view.ok()) {
    done(view.status());
    return;
  }
  // A copy needs no device.
  if (IsAllRaw(*view)) {
    fallback_.Decode(work, std::move(done));
    return;
  }
  auto task = std::make_unique<DecodeTask>();
  task->work = work;
  task->done = std::move(done);
  task->jobs = MakeDecodeJobs(*view, work->rotary, work->values, work->owner);
  {
    absl::MutexLock lock(&mu_);
    decodes_.push_back(std::move(task));
  }
  Dispatch();
}

size_t BatchedPlaneCodec::queue_depth() const {
  absl::MutexLock lock(&mu_);
  return encodes_.size() + decodes_.size();
}

void BatchedPlaneCodec::Dispatch() {
  Codec* codec;
  {
    absl::MutexLock lock(&mu_);
    if (idle_.empty() || (encodes_.empty() && decodes_.empty())) return;
    codec = idle_.back();
    idle_.pop_back();
  }
  // Decodes may have come by the time it runs, so it does not wait behind the work of Puts.
  executor_.Schedule(WorkPriority::kGet, [this, codec] { RunBatch(codec); });
}

void BatchedPlaneCodec::RunBatch(Codec* codec) {
  Decodes decodes;
  Encodes encodes;
  {
    absl::MutexLock lock(&mu_);
    decodes = TakeBatch(decodes_);
    if (decodes.empty()) encodes = TakeBatch(encodes_);
  }
  if (!decodes.empty()) DecodeBatch(*codec, std::move(decodes));
  if (!encodes.empty()) EncodeBatch(*codec, std::move(encodes));
  {
    absl::MutexLock lock(&mu_);
    idle_.push_back(codec);
  }
  Dispatch();
}

void BatchedPlaneCodec::EncodeBatch(Codec& codec, Encodes batch) {
  std::vector<TileEncodeJob> jobs;
  size_t bytes = 0;
  for (auto& task : batch) {
    const PlaneEncodeWork& work = *task->work;
    if (work.unwanted != nullptr && work.unwanted->load(std::memory_order_relaxed)) continue;
    task->jobs = MakeEncodeJobs(*work.spec, *work.settings, work.rotary, work.values, work.owner);
    jobs.insert(jobs.end(), task->jobs.jobs.begin(), task->jobs.jobs.end());
    bytes += work.values.size();
  }
  NotePhase(batch, &CallPhases::Enter);
  const absl::Status status =
      RunOn(codec, CodecDirection::kEncode, bytes, [&] { return codec.Encode(jobs); });
  NotePhase(batch, &CallPhases::Leave);
  auto job = jobs.begin();
  for (auto& task : batch) {
    if (task->jobs.jobs.empty()) {
      task->done(absl::CancelledError("nobody wants this plane any more"));
    } else if (!status.ok()) {
      fallback_.Encode(task->work, std::move(task->done));
    } else {
      for (TileEncodeJob& own : task->jobs.jobs) own = *job++;
      executor_.Schedule(WorkPriority::kPut, [task = std::shared_ptr<EncodeTask>(std::move(task))] {
        task->work->encoded = AssemblePlane(*task->work->spec, task->jobs);
        task->done(absl::OkStatus());
      });
    }
  }
}

void BatchedPlaneCodec::DecodeBatch(Codec& codec, Decodes batch) {
  std::vector<TileDecodeJob> jobs;
  size_t bytes = 0;
  for (const auto& task : batch) {
    jobs.insert(jobs.end(), task->jobs.begin(), task->jobs.end());
    bytes += task->work->values.size();
  }
  NotePhase(batch, &CallPhases::Enter);
  const absl::Status status =
      RunOn(codec, CodecDirection::kDecode, bytes, [&] { return codec.Decode(jobs); });
  NotePhase(batch, &CallPhases::Leave);
  for (auto& task : batch) {
    executor_.Schedule(WorkPriority::kGet, [this, ok = status.ok(),
                                            task = std::shared_ptr<DecodeTask>(std::move(task))] {
      if (ok) {
        task->done(absl::OkStatus());
      } else {
        fallback_.Decode(task->work, std::move(task->done));
      }
    });
  }
}

absl::Status BatchedPlaneCodec::RunOn(const Codec& codec, CodecDirection direction, uint64_t bytes,
                                      absl::FunctionRef<absl::Status()> work) {
  if (!healthy()) return absl::InternalError("the device failed before");
  const absl::Time start = clock_.Now();
  const absl::Status status = work();
  if (status.ok()) {
    stats_.OnCodec(direction, codec.device(), bytes, clock_.Now() - start);
    return status;
  }
  // Neither a lack of room nor a job that no codec takes says anything about the device. Whatever
  // else it is, a device in an unknown state is not to be trusted.
  const bool permanent = !absl::IsResourceExhausted(status) && !absl::IsInvalidArgument(status);
  if (permanent) broken_.store(true, std::memory_order_release);
  stats_.OnCodecFailure(codec.device(), permanent);
  return status;
}

}  // namespace kvstow
