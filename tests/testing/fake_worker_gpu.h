// A worker's GPU that is none: "device memory" is what a FakeDevice shares, a memfd mapped here.
#pragma once

#include <sys/mman.h>

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

  SideChannelUuid uuid() const override { return uuid_; }
  absl::StatusOr<std::unique_ptr<WorkerGpuRegion>> Import(const OwnedFd& memory, uint64_t bytes,
                                                          const StagingProbe& probe) override {
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
};

// Copies, or with a coder decodes, when it is asked whether that has been done, as late as a stream
// may: `lag` questions after it was enqueued. Puts gather from a source, Gets scatter to a
// destination.
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

  absl::Status Scatter(std::span<const ArrivedPlane> planes) override {
    enqueued_.insert(enqueued_.end(), planes.begin(), planes.end());
    return absl::OkStatus();
  }
  absl::Status ScatterFromHost(const PlaneSpec& plane, size_t block,
                               std::span<const std::byte> bytes) override {
    ++from_host_;
    const auto to = destination_(plane, block);
    std::memcpy(to.data(), bytes.data(), bytes.size());
    return absl::OkStatus();
  }
  absl::StatusOr<uint64_t> Mark() override {
    batches_.push_back({++marks_, lag_, std::move(enqueued_), std::move(leaving_)});
    enqueued_.clear();
    leaving_.clear();
    return marks_;
  }
  absl::StatusOr<bool> Passed(uint64_t mark) override {
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
  size_t from_host() const { return from_host_; }
  size_t to_host() const { return to_host_; }

 private:
  struct Batch {
    uint64_t mark;
    int lag;
    std::vector<ArrivedPlane> planes;
    std::vector<LeavingPlane> leaving;
  };
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
  bool stuck_ = false;
  size_t from_host_ = 0, to_host_ = 0;
  uint64_t marks_ = 0;
  std::vector<ArrivedPlane> enqueued_;
  std::vector<LeavingPlane> leaving_;
  std::deque<Batch> batches_;
};

}  // namespace kvstow::testing
