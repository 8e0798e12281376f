#include "client_cuda/arrival_decoder.h"

#include <utility>

#include "gpu/cuda_status.h"

namespace kvstow {

using gpu::PlaneDecoder;

absl::Status ArrivalDecoder::Begin() {
  damage_.clear();
  for (Flying& stale : flying_) stale.names.clear();  // the flags are still being written
  return decoder_->Begin();
}

absl::Status ArrivalDecoder::Decode(std::span<const ArrivedPlane> planes, const PageTable& table,
                                    uint64_t mark) {
  Flying told;
  told.mark = mark;
  to_decode_.clear();
  for (const ArrivedPlane& plane : planes) {
    auto paged = table.Describe(*plane.plane, plane.block, plane.bytes);
    if (!paged.ok()) return paged.status();
    PlaneDecoder::Plane& out = to_decode_.emplace_back();
    out.plane = plane.index;
    out.first_position = plane.first_position;
    out.encoded = plane.bytes;
    out.encoded_bytes = plane.encoded_bytes;
    out.crc32c = plane.crc32c;
    out.values = reinterpret_cast<std::byte*>(paged->base);
    out.head_stride = paged->head_stride;
    out.row_stride = paged->token_stride;
    out.pages = {paged->pages, paged->page_stride, paged->page_tokens};
    told.names.push_back({plane.plane, plane.block});
  }
  auto flags = decoder_->Decode(to_decode_);
  if (!flags.ok()) return flags.status();
  if (!idle_flags_.empty()) {
    told.flags = std::move(idle_flags_.back());
    idle_flags_.pop_back();
  }
  KVSTOW_RETURN_IF_ERROR(told.flags.Reserve(kMaxPlanes * sizeof(uint32_t)));
  KVSTOW_CUDA_RETURN_IF_ERROR(cudaMemcpyAsync(told.flags.data(), *flags,
                                              planes.size() * sizeof(uint32_t),
                                              cudaMemcpyDeviceToHost, stream_));
  flying_.push_back(std::move(told));
  return absl::OkStatus();
}

void ArrivalDecoder::Collect(uint64_t mark) {
  while (!flying_.empty() && flying_.front().mark <= mark) {
    Flying& landed = flying_.front();
    const auto* flags = reinterpret_cast<const uint32_t*>(landed.flags.data());
    for (size_t i = 0; i < landed.names.size(); ++i) {
      if (flags[i] != 0) damage_.push_back(landed.names[i]);
    }
    idle_flags_.push_back(std::move(landed.flags));
    flying_.pop_front();
  }
}

}  // namespace kvstow
