// KV in the memory of a GPU that is none, encoded there by the CPU's coder for Puts: the worker's
// half without CUDA.
#pragma once

#include <algorithm>
#include <cstring>
#include <functional>
#include <memory>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/notification.h"
#include "kvstow/coding.h"
#include "kvstow/device_kv.h"

namespace kvstow::testing {

// Encodes when it is asked whether that has been done, as late as a stream may: `lag` questions
// after it was enqueued. Serves Puts only.
class FakeEncodingKv final : public DeviceKv {
 public:
  using Source = std::function<std::span<const std::byte>(const PlaneSpec& plane, size_t block)>;
  struct Options {
    size_t at_a_time = size_t{1} << 20;  // raw bytes
    size_t most_planes = 1000;           // of one batch
    int lag = 3;
  };
  FakeEncodingKv(Source source, std::shared_ptr<SpaceCoder> coder, Options options)
      : source_(std::move(source)), coder_(std::move(coder)), options_(options) {}
  FakeEncodingKv(Source source, std::shared_ptr<SpaceCoder> coder)
      : FakeEncodingKv(std::move(source), std::move(coder), Options()) {}

  size_t encodes_at_a_time() const override { return options_.at_a_time; }

  absl::StatusOr<size_t> Encode(std::span<const PlaneToEncode> planes) override {
    if (!waiting_.empty())
      return absl::UnavailableError("the stream has not come to the last ones");
    if (!encode_status_.ok()) return encode_status_;
    ++batches_;
    waiting_.assign(planes.begin(), planes.begin() + static_cast<ptrdiff_t>(std::min(
                                                         planes.size(), options_.most_planes)));
    for (const PlaneToEncode& plane : waiting_) layers_.push_back(plane.plane->layer);
    asked_ = 0;
    return waiting_.size();
  }
  absl::StatusOr<std::vector<PlaneEncodedOnDevice>> TakeEncoded() override {
    std::vector<PlaneEncodedOnDevice> out;
    taken_ = std::exchange(jobs_, {});
    for (const auto& job : taken_) out.push_back({job->bytes, job->crc32c, job->tiles});
    if (spoil_) spoil_(&out);
    return out;
  }

  absl::StatusOr<uint64_t> Mark() override { return ++marks_; }
  absl::StatusOr<bool> Passed(uint64_t /*mark*/) override {
    if (on_question_) on_question_();
    if (!passed_status_.ok()) return passed_status_;
    if (asked_++ < options_.lag || stuck_) return false;
    if (!waiting_.empty()) jobs_.clear();  // nobody took them
    for (const PlaneToEncode& plane : waiting_) {
      if (auto s = EncodeNow(plane); !s.ok()) return s;
    }
    waiting_.clear();
    return true;
  }

  // As they are: by then all is done.
  absl::Status Gather(std::span<const LeavingPlane> planes) override {
    ++gathers_;
    for (const LeavingPlane& plane : planes) {
      const auto from = source_(*plane.plane, plane.block);
      std::memcpy(plane.to, from.data(), from.size());
    }
    return absl::OkStatus();
  }

  absl::Status Scatter(std::span<const ArrivedPlane>) override { return ForPutsOnly(); }
  absl::Status ScatterFromHost(const PlaneSpec&, size_t, std::span<const std::byte>) override {
    return ForPutsOnly();
  }

  // The stream does not come to the planes.
  void set_stuck(bool stuck) { stuck_ = stuck; }
  void set_encode_status(absl::Status status) { encode_status_ = std::move(status); }
  void set_passed_status(absl::Status status) { passed_status_ = std::move(status); }
  // Changes what comes out.
  void set_spoil(std::function<void(std::vector<PlaneEncodedOnDevice>*)> spoil) {
    spoil_ = std::move(spoil);
  }
  // Called by whoever waits for the stream.
  void set_on_question(std::function<void()> f) { on_question_ = std::move(f); }

  size_t batches() const { return batches_; }
  size_t gathers() const { return gathers_; }
  const std::vector<uint32_t>& layers() const { return layers_; }  // of planes given to Encode

 private:
  static absl::Status ForPutsOnly() { return absl::UnimplementedError("for Puts only"); }

  absl::Status EncodeNow(const PlaneToEncode& plane) {
    auto job = std::make_unique<SpaceCoder::EncodeJob>();
    job->plane = plane.index;
    job->positions = coder_->At(plane.first_position);
    job->values = source_(*plane.plane, plane.block);
    if (job->values.empty()) return absl::CancelledError("the source gave the Put up");
    absl::Status status;
    absl::Notification done;
    coder_->Encode(job.get(), [&](absl::Status s) {
      status = std::move(s);
      done.Notify();
    });
    done.WaitForNotification();
    jobs_.push_back(std::move(job));
    return status;
  }

  const Source source_;
  const std::shared_ptr<SpaceCoder> coder_;
  const Options options_;
  std::vector<PlaneToEncode> waiting_;  // on the stream
  std::vector<std::unique_ptr<SpaceCoder::EncodeJob>> jobs_, taken_;
  std::function<void(std::vector<PlaneEncodedOnDevice>*)> spoil_;
  std::function<void()> on_question_;
  absl::Status encode_status_, passed_status_;
  bool stuck_ = false;
  int asked_ = 0;
  uint64_t marks_ = 0;
  size_t batches_ = 0, gathers_ = 0;
  std::vector<uint32_t> layers_;
};

}  // namespace kvstow::testing
