#include "gpu/plane_decoder.h"

#include <algorithm>
#include <ranges>
#include <utility>

#include "absl/strings/str_cat.h"
#include "gpu/cuda_status.h"

namespace kvstow::gpu {
namespace {

constexpr size_t kSlots = 4;
constexpr size_t kMetaBytes = sizeof(ChecksumRange) + sizeof(StoredPlane);  // of a plane

}  // namespace

absl::StatusOr<std::unique_ptr<PlaneDecoder>> PlaneDecoder::Create(int device,
                                                                   const PlaneLayout& layout,
                                                                   size_t max_blocks,
                                                                   cudaStream_t stream) {
  std::unique_ptr<PlaneDecoder> decoder(new PlaneDecoder(device, layout, max_blocks, stream));
  KVSTOW_RETURN_IF_ERROR(decoder->Allocate());
  return decoder;
}

PlaneDecoder::~PlaneDecoder() {
  (void)cudaSetDevice(device_);
  (void)AwaitAll();
}

absl::Status PlaneDecoder::AwaitAll() {
  for (const Slot& slot : slots_) {
    KVSTOW_CUDA_RETURN_IF_ERROR(cudaEventSynchronize(slot.passed.get()));
  }
  return absl::OkStatus();
}

absl::Status PlaneDecoder::Allocate() {
  KVSTOW_CUDA_RETURN_IF_ERROR(cudaSetDevice(device_));
  size_t scratch = 1;
  for (const PlaneSpec& plane : layout_.planes()) {
    shapes_.push_back(PlaneShapeOf(plane));
    if (plane.is_opaque()) continue;
    scratch = std::max(scratch, DecodePlanesScratchBytes(shapes_.back(), kMaxPlanes));
  }
  for (Lane& lane : lanes_) {
    KVSTOW_RETURN_IF_ERROR(lane.scratch.Reserve(scratch));
    auto stream = MakeStream();
    if (!stream.ok()) return stream.status();
    lane.stream = *std::move(stream);
    auto reached = MakeEvent();
    if (!reached.ok()) return reached.status();
    lane.reached = *std::move(reached);
  }
  auto begun = MakeEvent();
  if (!begun.ok()) return begun.status();
  begun_ = *std::move(begun);
  auto rotary = RotaryCache::Create(layout_, max_blocks_, lanes_[0].stream.get());
  if (!rotary.ok()) return rotary.status();
  rotary_ = std::make_unique<RotaryCache>(*std::move(rotary));
  slots_ = std::vector<Slot>(kSlots);
  for (Slot& slot : slots_) {
    KVSTOW_RETURN_IF_ERROR(slot.meta.Reserve(kMaxPlanes * kMetaBytes));
    KVSTOW_RETURN_IF_ERROR(slot.damage.Reserve(kMaxPlanes * sizeof(uint32_t)));
    auto passed = MakeEvent();
    if (!passed.ok()) return passed.status();
    slot.passed = *std::move(passed);
  }
  return absl::OkStatus();
}

absl::StatusOr<PlaneDecoder::Slot*> PlaneDecoder::NextSlot() {
  Slot* const slot = &slots_[next_];
  next_ = (next_ + 1) % slots_.size();
  KVSTOW_CUDA_RETURN_IF_ERROR(cudaEventSynchronize(slot->passed.get()));
  return slot;
}

absl::StatusOr<const uint32_t*> PlaneDecoder::Decode(std::span<const Plane> planes) {
  if (planes.size() > kMaxPlanes) {
    return absl::InvalidArgumentError(
        absl::StrCat(planes.size(), " planes at a time; the limit is ", kMaxPlanes));
  }
  KVSTOW_CUDA_RETURN_IF_ERROR(cudaSetDevice(device_));
  auto slot = NextSlot();
  if (!slot.ok()) return slot.status();
  KVSTOW_RETURN_IF_ERROR(FillRotary(planes));
  const absl::Status decoded = DecodeRuns(planes, *slot);
  for (const Lane& lane : lanes_) KVSTOW_RETURN_IF_ERROR(Order(lane, stream_));
  KVSTOW_CUDA_RETURN_IF_ERROR(cudaEventRecord((*slot)->passed.get(), stream_));
  if (!decoded.ok()) return decoded;
  return reinterpret_cast<const uint32_t*>((*slot)->damage.data());
}

absl::Status PlaneDecoder::Begin() {
  KVSTOW_CUDA_RETURN_IF_ERROR(cudaSetDevice(device_));
  KVSTOW_CUDA_RETURN_IF_ERROR(cudaEventRecord(begun_.get(), stream_));
  for (const Lane& lane : lanes_) {
    KVSTOW_CUDA_RETURN_IF_ERROR(cudaStreamWaitEvent(lane.stream.get(), begun_.get()));
  }
  return absl::OkStatus();
}

absl::Status PlaneDecoder::Order(const Lane& earlier, cudaStream_t later) {
  KVSTOW_CUDA_RETURN_IF_ERROR(cudaEventRecord(earlier.reached.get(), earlier.stream.get()));
  KVSTOW_CUDA_RETURN_IF_ERROR(cudaStreamWaitEvent(later, earlier.reached.get()));
  return absl::OkStatus();
}

absl::Status PlaneDecoder::DecodeRuns(std::span<const Plane> planes, Slot* slot) {
  for (size_t first = 0; first < planes.size();) {
    const PlaneShape& shape = shapes_[planes[first].plane];
    size_t end = first + 1;
    while (end < planes.size() && SameShape(shapes_[planes[end].plane], shape)) ++end;
    KVSTOW_RETURN_IF_ERROR(DecodeRun(planes, first, end, slot));
    first = end;
  }
  return absl::OkStatus();
}

absl::Status PlaneDecoder::FillRotary(std::span<const Plane> planes) {
  const auto positions = std::views::transform(planes, &Plane::first_position);
  if (rotary_->Has(positions)) return absl::OkStatus();
  const auto& [one, other] = lanes_;
  KVSTOW_RETURN_IF_ERROR(Order(other, one.stream.get()));  // it may use the tables
  KVSTOW_RETURN_IF_ERROR(rotary_->Prepare(positions));
  return Order(one, other.stream.get());
}

absl::Status PlaneDecoder::DecodeRun(std::span<const Plane> planes, size_t first, size_t end,
                                     Slot* slot) {
  const Lane& lane = lanes_[lane_];
  lane_ = (lane_ + 1) % std::size(lanes_);
  // Read over the bus by the kernels: they are few bytes, and a copy of its own would come first.
  auto* stored = reinterpret_cast<ChecksumRange*>(slot->meta.data()) + first;
  auto* targets =
      reinterpret_cast<StoredPlane*>(slot->meta.data() + kMaxPlanes * sizeof(ChecksumRange)) +
      first;
  uint64_t largest = 0;
  for (size_t i = first; i < end; ++i) {
    const Plane& plane = planes[i];
    largest = std::max<uint64_t>(largest, plane.encoded_bytes);
    stored[i - first] = {reinterpret_cast<const uint8_t*>(plane.encoded), plane.encoded_bytes};
    StoredPlane& to = targets[i - first];
    to = StoredPlane{};
    to.values = reinterpret_cast<uint8_t*>(plane.values);
    to.head_stride = plane.head_stride;
    to.row_stride = plane.row_stride;
    to.pages = plane.pages;
    const auto [cos, sin] = rotary_->At(plane.plane, plane.first_position);
    to.cos = cos;
    to.sin = sin;
    to.crc32c = plane.crc32c;
  }
  return DecodePlanes(shapes_[planes[first].plane], stored, targets,
                      static_cast<uint32_t>(end - first), largest,
                      reinterpret_cast<uint32_t*>(slot->damage.data()) + first, lane.scratch.data(),
                      lane.scratch.size(), lane.stream.get());
}

}  // namespace kvstow::gpu
