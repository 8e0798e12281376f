#include <algorithm>
#include <cstring>
#include <deque>
#include <utility>

#include "absl/strings/str_cat.h"
#include "client_cuda/kvstow/cuda.h"
#include "client_cuda/page_copy.h"
#include "gpu/cuda_handles.h"
#include "gpu/cuda_status.h"
#include "gpu/plane_decoder.h"
#include "gpu/staging.h"

namespace kvstow {
namespace {

using gpu::DeviceBuffer;
using gpu::Event;
using gpu::PinnedBuffer;
using gpu::PlaneDecoder;

// Memory that copies under way still read: used again once its event has passed.
struct Lent {
  PinnedBuffer host;
  DeviceBuffer device;
  Event passed;
};

class Pages final : public PagedDeviceKv {
 public:
  explicit Pages(const DeviceKvOptions& options) : options_(options) {}
  ~Pages() override {
    // Page tables and descriptions are in use until then.
    (void)cudaSetDevice(options_.device);
    for (const Lent& lent : lent_) (void)cudaEventSynchronize(lent.passed.get());
  }

  absl::Status Allocate() {
    KVSTOW_CUDA_RETURN_IF_ERROR(cudaSetDevice(options_.device));
    for (Lent& lent : lent_) {
      auto passed = gpu::MakeEvent();
      if (!passed.ok()) return passed.status();
      lent.passed = *std::move(passed);
    }
    if (options_.decode == nullptr) return absl::OkStatus();
    auto decoder = PlaneDecoder::Create(options_.device, *options_.decode, options_.max_blocks,
                                        options_.stream);
    if (!decoder.ok()) return decoder.status();
    decoder_ = *std::move(decoder);
    return absl::OkStatus();
  }

  absl::Status SetPages(DevicePages pages) override {
    KVSTOW_CUDA_RETURN_IF_ERROR(cudaSetDevice(options_.device));
    // The table of the Get before is in use until then.
    for (const Lent& lent : lent_) {
      KVSTOW_CUDA_RETURN_IF_ERROR(cudaEventSynchronize(lent.passed.get()));
    }
    pages_ = std::move(pages);
    first_page_.clear();
    std::vector<uint32_t> all;
    for (const auto& of_block : pages_.of_block) {
      first_page_.push_back(all.size());
      all.insert(all.end(), of_block.begin(), of_block.end());
    }
    const size_t bytes = all.size() * sizeof(uint32_t);
    KVSTOW_RETURN_IF_ERROR(table_.Reserve(bytes));
    KVSTOW_CUDA_RETURN_IF_ERROR(
        cudaMemcpy(table_.data(), all.data(), bytes, cudaMemcpyHostToDevice));
    return absl::OkStatus();
  }

  bool decodes() const override { return decoder_ != nullptr; }

  absl::Status Scatter(std::span<const ArrivedPlane> planes) override {
    KVSTOW_CUDA_RETURN_IF_ERROR(cudaSetDevice(options_.device));
    while (!planes.empty()) {
      const size_t some = std::min(planes.size(), PlaneDecoder::kMaxPlanes);
      KVSTOW_RETURN_IF_ERROR(ScatterSome(planes.first(some)));
      planes = planes.subspan(some);
    }
    return absl::OkStatus();
  }

  absl::Status ScatterFromHost(const PlaneSpec& plane, size_t block,
                               std::span<const std::byte> bytes) override {
    KVSTOW_CUDA_RETURN_IF_ERROR(cudaSetDevice(options_.device));
    auto lent = Borrow();
    if (!lent.ok()) return lent.status();
    PinnedBuffer& host = (*lent)->host;
    DeviceBuffer& device = (*lent)->device;
    KVSTOW_RETURN_IF_ERROR(host.Reserve(kDescriptionBytes + bytes.size()));
    KVSTOW_RETURN_IF_ERROR(device.Reserve(bytes.size()));
    std::memcpy(host.data() + kDescriptionBytes, bytes.data(), bytes.size());
    KVSTOW_CUDA_RETURN_IF_ERROR(cudaMemcpyAsync(device.data(), host.data() + kDescriptionBytes,
                                                bytes.size(), cudaMemcpyHostToDevice,
                                                options_.stream));
    auto paged = Describe(plane, block, device.data());
    if (!paged.ok()) return paged.status();
    std::memcpy(host.data(), &*paged, sizeof(*paged));
    return Launch(*lent, 1);
  }

  absl::StatusOr<uint64_t> Mark() override {
    KVSTOW_CUDA_RETURN_IF_ERROR(cudaSetDevice(options_.device));
    Marked marked{++marks_, {}};
    if (!idle_events_.empty()) {
      marked.event = std::move(idle_events_.back());
      idle_events_.pop_back();
    } else {
      auto event = gpu::MakeEvent();
      if (!event.ok()) return event.status();
      marked.event = *std::move(event);
    }
    KVSTOW_CUDA_RETURN_IF_ERROR(cudaEventRecord(marked.event.get(), options_.stream));
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
      CollectDamage(marked_.front().mark);
      idle_events_.push_back(std::move(marked_.front().event));
      marked_.pop_front();
    }
    return true;
  }

  std::vector<DamagedArrival> TakeDamage() override { return std::exchange(damage_, {}); }

 private:
  static constexpr size_t kDescriptionBytes = 256;
  static_assert(sizeof(PagedPlane) <= kDescriptionBytes);

  struct Marked {
    uint64_t mark = 0;
    Event event;
  };
  // Decoded planes whose flags travel back.
  struct Decoded {
    uint64_t mark = 0;  // the next one behind it
    std::vector<DamagedArrival> names;
    PinnedBuffer flags;
  };

  absl::Status ScatterSome(std::span<const ArrivedPlane> planes) {
    auto lent = Borrow();
    if (!lent.ok()) return lent.status();
    KVSTOW_RETURN_IF_ERROR((*lent)->host.Reserve(planes.size() * sizeof(PagedPlane)));
    auto* out = reinterpret_cast<PagedPlane*>((*lent)->host.data());
    const uint32_t* flags = nullptr;
    if (decoder_ != nullptr) {
      auto decoded = DecodeSome(planes, *lent);
      if (!decoded.ok()) return decoded.status();
      flags = *decoded;
    }
    size_t at = 0;  // in the decoded values
    for (size_t i = 0; i < planes.size(); ++i) {
      const ArrivedPlane& plane = planes[i];
      const std::byte* bytes = flags == nullptr ? plane.bytes : (*lent)->device.data() + at;
      auto paged = Describe(*plane.plane, plane.block, bytes);
      if (!paged.ok()) return paged.status();
      if (flags != nullptr) paged->skip = flags + i;
      at += plane.plane->raw_bytes;
      *out++ = *paged;
    }
    return Launch(*lent, planes.size());
  }

  // Into memory that is the lent one's; returns the flags of damage on the device.
  absl::StatusOr<const uint32_t*> DecodeSome(std::span<const ArrivedPlane> planes, Lent* lent) {
    size_t bytes = 0;
    for (const ArrivedPlane& plane : planes) bytes += plane.plane->raw_bytes;
    KVSTOW_RETURN_IF_ERROR(lent->device.Reserve(bytes));
    std::byte* at = lent->device.data();
    auto told = std::make_unique<Decoded>();
    told->mark = marks_ + 1;
    to_decode_.clear();
    for (const ArrivedPlane& plane : planes) {
      PlaneDecoder::Plane& out = to_decode_.emplace_back();
      out.plane = plane.index;
      out.first_position = plane.first_position;
      out.encoded = plane.bytes;
      out.encoded_bytes = plane.encoded_bytes;
      out.crc32c = plane.crc32c;
      out.values = at;
      out.row_stride = plane.plane->dim * SizeOf(plane.plane->dtype);
      out.head_stride = out.row_stride * plane.plane->tokens;
      at += plane.plane->raw_bytes;
      told->names.push_back({plane.plane, plane.block});
    }
    auto flags = decoder_->Decode(to_decode_);
    if (!flags.ok()) return flags;
    if (!idle_flags_.empty()) {
      told->flags = std::move(idle_flags_.back());
      idle_flags_.pop_back();
    }
    const size_t flag_bytes = planes.size() * sizeof(uint32_t);
    KVSTOW_RETURN_IF_ERROR(told->flags.Reserve(PlaneDecoder::kMaxPlanes * sizeof(uint32_t)));
    KVSTOW_CUDA_RETURN_IF_ERROR(cudaMemcpyAsync(told->flags.data(), *flags, flag_bytes,
                                                cudaMemcpyDeviceToHost, options_.stream));
    decoded_.push_back(std::move(told));
    return flags;
  }

  void CollectDamage(uint64_t mark) {
    while (!decoded_.empty() && decoded_.front()->mark <= mark) {
      Decoded& decoded = *decoded_.front();
      const auto* flags = reinterpret_cast<const uint32_t*>(decoded.flags.data());
      for (size_t i = 0; i < decoded.names.size(); ++i) {
        if (flags[i] != 0) damage_.push_back(decoded.names[i]);
      }
      idle_flags_.push_back(std::move(decoded.flags));
      decoded_.pop_front();
    }
  }

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
    Lent& lent = lent_[next_];
    next_ = (next_ + 1) % std::size(lent_);
    KVSTOW_CUDA_RETURN_IF_ERROR(cudaEventSynchronize(lent.passed.get()));
    return &lent;
  }

  absl::Status Launch(Lent* lent, size_t planes) {
    KVSTOW_CUDA_RETURN_IF_ERROR(
        LaunchScatter(reinterpret_cast<const PagedPlane*>(lent->host.data()),
                      static_cast<uint32_t>(planes), options_.stream));
    KVSTOW_CUDA_RETURN_IF_ERROR(cudaEventRecord(lent->passed.get(), options_.stream));
    return absl::OkStatus();
  }

  const DeviceKvOptions options_;
  DevicePages pages_;
  std::vector<size_t> first_page_;  // of each block, in the table
  DeviceBuffer table_;
  std::unique_ptr<PlaneDecoder> decoder_;  // null: planes arrive decoded
  std::vector<PlaneDecoder::Plane> to_decode_;
  Lent lent_[4];
  size_t next_ = 0;
  uint64_t marks_ = 0;
  std::deque<Marked> marked_;
  std::vector<Event> idle_events_;
  std::deque<std::unique_ptr<Decoded>> decoded_;
  std::vector<PinnedBuffer> idle_flags_;
  std::vector<DamagedArrival> damage_;
};

}  // namespace

absl::StatusOr<std::shared_ptr<PagedDeviceKv>> PagedDeviceKv::Create(
    const DeviceKvOptions& options) {
  auto kv = std::make_shared<Pages>(options);
  KVSTOW_RETURN_IF_ERROR(kv->Allocate());
  return kv;
}

}  // namespace kvstow
