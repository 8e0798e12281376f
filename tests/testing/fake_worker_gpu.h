// A worker's GPU that is none: "device memory" is what a FakeDevice shares, a memfd mapped here.
#pragma once

#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <deque>
#include <functional>
#include <memory>
#include <utility>
#include <vector>

#include "absl/synchronization/notification.h"
#include "client/worker_gpu.h"
#include "kvstow/coding.h"
#include "kvstow/device_kv.h"

namespace kvstow::testing {

class FakeWorkerGpu final : public WorkerGpu {
 public:
  explicit FakeWorkerGpu(SideChannelUuid uuid = {'f', 'a', 'k', 'e'}) : uuid_(uuid) {}
  // It does not find what the daemon wrote.
  void set_blind(bool blind) { blind_ = blind; }

  // Regions that it was to map.
  size_t imports() const { return imports_; }

  SideChannelUuid uuid() const override { return uuid_; }
  absl::StatusOr<std::unique_ptr<WorkerGpuRegion>> Import(const OwnedFd& memory, uint64_t bytes,
                                                          const StagingProbe& probe) override {
    ++imports_;
    void* const at = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, memory.get(), 0);
    if (at == MAP_FAILED) return absl::FailedPreconditionError("cannot map");
    auto region = std::make_unique<Region>(std::span(static_cast<std::byte*>(at), bytes));
    if (blind_ || std::memcmp(at, &probe, sizeof(probe)) != 0) {
      return absl::FailedPreconditionError("the worker does not see what the daemon wrote");
    }
    const StagingProbe answer = probe.Answer();
    std::memcpy(region->bytes().data() + sizeof(probe), &answer, sizeof(answer));
    return region;
  }

 private:
  class Region final : public WorkerGpuRegion {
   public:
    explicit Region(std::span<std::byte> bytes) : bytes_(bytes) {}
    ~Region() override { munmap(bytes_.data(), bytes_.size()); }
    std::span<std::byte> bytes() const override { return bytes_; }

   private:
    const std::span<std::byte> bytes_;
  };

  const SideChannelUuid uuid_;
  bool blind_ = false;
  std::atomic<size_t> imports_{0};
};

// Copies, or with a coder decodes, when it is asked whether that has been done, as late as a stream
// may: `lag` questions after it was enqueued; so it does with planes from and to the host. Puts
// gather from a source, Gets scatter to a destination.
class FakeDeviceKv final : public DeviceKv {
 public:
  using Destination = std::function<std::span<std::byte>(const PlaneSpec& plane, size_t block)>;
  explicit FakeDeviceKv(Destination destination, int lag = 3,
                        std::shared_ptr<SpaceCoder> coder = nullptr)
      : destination_(std::move(destination)), lag_(lag), coder_(std::move(coder)) {}

  using Source = std::function<std::span<const std::byte>(const PlaneSpec& plane, size_t block)>;
  explicit FakeDeviceKv(Source source, int lag = 3) : source_(std::move(source)), lag_(lag) {}

  bool decodes() const override { return coder_ != nullptr; }

  absl::Status Gather(std::span<const LeavingPlane> planes) override {
    leaving_.insert(leaving_.end(), planes.begin(), planes.end());
    return absl::OkStatus();
  }
  absl::Status GatherToHost(const PlaneSpec& plane, size_t block,
                            std::span<std::byte> to) override {
    ++to_host_;
    return Read(plane, block, to.data());
  }
  absl::Status EnqueueToHost(const PlaneSpec& plane, size_t block) override {
    ++to_host_;
    leaving_.push_back({&plane, 0, block, on_host_.emplace_back(plane.raw_bytes).data()});
    return absl::OkStatus();
  }
  absl::Status TakeToHost(std::span<std::byte> to) override {
    if (!batches_.empty()) return absl::InternalError("taken before it was there");
    std::memcpy(to.data(), on_host_.back().data(), to.size());
    return absl::OkStatus();
  }

  absl::Status BeginGet() override {
    if (forgets_) damage_.clear();
    return absl::OkStatus();
  }
  absl::Status Scatter(std::span<const ArrivedPlane> planes) override {
    enqueued_.insert(enqueued_.end(), planes.begin(), planes.end());
    return absl::OkStatus();
  }
  absl::Status ScatterFromHost(const PlaneSpec& plane, size_t block,
                               std::span<const std::byte> bytes) override {
    ++from_host_;
    ArrivedPlane arrived;
    arrived.plane = &plane;
    arrived.block = block;
    arrived.bytes = from_host_bytes_.emplace_back(bytes.begin(), bytes.end()).data();
    enqueued_.push_back(arrived);
    most_from_host_ = std::max(most_from_host_, FromHostUnderWay());
    return absl::OkStatus();
  }
  absl::StatusOr<uint64_t> Mark() override {
    batches_.push_back({++marks_, lag_, std::exchange(enqueued_, {}), std::exchange(leaving_, {}),
                        std::exchange(from_host_bytes_, {})});
    return marks_;
  }
  absl::StatusOr<bool> Passed(uint64_t mark) override {
    if (questions_left_ > 0 && --questions_left_ == 0) return absl::AbortedError("it broke");
    while (!batches_.empty() && batches_.front().mark <= mark) {
      if (batches_.front().lag-- > 0 || stuck_) return false;
      for (const ArrivedPlane& arrived : batches_.front().planes) {
        Write(arrived);
      }
      for (const LeavingPlane& leaving : batches_.front().leaving) {
        if (auto s = Read(*leaving.plane, leaving.block, leaving.to); !s.ok()) return s;
      }
      batches_.pop_front();
    }
    return true;
  }
  std::vector<DamagedArrival> TakeDamage() override { return std::exchange(damage_, {}); }
  // The stream never comes to the copies.
  void set_stuck() { stuck_ = true; }
  // It fails at the n-th question from here.
  void set_breaks(int n) { questions_left_ = n; }
  // Tells of it next, whatever was asked for.
  void AddDamage(const DamagedArrival& damage) { damage_.push_back(damage); }
  // BeginGet leaves what was found before.
  void set_forgets(bool forgets) { forgets_ = forgets; }
  size_t from_host() const { return from_host_; }
  size_t most_from_host() const { return most_from_host_; }  // under way at a time
  size_t to_host() const { return to_host_; }

 private:
  struct Batch {
    uint64_t mark;
    int lag;
    std::vector<ArrivedPlane> planes;
    std::vector<LeavingPlane> leaving;
    std::vector<std::vector<std::byte>> from_host;  // what some of `planes` lie in
  };
  size_t FromHostUnderWay() const {
    size_t planes = from_host_bytes_.size();
    for (const Batch& batch : batches_) planes += batch.from_host.size();
    return planes;
  }
  absl::Status Read(const PlaneSpec& plane, size_t block, std::byte* to) const {
    const auto from = source_(plane, block);
    if (from.empty()) return absl::CancelledError("the source gave the Put up");
    std::memcpy(to, from.data(), from.size());
    return absl::OkStatus();
  }
  void Write(const ArrivedPlane& arrived) {
    const auto to = destination_(*arrived.plane, arrived.block);
    if (arrived.encoded_bytes == 0) {
      std::memcpy(to.data(), arrived.bytes, to.size());
      return;
    }
    SpaceCoder::DecodeJob job;
    job.plane = arrived.index;
    job.positions = coder_->At(arrived.first_position);
    job.bytes = {arrived.bytes, arrived.encoded_bytes};
    job.crc32c = arrived.crc32c;
    job.values = to;
    absl::Status status;
    absl::Notification done;
    coder_->Decode(&job, [&](absl::Status s) {
      status = std::move(s);
      done.Notify();
    });
    done.WaitForNotification();
    if (!status.ok()) damage_.push_back({arrived.plane, arrived.block});
  }

  const Destination destination_;
  const Source source_;
  const int lag_;
  const std::shared_ptr<SpaceCoder> coder_;
  std::vector<DamagedArrival> damage_;
  bool stuck_ = false, forgets_ = true;
  int questions_left_ = 0;
  size_t from_host_ = 0, most_from_host_ = 0, to_host_ = 0;
  std::deque<std::vector<std::byte>> on_host_;  // gathered there
  std::vector<std::vector<std::byte>> from_host_bytes_;
  uint64_t marks_ = 0;
  std::vector<ArrivedPlane> enqueued_;
  std::vector<LeavingPlane> leaving_;
  std::deque<Batch> batches_;
};

}  // namespace kvstow::testing
