#include "gpu/cuda_plane_reader.h"

#include <algorithm>
#include <functional>
#include <tuple>
#include <utility>

#include "codec/plane.h"
#include "gpu/cuda_status.h"

namespace kvstow::gpu {
namespace {

// Where a whole plane goes, C order.
PlaneTarget TargetOf(const PlaneSpec& plane, std::byte* values) {
  const size_t row = plane.dim * SizeOf(plane.dtype);
  return {values, row * plane.tokens, row};
}

}  // namespace

absl::StatusOr<std::unique_ptr<CudaPlaneReader>> CudaPlaneReader::Create(int device,
                                                                         const PlaneLayout& layout,
                                                                         size_t max_records) {
  RestoreConfig config;
  config.device = device;
  config.max_records = max_records;
  auto pipeline = RestorePipeline::Create(layout, config);
  if (!pipeline.ok()) return pipeline.status();
  auto stream = MakeStream();
  if (!stream.ok()) return stream.status();
  return std::unique_ptr<CudaPlaneReader>(
      new CudaPlaneReader(device, layout, *std::move(pipeline), *std::move(stream)));
}

absl::Status CudaPlaneReader::Read(std::span<const StoredRecord> records, Form form,
                                   std::span<Plane> planes) {
  if (planes.empty()) return absl::OkStatus();
  return form == Form::kDecoded ? Decode(records, planes) : Copy(records, planes);
}

void CudaPlaneReader::List(std::span<Plane> planes) {
  order_.clear();
  for (Plane& plane : planes) {
    const uint64_t layer = layout_.planes()[plane.plane].layer;
    order_.push_back({layer << 32 | plane.record, &plane});
  }
}

void CudaPlaneReader::Sort() {
  std::sort(order_.begin(), order_.end(), [](const Placed& a, const Placed& b) {
    return std::tuple(a.layer_and_record, a.plane->plane) <
           std::tuple(b.layer_and_record, b.plane->plane);
  });
}

absl::Status CudaPlaneReader::Decode(std::span<const StoredRecord> records,
                                     std::span<Plane> planes) {
  List(planes);
  Sort();
  chosen_.clear();
  for (const auto& [_, plane] : order_) {
    chosen_.push_back(
        {plane->record, plane->plane, TargetOf(layout_.planes()[plane->plane], plane->to)});
  }
  RestoreRequest request;
  request.records = records;
  request.chosen = chosen_;
  auto damage = pipeline_->Restore(request);
  if (!damage.ok()) return damage.status();
  for (const DamagedPlane& damaged : *damage) {
    for (Plane& plane : planes) {
      if (plane.record == damaged.block && plane.plane == damaged.plane) plane.damaged = true;
    }
  }
  return absl::OkStatus();
}

absl::Status CudaPlaneReader::Copy(std::span<const StoredRecord> records, std::span<Plane> planes) {
  for (const StoredRecord& record : records) {
    KVSTOW_RETURN_IF_ERROR(CheckRecord(record, layout_));
  }
  KVSTOW_CUDA_RETURN_IF_ERROR(cudaSetDevice(device_));
  copies_.Clear();
  cursors_.assign(records.size(), PieceCursor());
  List(planes);
  // On the device a kernel copies them, in any order.
  const bool all_on_device =
      std::all_of(records.begin(), records.end(), std::mem_fn(&StoredRecord::on_device));
  if (!all_on_device) Sort();
  for (const auto& [_, plane] : order_) {
    const StoredRecord& record = records[plane->record];
    const DirectoryEntry& entry = record.index->planes()[plane->plane];
    std::byte* to = plane->to;
    cursors_[plane->record].ForEach(record, entry.offset, RoundUpToTile(entry.bytes),
                                    [&](const std::byte* from, size_t bytes, bool starts_piece) {
                                      if (record.on_device) {
                                        copies_.AddOnDevice(from, to, bytes);
                                      } else {
                                        copies_.Add(from, to, bytes, starts_piece, record.pinned);
                                      }
                                      to += bytes;
                                    });
  }
  absl::Status status = copies_.Enqueue(stream_.get());
  // Even after a failure: nothing may be under way when the caller goes on.
  const absl::Status ended = [&]() -> absl::Status {
    KVSTOW_CUDA_RETURN_IF_ERROR(cudaStreamSynchronize(stream_.get()));
    return absl::OkStatus();
  }();
  status.Update(ended);
  return status;
}

}  // namespace kvstow::gpu
