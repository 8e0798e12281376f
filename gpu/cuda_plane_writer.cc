#include "gpu/cuda_plane_writer.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "gpu/cuda_status.h"

namespace kvstow::gpu {

absl::StatusOr<std::unique_ptr<CudaPlaneWriter>> CudaPlaneWriter::Create(int device,
                                                                         const PlaneLayout& layout,
                                                                         size_t max_bytes,
                                                                         size_t max_blocks) {
  std::unique_ptr<CudaPlaneWriter> writer(new CudaPlaneWriter(device, layout));
  KVSTOW_RETURN_IF_ERROR(writer->Allocate(max_bytes, max_blocks));
  return writer;
}

CudaPlaneWriter::~CudaPlaneWriter() {
  (void)cudaSetDevice(device_);
  (void)cudaStreamSynchronize(stream_.get());
}

absl::Status CudaPlaneWriter::Allocate(size_t max_bytes, size_t max_blocks) {
  KVSTOW_CUDA_RETURN_IF_ERROR(cudaSetDevice(device_));
  auto stream = MakeStream();
  if (!stream.ok()) return stream.status();
  stream_ = *std::move(stream);
  auto copied = MakeEvent();
  if (!copied.ok()) return copied.status();
  copied_ = *std::move(copied);
  PlaneEncoderConfig config;
  config.device = device_;
  config.stream = stream_.get();
  config.max_bytes = max_bytes;
  config.max_blocks = max_blocks;
  auto encoder = PlaneEncoder::Create(layout_, config);
  if (!encoder.ok()) return encoder.status();
  encoder_ = *std::move(encoder);
  // No plane counts for less than it takes here.
  return values_.Reserve(encoder_->max_load());
}

absl::Status CudaPlaneWriter::Begin(std::span<const Plane> planes) {
  KVSTOW_CUDA_RETURN_IF_ERROR(cudaSetDevice(device_));
  absl::Status started = Start(planes);
  // Even after a failure: nothing may be read any more when the caller goes on.
  const cudaError_t waited =
      started.ok() ? cudaEventSynchronize(copied_.get()) : cudaStreamSynchronize(stream_.get());
  if (!started.ok()) return started;
  KVSTOW_CUDA_RETURN_IF_ERROR(waited);
  return absl::OkStatus();
}

absl::Status CudaPlaneWriter::End(std::span<Plane> planes) {
  const auto encoded = encoder_->Collect();
  if (!encoded.ok()) return encoded.status();
  for (size_t i = 0; i < planes.size(); ++i) {
    planes[i].summary = (*encoded)[i].summary;
    planes[i].encoded = (*encoded)[i].bytes.data();
  }
  return absl::OkStatus();
}

absl::Status CudaPlaneWriter::Start(std::span<const Plane> planes) {
  size_t load = 0;
  for (const Plane& plane : planes) load += LoadOf(plane.plane);
  if (load > max_load()) {
    return absl::InvalidArgumentError(absl::StrCat(
        "planes that count for ", load, " bytes in one call; the limit is ", max_load()));
  }
  KVSTOW_RETURN_IF_ERROR(CopyOut(planes));
  KVSTOW_CUDA_RETURN_IF_ERROR(cudaEventRecord(copied_.get(), stream_.get()));
  return encoder_->Encode(to_encode_);
}

absl::Status CudaPlaneWriter::CopyOut(std::span<const Plane> planes) {
  to_encode_.clear();
  // As in a slot, so that neighbours there are neighbours here and one copy.
  std::byte* to = values_.data();
  // What is enqueued when there is a gap: [from, from + bytes) to run_to.
  const std::byte* from = nullptr;
  std::byte* run_to = to;
  size_t bytes = 0;
  const auto copy = [&]() -> absl::Status {
    if (bytes == 0) return absl::OkStatus();
    KVSTOW_CUDA_RETURN_IF_ERROR(
        cudaMemcpyAsync(run_to, from, bytes, cudaMemcpyDeviceToDevice, stream_.get()));
    return absl::OkStatus();
  };
  for (const Plane& plane : planes) {
    const PlaneSpec& spec = layout_.planes()[plane.plane];
    const size_t gap = static_cast<size_t>(to - run_to);
    if (bytes == 0 || plane.values != from + gap) {
      KVSTOW_RETURN_IF_ERROR(copy());
      from = plane.values;
      run_to = to;
    }
    bytes = static_cast<size_t>(to - run_to) + spec.raw_bytes;
    const size_t row = spec.dim * SizeOf(spec.dtype);
    to_encode_.push_back({plane.plane, plane.first_position, to, row * spec.tokens, row});
    to += SideBySide(spec.raw_bytes);
  }
  return copy();
}

}  // namespace kvstow::gpu
