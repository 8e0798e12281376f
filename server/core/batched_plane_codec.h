// Planes through codecs that live on a device and are fast only with many tiles at a time: work is
// queued, and whenever a codec is idle it takes what has gathered, Gets before Puts. A lone plane
// goes at once; under load batches grow by themselves.
//
// A batch that the device cannot take (its memory is exhausted) goes to the fallback, counted. A
// device that failed for good is not asked again: everything goes to the fallback, and healthy()
// says so.
#pragma once

#include <atomic>
#include <deque>
#include <memory>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/functional/function_ref.h"
#include "absl/synchronization/mutex.h"
#include "codec/codec.h"
#include "server/core/clock.h"
#include "server/core/executor.h"
#include "server/core/plane_codec.h"
#include "server/core/stats_sink.h"

namespace kvstow {

class BatchedPlaneCodec final : public PlaneCodec {
 public:
  // What a codec is given at once, in raw bytes: enough to fill a large device, little enough that
  // the next one's copies overlap with it.
  static constexpr size_t kBatchBytes = size_t{64} << 20;

  // As many batches run at a time as there are codecs, each on an executor thread. All outlive it.
  BatchedPlaneCodec(std::vector<Codec*> codecs, PlaneCodec* fallback, Executor* executor,
                    const Clock* clock, StatsSink* stats);
  ~BatchedPlaneCodec() override;

  absl::string_view device() const override { return front_.device(); }
  absl::string_view description() const override { return front_.description(); }
  void Encode(PlaneEncodeWork* work, Done done) override;
  void Decode(PlaneDecodeWork* work, Done done) override;
  size_t queue_depth() const override ABSL_LOCKS_EXCLUDED(mu_);

  // False once the device failed for good.
  bool healthy() const { return !broken_.load(std::memory_order_acquire); }

 private:
  struct EncodeTask;
  struct DecodeTask;
  using Encodes = std::vector<std::unique_ptr<EncodeTask>>;
  using Decodes = std::vector<std::unique_ptr<DecodeTask>>;

  // Starts batches on idle codecs while there is work.
  void Dispatch() ABSL_LOCKS_EXCLUDED(mu_);
  void RunBatch(Codec* codec);
  void EncodeBatch(Codec& codec, Encodes batch);
  void DecodeBatch(Codec& codec, Decodes batch);
  // Runs a batch, counts what it took or that it failed.
  absl::Status RunOn(const Codec& codec, CodecDirection direction, uint64_t bytes,
                     absl::FunctionRef<absl::Status()> work);

  const Codec& front_;
  PlaneCodec& fallback_;
  Executor& executor_;
  const Clock& clock_;
  StatsSink& stats_;
  std::atomic<bool> broken_{false};

  mutable absl::Mutex mu_;
  std::vector<Codec*> idle_ ABSL_GUARDED_BY(mu_);
  std::deque<std::unique_ptr<EncodeTask>> encodes_ ABSL_GUARDED_BY(mu_);
  std::deque<std::unique_ptr<DecodeTask>> decodes_ ABSL_GUARDED_BY(mu_);
};

}  // namespace kvstow
