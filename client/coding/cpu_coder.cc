// The CPU codec behind the worker's interface: a plane is encoded tile by tile on the coder's
// threads, and decoded by one of them.
#include <atomic>
#include <cstring>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "client/coding/coding_threads.h"
#include "client/kvstow/coding.h"
#include "codec/codec.h"
#include "codec/crc32c.h"
#include "codec/plane.h"
#include "codec/space_rotary.h"

namespace kvstow {
namespace coding {
namespace {

absl::Status Unwanted() { return absl::CancelledError("nobody wants this plane any more"); }

bool IsUnwanted(const std::atomic<bool>* unwanted) {
  return unwanted != nullptr && unwanted->load(std::memory_order_relaxed);
}

// What jobs refer to; outlives the coder with them.
struct Space {
  explicit Space(PlaneLayout of) : layout(std::move(of)), rotary(layout) {}

  const CodecSettings& settings() const { return layout.spec().codec; }

  const PlaneLayout layout;
  const SpaceRotary rotary;
};

struct CpuPositions final : public SpaceCoder::Positions {
  CpuPositions(std::shared_ptr<const Space> of, uint64_t first_position)
      : space(std::move(of)), rotary(space->rotary.At(first_position)) {}

  const std::shared_ptr<const Space> space;
  const BlockRotary rotary;
};

const RotaryTable* RotaryOf(const SpaceCoder::Positions* positions, size_t plane) {
  return static_cast<const CpuPositions*>(positions)->rotary.of_plane(plane);
}

// One plane's tiles on their way.
class Encoding {
 public:
  Encoding(std::shared_ptr<const Space> space, SpaceCoder::EncodeJob* job, SpaceCoder::Done done)
      : space_(std::move(space)),
        job_(*job),
        done_(std::move(done)),
        tiles_(MakeEncodeJobs(plane(), space_->settings(),
                              RotaryOf(job->positions.get(), job->plane), job->values)),
        left_(tiles_.jobs.size()) {}

  size_t tiles() const { return tiles_.jobs.size(); }

  void EncodeTile(size_t tile) {
    Note(IsUnwanted(job_.unwanted) ? Unwanted()
                                   : CpuCodec()->Encode(std::span(tiles_.jobs).subspan(tile, 1)));
    if (left_.fetch_sub(1, std::memory_order_acq_rel) == 1) Finish();
  }

 private:
  const PlaneSpec& plane() const { return space_->layout.planes()[job_.plane]; }

  void Note(const absl::Status& status) {
    if (status.ok()) return;
    absl::MutexLock lock(&mu_);
    status_.Update(status);
  }

  void Finish() {
    absl::Status status;
    {
      absl::MutexLock lock(&mu_);
      status = status_;
    }
    if (status.ok()) {
      const EncodedPlane encoded = AssemblePlane(plane(), tiles_);
      job_.bytes.assign(encoded.bytes.begin(), encoded.bytes.end());
      job_.crc32c = Crc32c(job_.bytes);
      for (const TileEncodeJob& tile : tiles_.jobs) {
        const ErrorSums& s = tile.report.sums;
        job_.tiles.push_back(
            {s.energy, s.error, s.centred_energy, s.centred_error, s.inner_product});
      }
    }
    done_(std::move(status));
  }

  const std::shared_ptr<const Space> space_;
  SpaceCoder::EncodeJob& job_;
  const SpaceCoder::Done done_;
  PlaneEncodeJobs tiles_;
  std::atomic<size_t> left_;
  absl::Mutex mu_;
  absl::Status status_ ABSL_GUARDED_BY(mu_);
};

void TakeVerbatim(const PlaneSpec& plane, SpaceCoder::EncodeJob* job) {
  job->bytes.resize(VerbatimOffset(plane) + job->values.size());
  std::memcpy(job->bytes.data() + VerbatimOffset(plane), job->values.data(), job->values.size());
  FinishVerbatim(plane, job->bytes);
  job->crc32c = Crc32c(job->bytes);
}

absl::Status DecodeNow(const PlaneSpec& plane, SpaceCoder::DecodeJob* job) {
  if (IsUnwanted(job->unwanted)) return Unwanted();
  if (Crc32c(job->bytes) != job->crc32c) {
    return absl::DataLossError(absl::StrCat("the plane of layer ", plane.layer, " (",
                                            Name(plane.kind), ") changed on its way: checksum"));
  }
  return DecodePlane(*CpuCodec(), plane, RotaryOf(job->positions.get(), job->plane), job->bytes,
                     job->values);
}

class CpuSpaceCoder final : public SpaceCoder {
 public:
  CpuSpaceCoder(std::shared_ptr<CodingThreads> threads, std::shared_ptr<const Space> space)
      : threads_(std::move(threads)), space_(std::move(space)) {}

  std::shared_ptr<const Positions> At(uint64_t first_position) const override {
    return std::make_shared<CpuPositions>(space_, first_position);
  }

  size_t MaxEncodedBytes(size_t plane) const override {
    return MaxPlaneBytes(space_->layout.planes()[plane]);
  }

  void Encode(EncodeJob* job, Done done) override {
    const PlaneSpec& plane = space_->layout.planes()[job->plane];
    if (IsVerbatim(plane, space_->settings())) {
      TakeVerbatim(plane, job);
      return done(absl::OkStatus());
    }
    const auto encoding = std::make_shared<Encoding>(space_, job, std::move(done));
    for (size_t i = 0; i < encoding->tiles(); ++i) {
      threads_->Run([encoding, i] { encoding->EncodeTile(i); });
    }
  }

  void Decode(DecodeJob* job, Done done) override {
    threads_->RunFirst([space = space_, job, done = std::move(done)] {
      done(DecodeNow(space->layout.planes()[job->plane], job));
    });
  }

 private:
  const std::shared_ptr<CodingThreads> threads_;
  const std::shared_ptr<const Space> space_;
};

class CpuCoder final : public PlaneCoder {
 public:
  explicit CpuCoder(const CpuCoderOptions& options)
      : threads_(std::make_shared<CodingThreads>(options.threads)) {}

  absl::string_view device() const override { return "cpu"; }

  absl::StatusOr<std::shared_ptr<SpaceCoder>> ForSpace(const SpaceSpec& spec,
                                                       const Shard& shard) override {
    auto layout = PlaneLayout::Create(spec, shard);
    if (!layout.ok()) return layout.status();
    return std::make_shared<CpuSpaceCoder>(threads_, std::make_shared<Space>(*std::move(layout)));
  }

 private:
  const std::shared_ptr<CodingThreads> threads_;
};

}  // namespace
}  // namespace coding

std::shared_ptr<PlaneCoder> MakeCpuCoder(const CpuCoderOptions& options) {
  return std::make_shared<coding::CpuCoder>(options);
}

}  // namespace kvstow
