// 32k tokens of the shape of Llama-3.1-8B in device memory, real KV tiles of testdata/kv-traces
// replicated, with room to encode them into and to restore them to. For benchmarks: ends the
// program on any error.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <random>
#include <vector>

#include "codec/record.h"
#include "gpu/plane_encoder.h"
#include "gpu/restore_pipeline.h"
#include "gpu/staging.h"
#include "space/plane_layout.h"

namespace kvstow::gpu::testing {

void OrDie(const absl::Status& status);
void OrDie(cudaError_t error);

template <typename T>
T OrDie(absl::StatusOr<T> value) {
  OrDie(value.status());
  return *std::move(value);
}

// Middle of the values.
double Median(std::vector<double> values);

class LlamaBlocks {
 public:
  static constexpr size_t kBlocks = 256;

  LlamaBlocks();

  const PlaneLayout& layout() const { return *layout_; }
  size_t raw_bytes() const { return kBlocks * layout_->raw_bytes(); }
  size_t encoded_bytes() const { return encoded_bytes_; }
  // Source and target of 4 GiB each, and pinned memory of 1 GiB that holds the records.
  const DeviceBuffer& values() const { return values_; }
  const DeviceBuffer& restored() const { return restored_; }
  const PinnedBuffer& pinned() const { return pinned_; }

  std::unique_ptr<PlaneEncoder> MakeEncoder(const PlaneEncoderConfig& config) const;
  std::unique_ptr<RestorePipeline> MakeRestore(const RestoreConfig& config) const;

  // All planes, encoded, to pinned memory, a batch of each encoder's at a time on a thread of its
  // own; returns seconds.
  double Offload(std::span<const std::unique_ptr<PlaneEncoder>> encoders);
  // Makes records of the same, in pinned memory and on the device.
  void KeepRecords(PlaneEncoder& encoder);

  struct RestoreTimes {
    double first_layer = 0, all = 0;  // seconds
  };
  // Pinned records: as one piece each, and in runs of 1 to 32 pages.
  enum class Place { kPinned, kPinnedRuns, kDevice };
  RestoreTimes Restore(RestorePipeline& pipeline, Place place);

  // Overwrites what was restored.
  void Poison();
  // Compares planes drawn at random with what the CPU decodes; returns how many.
  size_t Verify(uint64_t seed) const;

 private:
  void FillValues();
  struct Batch {
    std::vector<PlaneEncoder::Plane> planes;
    std::vector<size_t> blocks;  // of each
  };
  std::vector<Batch> Batches(const PlaneEncoder& encoder) const;
  void AddRecords(Place place, std::mt19937_64* runs);
  std::byte* Plane(const DeviceBuffer& buffer, size_t block, size_t plane) const;

  std::unique_ptr<PlaneLayout> layout_;
  Fingerprint fingerprint_{};
  DeviceBuffer values_, restored_, device_records_;
  PinnedBuffer pinned_;
  std::vector<uint64_t> positions_;
  std::vector<std::span<std::byte>> records_;  // in pinned_
  std::vector<RecordIndex> indices_;
  std::vector<std::vector<RecordPiece>> pieces_;
  std::vector<StoredRecord> stored_[3];  // by place
  size_t encoded_bytes_ = 0;
};

}  // namespace kvstow::gpu::testing
