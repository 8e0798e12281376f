#include <algorithm>
#include <cstring>
#include <utility>

#include "client_cuda/arrival_decoder.h"
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

  absl::Status Allocate() {
    KVSTOW_RETURN_IF_ERROR(SetDevice());
    KVSTOW_RETURN_IF_ERROR(lent_.Allocate());
    KVSTOW_RETURN_IF_ERROR(MakeDecoder());
    return MakeEncoder();
  }

  absl::Status SetPages(DevicePages pages) override {
    KVSTOW_RETURN_IF_ERROR(SetDevice());
    // The table of the call before is in use until then.
    KVSTOW_RETURN_IF_ERROR(lent_.AwaitAll());
    if (decoder_ != nullptr) KVSTOW_RETURN_IF_ERROR(decoder_->AwaitAll());
    return table_.Set(std::move(pages));
  }

  absl::Status BeginGet() override {
    return decoder_ == nullptr ? absl::OkStatus() : decoder_->Begin();
  }

  bool decodes() const override { return decoder_ != nullptr; }

  absl::Status Scatter(std::span<const ArrivedPlane> planes) override {
    KVSTOW_RETURN_IF_ERROR(SetDevice());
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
    KVSTOW_RETURN_IF_ERROR(SetDevice());
    auto lent = lent_.Borrow();
    if (!lent.ok()) return lent.status();
    auto descriptions = Descriptions(*lent, planes.size());
    if (!descriptions.ok()) return descriptions.status();
    for (size_t i = 0; i < planes.size(); ++i) {
      auto paged = table_.Describe(*planes[i].plane, planes[i].block, planes[i].to);
      if (!paged.ok()) return paged.status();
      (*descriptions)[i] = *paged;
    }
    return Launch(PageCopy::kGather, *lent, *descriptions);
  }

  absl::Status GatherToHost(const PlaneSpec& plane, size_t block,
                            std::span<std::byte> to) override {
    auto one = BorrowForOne(plane, block);
    if (!one.ok()) return one.status();
    auto& [lent, paged] = *one;
    KVSTOW_CUDA_RETURN_IF_ERROR(LaunchPageCopy(PageCopy::kGather, paged, options_.stream));
    KVSTOW_CUDA_RETURN_IF_ERROR(cudaMemcpyAsync(lent->host.data(), lent->device.data(), to.size(),
                                                cudaMemcpyDeviceToHost, options_.stream));
    KVSTOW_RETURN_IF_ERROR(lent_.Return(lent));
    KVSTOW_CUDA_RETURN_IF_ERROR(cudaEventSynchronize(lent->passed.get()));
    std::memcpy(to.data(), lent->host.data(), to.size());
    return absl::OkStatus();
  }

  size_t encodes_at_a_time() const override {
    return encoder_ == nullptr ? 0 : encoder_->at_a_time();
  }

  absl::StatusOr<size_t> Encode(std::span<const PlaneToEncode> planes) override {
    KVSTOW_RETURN_IF_ERROR(SetDevice());
    return encoder_->Encode(planes);
  }

  absl::StatusOr<std::vector<PlaneEncodedOnDevice>> TakeEncoded() override {
    KVSTOW_RETURN_IF_ERROR(SetDevice());
    return encoder_->TakeEncoded();
  }

  absl::StatusOr<uint64_t> Mark() override {
    KVSTOW_RETURN_IF_ERROR(SetDevice());
    return marks_.Mark();
  }

  absl::StatusOr<bool> Passed(uint64_t mark) override {
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

  absl::Status SetDevice() const {
    KVSTOW_CUDA_RETURN_IF_ERROR(cudaSetDevice(options_.device));
    return absl::OkStatus();
  }

  absl::Status Copy(std::span<const ArrivedPlane> planes) {
    auto lent = lent_.Borrow();
    if (!lent.ok()) return lent.status();
    auto descriptions = Descriptions(*lent, planes.size());
    if (!descriptions.ok()) return descriptions.status();
    for (size_t i = 0; i < planes.size(); ++i) {
      auto paged = table_.Describe(*planes[i].plane, planes[i].block, planes[i].bytes);
      if (!paged.ok()) return paged.status();
      (*descriptions)[i] = *paged;
    }
    return Launch(PageCopy::kScatter, *lent, *descriptions);
  }

  // Room for one plane on both sides, and the plane as it is to lie in the device's.
  absl::StatusOr<std::pair<Lent*, PagedPlane>> BorrowForOne(const PlaneSpec& plane, size_t block) {
    KVSTOW_RETURN_IF_ERROR(SetDevice());
    auto lent = lent_.Borrow();
    if (!lent.ok()) return lent.status();
    KVSTOW_RETURN_IF_ERROR((*lent)->host.Reserve(plane.raw_bytes));
    KVSTOW_RETURN_IF_ERROR((*lent)->device.Reserve(plane.raw_bytes));
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
  StreamMarks marks_;
  LentMemory lent_;  // last: its end waits for what uses the others
};

}  // namespace

absl::StatusOr<std::shared_ptr<PagedDeviceKv>> PagedDeviceKv::Create(
    const DeviceKvOptions& options) {
  auto kv = std::make_shared<Pages>(options);
  KVSTOW_RETURN_IF_ERROR(kv->Allocate());
  return kv;
}

}  // namespace kvstow
