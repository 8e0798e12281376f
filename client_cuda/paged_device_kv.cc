#include <algorithm>
#include <cstring>
#include <utility>

#include "client_cuda/arrival_decoder.h"
#include "client_cuda/capture_safe.h"
#include "client_cuda/kvstow/cuda.h"
#include "client_cuda/leaving_encoder.h"
#include "client_cuda/lent_memory.h"
#include "client_cuda/page_copy.h"
#include "client_cuda/page_table.h"
#include "client_cuda/stream_marks.h"
#include "gpu/cuda_status.h"

namespace kvstow {
namespace {

class Pages final : public PagedDeviceKv {
 public:
  explicit Pages(const DeviceKvOptions& options)
      : options_(options), marks_(options.stream), lent_(options.device, options.stream) {}

  int device() const { return options_.device; }

  absl::Status Allocate() {
    const CaptureSafe here(options_.device);
    KVSTOW_RETURN_IF_ERROR(here.status());
    KVSTOW_RETURN_IF_ERROR(MakeDecoder());
    return MakeEncoder();
  }

  absl::Status SetPages(DevicePages pages) override {
    const CaptureSafe here(options_.device);
    KVSTOW_RETURN_IF_ERROR(here.status());
    // The table of the call before is in use until then.
    KVSTOW_RETURN_IF_ERROR(lent_.AwaitAll());
    if (decoder_ != nullptr) KVSTOW_RETURN_IF_ERROR(decoder_->AwaitAll());
    return table_.Set(std::move(pages));
  }

  absl::Status BeginGet() override {
    if (decoder_ == nullptr) return absl::OkStatus();
    const CaptureSafe here(options_.device);
    KVSTOW_RETURN_IF_ERROR(here.status());
    return decoder_->Begin();
  }

  bool decodes() const override { return decoder_ != nullptr; }

  absl::Status Scatter(std::span<const ArrivedPlane> planes) override {
    const CaptureSafe here(options_.device);
    KVSTOW_RETURN_IF_ERROR(here.status());
    while (!planes.empty()) {
      const auto some = planes.first(std::min(planes.size(), ArrivalDecoder::kMaxPlanes));
      KVSTOW_RETURN_IF_ERROR(decoder_ != nullptr ? decoder_->Decode(some, table_, marks_.last() + 1)
                                                 : Copy(some));
      planes = planes.subspan(some.size());
    }
    return absl::OkStatus();
  }

  absl::Status ScatterFromHost(const PlaneSpec& plane, size_t block,
                               std::span<const std::byte> bytes) override {
    const CaptureSafe here(options_.device);
    KVSTOW_RETURN_IF_ERROR(here.status());
    auto one = BorrowForOne(plane, block);
    if (!one.ok()) return one.status();
    auto& [lent, paged] = *one;
    std::memcpy(lent->host.data(), bytes.data(), bytes.size());
    KVSTOW_CUDA_RETURN_IF_ERROR(cudaMemcpyAsync(lent->device.data(), lent->host.data(),
                                                bytes.size(), cudaMemcpyHostToDevice,
                                                options_.stream));
    KVSTOW_CUDA_RETURN_IF_ERROR(LaunchPageCopy(PageCopy::kScatter, paged, options_.stream));
    return lent_.Return(lent);
  }

  absl::Status Gather(std::span<const LeavingPlane> planes) override {
    const CaptureSafe here(options_.device);
    KVSTOW_RETURN_IF_ERROR(here.status());
    auto lent = lent_.Borrow(planes.size() * kDescriptionBytes);
    if (!lent.ok()) return lent.status();
    const auto descriptions = Descriptions(*lent, planes.size());
    for (size_t i = 0; i < planes.size(); ++i) {
      auto paged = table_.Describe(*planes[i].plane, planes[i].block, planes[i].to);
      if (!paged.ok()) return paged.status();
      descriptions[i] = *paged;
    }
    return Launch(PageCopy::kGather, *lent, descriptions);
  }

  absl::Status GatherToHost(const PlaneSpec& plane, size_t block,
                            std::span<std::byte> to) override {
    KVSTOW_RETURN_IF_ERROR(EnqueueToHost(plane, block));
    const CaptureSafe here(options_.device);
    KVSTOW_RETURN_IF_ERROR(here.status());
    KVSTOW_CUDA_RETURN_IF_ERROR(cudaEventSynchronize(to_host_->passed.get()));
    return TakeToHost(to);
  }

  absl::Status EnqueueToHost(const PlaneSpec& plane, size_t block) override {
    const CaptureSafe here(options_.device);
    KVSTOW_RETURN_IF_ERROR(here.status());
    to_host_ = nullptr;
    auto one = BorrowForOne(plane, block);
    if (!one.ok()) return one.status();
    auto& [lent, paged] = *one;
    KVSTOW_CUDA_RETURN_IF_ERROR(LaunchPageCopy(PageCopy::kGather, paged, options_.stream));
    KVSTOW_CUDA_RETURN_IF_ERROR(cudaMemcpyAsync(lent->host.data(), lent->device.data(),
                                                plane.raw_bytes, cudaMemcpyDeviceToHost,
                                                options_.stream));
    to_host_ = lent;
    return lent_.Return(lent);
  }

  absl::Status TakeToHost(std::span<std::byte> to) override {
    if (to_host_ == nullptr) return absl::FailedPreconditionError("no plane was enqueued");
    std::memcpy(to.data(), std::exchange(to_host_, nullptr)->host.data(), to.size());
    return absl::OkStatus();
  }

  size_t encodes_at_a_time() const override {
    return encoder_ == nullptr ? 0 : encoder_->at_a_time();
  }

  absl::StatusOr<size_t> Encode(std::span<const PlaneToEncode> planes) override {
    const CaptureSafe here(options_.device);
    KVSTOW_RETURN_IF_ERROR(here.status());
    return encoder_->Encode(planes);
  }

  absl::StatusOr<std::vector<PlaneEncodedOnDevice>> TakeEncoded() override {
    const CaptureSafe here(options_.device);
    KVSTOW_RETURN_IF_ERROR(here.status());
    return encoder_->TakeEncoded();
  }

  absl::StatusOr<uint64_t> Mark() override {
    const CaptureSafe here(options_.device);
    KVSTOW_RETURN_IF_ERROR(here.status());
    return marks_.Mark();
  }

  absl::StatusOr<bool> Passed(uint64_t mark) override {
    const CaptureSafe here(options_.device);
    KVSTOW_RETURN_IF_ERROR(here.status());
    auto passed = marks_.Passed(mark);
    if (decoder_ != nullptr) decoder_->Collect(marks_.passed());
    return passed;
  }

  std::vector<DamagedArrival> TakeDamage() override {
    return decoder_ == nullptr ? std::vector<DamagedArrival>() : decoder_->TakeDamage();
  }

 private:
  using Lent = LentMemory::Buffers;

  absl::Status MakeDecoder() {
    if (options_.decode == nullptr) return absl::OkStatus();
    auto decoder = gpu::PlaneDecoder::Create(options_.device, *options_.decode, options_.max_blocks,
                                             options_.stream);
    if (!decoder.ok()) return decoder.status();
    decoder_ = std::make_unique<ArrivalDecoder>(*std::move(decoder), options_.stream);
    return absl::OkStatus();
  }

  absl::Status MakeEncoder() {
    if (options_.encode == nullptr) return absl::OkStatus();
    // To the encoder null would be a stream of its own.
    const cudaStream_t stream = options_.stream == nullptr ? cudaStreamLegacy : options_.stream;
    auto encoder = LeavingEncoder::Create(*options_.encode,
                                          {.device = options_.device,
                                           .stream = stream,
                                           .max_bytes = options_.encode_bytes,
                                           .max_blocks = options_.max_blocks},
                                          &table_, &lent_);
    if (!encoder.ok()) return encoder.status();
    encoder_ = *std::move(encoder);
    return absl::OkStatus();
  }

  absl::Status Copy(std::span<const ArrivedPlane> planes) {
    auto lent = lent_.Borrow(planes.size() * kDescriptionBytes);
    if (!lent.ok()) return lent.status();
    const auto descriptions = Descriptions(*lent, planes.size());
    for (size_t i = 0; i < planes.size(); ++i) {
      auto paged = table_.Describe(*planes[i].plane, planes[i].block, planes[i].bytes);
      if (!paged.ok()) return paged.status();
      descriptions[i] = *paged;
    }
    return Launch(PageCopy::kScatter, *lent, descriptions);
  }

  // Room for one plane on both sides, and the plane as it is to lie in the device's.
  absl::StatusOr<std::pair<Lent*, PagedPlane>> BorrowForOne(const PlaneSpec& plane, size_t block) {
    auto lent = lent_.Borrow(plane.raw_bytes, plane.raw_bytes);
    if (!lent.ok()) return lent.status();
    auto paged = table_.Describe(plane, block, (*lent)->device.data());
    if (!paged.ok()) return paged.status();
    return std::pair(*lent, *paged);
  }

  absl::Status Launch(PageCopy direction, Lent* lent, std::span<const PagedPlane> planes) {
    KVSTOW_CUDA_RETURN_IF_ERROR(LaunchPageCopies(
        direction, planes.data(), static_cast<uint32_t>(planes.size()), options_.stream));
    return lent_.Return(lent);
  }

  const DeviceKvOptions options_;
  PageTable table_;
  std::unique_ptr<ArrivalDecoder> decoder_;  // null: planes arrive decoded
  std::unique_ptr<LeavingEncoder> encoder_;  // null: planes leave decoded
  Lent* to_host_ = nullptr;                  // enqueued and not taken
  StreamMarks marks_;
  LentMemory lent_;  // last: its end waits for what uses the others
};

}  // namespace

absl::StatusOr<std::shared_ptr<PagedDeviceKv>> PagedDeviceKv::Create(
    const DeviceKvOptions& options) {
  // What it consists of waits and frees in its destructors.
  const auto end = [](Pages* pages) {
    const CaptureSafe here(pages->device());
    delete pages;
  };
  const std::shared_ptr<Pages> kv(new Pages(options), end);
  KVSTOW_RETURN_IF_ERROR(kv->Allocate());
  return kv;
}

}  // namespace kvstow
