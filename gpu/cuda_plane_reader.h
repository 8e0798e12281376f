// gpu::PlaneReader over the restore pipeline, and over plain copies for planes that stay encoded.
#pragma once

#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "gpu/api/device.h"
#include "gpu/cuda_handles.h"
#include "gpu/piece_copies.h"
#include "gpu/restore_pipeline.h"

namespace kvstow::gpu {

class CudaPlaneReader final : public PlaneReader {
 public:
  // As Device::NewPlaneReader.
  static absl::StatusOr<std::unique_ptr<CudaPlaneReader>> Create(int device,
                                                                 const PlaneLayout& layout,
                                                                 size_t max_records);
  absl::Status Read(std::span<const StoredRecord> records, Form form,
                    std::span<Plane> planes) override;

 private:
  CudaPlaneReader(int device, const PlaneLayout& layout, std::unique_ptr<RestorePipeline> pipeline,
                  Stream stream)
      : device_(device),
        layout_(layout),
        pipeline_(std::move(pipeline)),
        stream_(std::move(stream)) {}
  absl::Status Decode(std::span<const StoredRecord> records, std::span<Plane> planes);
  absl::Status Copy(std::span<const StoredRecord> records, std::span<Plane> planes);
  // Into order_, as they come.
  void List(std::span<Plane> planes);
  // Layer by layer, and within a layer record by record: its K and V lie side by side there, and so
  // are one copy. The copy engine takes as long for 40 KB as for 80.
  void Sort();

  const int device_;
  const PlaneLayout& layout_;
  const std::unique_ptr<RestorePipeline> pipeline_;
  const Stream stream_;  // of copies
  PieceCopies copies_;
  std::vector<PieceCursor> cursors_;
  struct Placed {
    uint64_t layer_and_record = 0;
    Plane* plane = nullptr;
  };
  std::vector<Placed> order_;
  std::vector<ChosenPlane> chosen_;
};

}  // namespace kvstow::gpu
