// Planes through a Codec that works on the calling thread: encoding is spread over the executor
// tile by tile, decoding happens plane by plane on the executor thread that asks for it.
#pragma once

#include <memory>

#include "codec/codec.h"
#include "server/core/clock.h"
#include "server/core/executor.h"
#include "server/core/plane_codec.h"
#include "server/core/stats_sink.h"

namespace kvstow {

class TiledPlaneCodec final : public PlaneCodec {
 public:
  // All of them outlive it.
  TiledPlaneCodec(Codec* codec, Executor* executor, const Clock* clock, StatsSink* stats)
      : codec_(*codec), executor_(*executor), clock_(*clock), stats_(*stats) {}

  absl::string_view device() const override { return codec_.device(); }
  absl::string_view description() const override { return codec_.description(); }
  void Encode(PlaneEncodeWork* work, Done done) override;
  void Decode(PlaneDecodeWork* work, Done done) override;
  size_t queue_depth() const override { return 0; }

 private:
  struct Task;
  void EncodeTiles(const std::shared_ptr<Task>& task, size_t begin, size_t end);

  Codec& codec_;
  Executor& executor_;
  const Clock& clock_;
  StatsSink& stats_;
};

}  // namespace kvstow
