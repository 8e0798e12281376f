#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "client/kvstow/device_kv.h"
#include "client/tool/bench_kv.h"

namespace kvstow::tool {
namespace {

// Blocks one after the other in device memory.
class BlocksOnDevice {
 public:
  static absl::StatusOr<std::unique_ptr<BlocksOnDevice>> Make(gpu::Device* device,
                                                              const PlaneLayout& layout,
                                                              size_t blocks) {
    auto memory = device->Allocate(blocks * layout.raw_bytes());
    if (!memory.ok()) return memory.status();
    return std::unique_ptr<BlocksOnDevice>(new BlocksOnDevice(device, layout, *memory));
  }
  ~BlocksOnDevice() { device_.Free(memory_); }

  std::byte* Plane(size_t index, size_t block) const {
    return memory_ + block * block_bytes_ + offsets_[index];
  }

 private:
  BlocksOnDevice(gpu::Device* device, const PlaneLayout& layout, std::byte* memory)
      : device_(*device), memory_(memory), block_bytes_(layout.raw_bytes()) {
    size_t at = 0;
    for (const PlaneSpec& plane : layout.planes()) {
      offsets_.push_back(at);
      at += plane.raw_bytes;
    }
  }

  gpu::Device& device_;
  std::byte* const memory_;
  const size_t block_bytes_;
  std::vector<size_t> offsets_;  // of the planes in a block
};

// Copies between those and what is shared with the daemon. All is done when a call returns.
class CopyingKv final : public DeviceKv {
 public:
  CopyingKv(std::shared_ptr<PluginGpu> gpu, std::unique_ptr<BlocksOnDevice> from,
            size_t from_blocks, std::unique_ptr<BlocksOnDevice> to)
      : gpu_(std::move(gpu)),
        from_(std::move(from)),
        from_blocks_(from_blocks),
        to_(std::move(to)) {}

  // Whose planes come and go from here on.
  void set_planes(const PlaneSpec* first) { first_plane_ = first; }

  absl::Status Scatter(std::span<const ArrivedPlane> planes) override {
    copies_.clear();
    for (const ArrivedPlane& p : planes) {
      copies_.push_back({to_->Plane(p.index, p.block), p.bytes, p.plane->raw_bytes});
    }
    return gpu_->device().CopyAll(copies_);
  }
  absl::Status ScatterFromHost(const PlaneSpec& plane, size_t block,
                               std::span<const std::byte> bytes) override {
    const gpu::Copy copy{to_->Plane(Index(plane), block), bytes.data(), bytes.size()};
    return gpu_->device().CopyAll({&copy, 1});
  }

  absl::Status Gather(std::span<const LeavingPlane> planes) override {
    copies_.clear();
    for (const LeavingPlane& p : planes) {
      copies_.push_back({p.to, from_->Plane(p.index, p.block % from_blocks_), p.plane->raw_bytes});
    }
    return gpu_->device().CopyAll(copies_);
  }
  absl::Status GatherToHost(const PlaneSpec& plane, size_t block,
                            std::span<std::byte> to) override {
    const gpu::Copy copy{to.data(), from_->Plane(Index(plane), block % from_blocks_), to.size()};
    return gpu_->device().CopyAll({&copy, 1});
  }

  absl::StatusOr<uint64_t> Mark() override { return ++marks_; }
  absl::StatusOr<bool> Passed(uint64_t /*mark*/) override { return true; }

 private:
  size_t Index(const PlaneSpec& plane) const { return static_cast<size_t>(&plane - first_plane_); }

  const std::shared_ptr<PluginGpu> gpu_;
  const std::unique_ptr<BlocksOnDevice> from_;
  const size_t from_blocks_;
  const std::unique_ptr<BlocksOnDevice> to_;
  const PlaneSpec* first_plane_ = nullptr;
  std::vector<gpu::Copy> copies_;
  uint64_t marks_ = 0;
};

class OnDevice final : public BenchKv {
 public:
  explicit OnDevice(std::shared_ptr<CopyingKv> kv) : kv_(std::move(kv)) {}

  void Give(const PlaneLayout& layout, PutBlocksRequest* request) override {
    kv_->set_planes(layout.planes().data());
    request->device = kv_;
  }
  void Take(const PlaneLayout& layout, GetBlocksRequest* request) override {
    kv_->set_planes(layout.planes().data());
    request->device = kv_;
  }

 private:
  const std::shared_ptr<CopyingKv> kv_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<BenchKv>> MakeDeviceKv(std::shared_ptr<PluginGpu> gpu,
                                                      const PlaneLayout& layout,
                                                      const BenchData* data, size_t blocks) {
  gpu::Device* const device = &gpu->device();
  auto from = BlocksOnDevice::Make(device, layout, data->blocks());
  if (!from.ok()) return from.status();
  auto to = BlocksOnDevice::Make(device, layout, blocks);
  if (!to.ok()) return to.status();
  std::vector<gpu::Copy> copies;
  for (size_t b = 0; b < data->blocks(); ++b) {
    for (size_t i = 0; i < layout.planes().size(); ++i) {
      const auto plane = data->Plane(i, b);
      copies.push_back({(*from)->Plane(i, b), plane.data(), plane.size()});
    }
  }
  if (auto s = device->CopyAll(copies); !s.ok()) return s;
  return std::make_unique<OnDevice>(std::make_shared<CopyingKv>(std::move(gpu), *std::move(from),
                                                                data->blocks(), *std::move(to)));
}

}  // namespace kvstow::tool
