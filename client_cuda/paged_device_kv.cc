#include <algorithm>
#include <cstring>
#include <deque>
#include <utility>

#include "absl/strings/str_cat.h"
#include "client_cuda/kvstow/cuda.h"
#include "client_cuda/page_copy.h"
#include "gpu/cuda_handles.h"
#include "gpu/cuda_status.h"
#include "gpu/staging.h"

namespace kvstow {
namespace {

using gpu::DeviceBuffer;
using gpu::Event;
using gpu::PinnedBuffer;

// Memory that copies under way still read: used again once its event has passed.
struct Lent {
  PinnedBuffer host;
  DeviceBuffer device;
  Event passed;
};

class PagedDeviceKv final : public DeviceKv {
 public:
  PagedDeviceKv(int device, cudaStream_t stream, DevicePages pages)
      : device_(device), stream_(stream), pages_(std::move(pages)) {}
  ~PagedDeviceKv() override {
    // Page tables and descriptions are in use until then.
    (void)cudaSetDevice(device_);
    for (const auto& lent : lent_) (void)cudaEventSynchronize(lent->passed.get());
  }

  absl::Status Allocate() {
    KVSTOW_CUDA_RETURN_IF_ERROR(cudaSetDevice(device_));
    std::vector<uint32_t> all;
    for (const auto& pages : pages_.of_block) {
      first_page_.push_back(all.size());
      all.insert(all.end(), pages.begin(), pages.end());
    }
    const size_t bytes = all.size() * sizeof(uint32_t);
    KVSTOW_RETURN_IF_ERROR(table_.Reserve(bytes));
    KVSTOW_CUDA_RETURN_IF_ERROR(
        cudaMemcpy(table_.data(), all.data(), bytes, cudaMemcpyHostToDevice));
    return absl::OkStatus();
  }

  absl::Status Scatter(std::span<const ArrivedPlane> planes) override {
    KVSTOW_CUDA_RETURN_IF_ERROR(cudaSetDevice(device_));
    auto lent = Borrow();
    if (!lent.ok()) return lent.status();
    KVSTOW_RETURN_IF_ERROR((*lent)->host.Reserve(planes.size() * sizeof(PagedPlane)));
    auto* out = reinterpret_cast<PagedPlane*>((*lent)->host.data());
    for (const ArrivedPlane& plane : planes) {
      auto paged = Describe(*plane.plane, plane.block, plane.bytes);
      if (!paged.ok()) return paged.status();
      *out++ = *paged;
    }
    return Launch(*std::move(lent), planes.size());
  }

  absl::Status ScatterFromHost(const PlaneSpec& plane, size_t block,
                               std::span<const std::byte> bytes) override {
    KVSTOW_CUDA_RETURN_IF_ERROR(cudaSetDevice(device_));
    auto lent = Borrow();
    if (!lent.ok()) return lent.status();
    PinnedBuffer& host = (*lent)->host;
    DeviceBuffer& device = (*lent)->device;
    KVSTOW_RETURN_IF_ERROR(host.Reserve(kDescriptionBytes + bytes.size()));
    KVSTOW_RETURN_IF_ERROR(device.Reserve(bytes.size()));
    std::memcpy(host.data() + kDescriptionBytes, bytes.data(), bytes.size());
    KVSTOW_CUDA_RETURN_IF_ERROR(cudaMemcpyAsync(device.data(), host.data() + kDescriptionBytes,
                                                bytes.size(), cudaMemcpyHostToDevice, stream_));
    auto paged = Describe(plane, block, device.data());
    if (!paged.ok()) return paged.status();
    std::memcpy(host.data(), &*paged, sizeof(*paged));
    return Launch(*std::move(lent), 1);
  }

  absl::StatusOr<uint64_t> Mark() override {
    KVSTOW_CUDA_RETURN_IF_ERROR(cudaSetDevice(device_));
    Marked marked{++marks_, {}};
    if (!idle_events_.empty()) {
      marked.event = std::move(idle_events_.back());
      idle_events_.pop_back();
    } else {
      auto event = gpu::MakeEvent();
      if (!event.ok()) return event.status();
      marked.event = *std::move(event);
    }
    KVSTOW_CUDA_RETURN_IF_ERROR(cudaEventRecord(marked.event.get(), stream_));
    marked_.push_back(std::move(marked));
    return marks_;
  }

  absl::StatusOr<bool> Passed(uint64_t mark) override {
    while (!marked_.empty() && marked_.front().mark <= mark) {
      const cudaError_t answer = cudaEventQuery(marked_.front().event.get());
      if (answer == cudaErrorNotReady) {
        (void)cudaGetLastError();  // no error, but kept as the last one all the same
        return false;
      }
      KVSTOW_CUDA_RETURN_IF_ERROR(answer);
      idle_events_.push_back(std::move(marked_.front().event));
      marked_.pop_front();
    }
    return true;
  }

 private:
  static constexpr size_t kDescriptionBytes = 256;
  static_assert(sizeof(PagedPlane) <= kDescriptionBytes);

  struct Marked {
    uint64_t mark = 0;
    Event event;
  };

  absl::StatusOr<PagedPlane> Describe(const PlaneSpec& plane, size_t block,
                                      const std::byte* bytes) const {
    if (plane.is_opaque()) {
      return absl::InvalidArgumentError(
          absl::StrCat("layer ", plane.layer, " is opaque: it has no rows to lay into pages"));
    }
    const PagedKv kv = pages_.of_plane(plane);
    const size_t held =
        block < pages_.of_block.size() ? pages_.of_block[block].size() * size_t{kv.page_tokens} : 0;
    if (kv.page_tokens == 0 || held != plane.tokens) {
      return absl::InvalidArgumentError(absl::StrCat("the pages of block ", block, " hold ", held,
                                                     " tokens, a block has ", plane.tokens));
    }
    PagedPlane out;
    out.plane = reinterpret_cast<const uint8_t*>(bytes);
    out.base = reinterpret_cast<uint8_t*>(kv.base);
    out.page_stride = kv.page_stride;
    out.head_stride = kv.head_stride;
    out.token_stride = kv.token_stride;
    out.pages = reinterpret_cast<const uint32_t*>(table_.data()) + first_page_[block];
    out.page_tokens = kv.page_tokens;
    out.tokens = plane.tokens;
    out.rows = plane.heads * plane.tokens;
    out.row_bytes = static_cast<uint32_t>(plane.dim * SizeOf(plane.dtype));
    return out;
  }

  // Memory that nothing reads any more.
  absl::StatusOr<Lent*> Borrow() {
    constexpr size_t kLent = 4;
    if (lent_.size() < kLent) {
      auto event = gpu::MakeEvent();
      if (!event.ok()) return event.status();
      lent_.push_back(std::make_unique<Lent>());
      lent_.back()->passed = *std::move(event);
      return lent_.back().get();
    }
    next_ = (next_ + 1) % kLent;
    KVSTOW_CUDA_RETURN_IF_ERROR(cudaEventSynchronize(lent_[next_]->passed.get()));
    return lent_[next_].get();
  }

  absl::Status Launch(Lent* lent, size_t planes) {
    KVSTOW_CUDA_RETURN_IF_ERROR(
        LaunchScatter(reinterpret_cast<const PagedPlane*>(lent->host.data()),
                      static_cast<uint32_t>(planes), stream_));
    KVSTOW_CUDA_RETURN_IF_ERROR(cudaEventRecord(lent->passed.get(), stream_));
    return absl::OkStatus();
  }

  const int device_;
  const cudaStream_t stream_;
  const DevicePages pages_;
  std::vector<size_t> first_page_;  // of each block, in the table
  DeviceBuffer table_;
  std::vector<std::unique_ptr<Lent>> lent_;
  size_t next_ = 0;
  uint64_t marks_ = 0;
  std::deque<Marked> marked_;
  std::vector<Event> idle_events_;
};

}  // namespace

absl::StatusOr<std::shared_ptr<DeviceKv>> NewPagedDeviceKv(int device, cudaStream_t stream,
                                                           DevicePages pages) {
  auto kv = std::make_shared<PagedDeviceKv>(device, stream, std::move(pages));
  KVSTOW_RETURN_IF_ERROR(kv->Allocate());
  return kv;
}

}  // namespace kvstow
