#include "server/core/tiled_plane_codec.h"

#include <algorithm>
#include <utility>

#include "absl/synchronization/mutex.h"

namespace kvstow {

struct TiledPlaneCodec::Task {
  PlaneEncodeWork* work = nullptr;
  Done done;
  PlaneEncodeJobs jobs;
  std::atomic<size_t> pieces_left{0};
  absl::Mutex mu;
  absl::Status status ABSL_GUARDED_BY(mu);

  bool unwanted() const {
    return work->unwanted != nullptr && work->unwanted->load(std::memory_order_relaxed);
  }
  void Fail(const absl::Status& why) {
    absl::MutexLock lock(&mu);
    status.Update(why);
  }
  void Finish() {
    absl::Status result;
    {
      absl::MutexLock lock(&mu);
      result = status;
    }
    if (result.ok()) work->encoded = AssemblePlane(*work->spec, jobs);
    done(std::move(result));
  }
};

void TiledPlaneCodec::Encode(PlaneEncodeWork* work, Done done) {
  auto task = std::make_shared<Task>();
  task->work = work;
  task->done = std::move(done);
  task->jobs =
      MakeEncodeJobs(*work->spec, *work->settings, work->rotary, work->values, work->owner);
  const size_t tiles = task->jobs.jobs.size();
  const size_t pieces = std::clamp<size_t>(tiles, 1, 2 * executor_.concurrency());
  task->pieces_left = pieces;
  for (size_t i = 0; i < pieces; ++i) {
    executor_.Schedule(WorkPriority::kPut,
                       [this, task, begin = tiles * i / pieces, end = tiles * (i + 1) / pieces] {
                         EncodeTiles(task, begin, end);
                       });
  }
}

void TiledPlaneCodec::EncodeTiles(const std::shared_ptr<Task>& task, size_t begin, size_t end) {
  if (task->unwanted()) {
    task->Fail(absl::CancelledError("nobody wants this plane any more"));
  } else if (begin < end) {
    const CallPhases::Scope busy(task->work->phases, CallPhase::kCodec);
    const absl::Time start = clock_.Now();
    const absl::Status status =
        codec_.Encode(std::span(task->jobs.jobs).subspan(begin, end - begin));
    stats_.OnCodec(CodecDirection::kEncode, codec_.device(),
                   (end - begin) * task->work->spec->tile_bytes(), clock_.Now() - start);
    if (!status.ok()) task->Fail(status);
  }
  if (task->pieces_left.fetch_sub(1, std::memory_order_acq_rel) == 1) task->Finish();
}

void TiledPlaneCodec::Decode(PlaneDecodeWork* work, Done done) {
  absl::Status status;
  {
    const CallPhases::Scope busy(work->phases, CallPhase::kCodec);
    const absl::Time start = clock_.Now();
    status =
        DecodePlane(codec_, *work->spec, work->rotary, work->encoded, work->values, work->owner);
    stats_.OnCodec(CodecDirection::kDecode, codec_.device(), work->values.size(),
                   clock_.Now() - start);
  }
  done(std::move(status));
}

}  // namespace kvstow
