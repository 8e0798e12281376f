// The CUDA twin behind the Codec interface, for tiles in host memory: jobs are staged through
// pinned memory in batches of one shape and handed to the device API (gpu/tile_batch.h), which
// callers with tiles on the device use directly.
//
// Thread-safe: calls take turns, and buffers are kept from one to the next: they are overwritten
// between calls for different owners. Tiles that are only kept raw need no device and are left to
// the CPU.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>

#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "codec/codec.h"
#include "gpu/staging.h"

namespace kvstow::gpu {

class CudaCodec final : public Codec {
  friend class CudaCodecPeer;  // of the tests: looks at what is kept

 public:
  // UNAVAILABLE where there is no such device, no driver, or no kernels for its architecture.
  static absl::StatusOr<std::unique_ptr<CudaCodec>> Create(int device = 0);
  ~CudaCodec() override;

  absl::string_view device() const override { return "cuda"; }
  absl::string_view description() const override { return description_; }

  // As Codec; also RESOURCE_EXHAUSTED when device or pinned memory runs out, INTERNAL when the
  // device failed. Outputs are unspecified then.
  absl::Status Encode(std::span<TileEncodeJob> jobs) override;
  absl::Status Decode(std::span<const TileDecodeJob> jobs) override;

 private:
  CudaCodec(int device, std::string description, cudaStream_t stream);

  // Returns when nothing of a failed call is under way.
  absl::Status Settle(const absl::Status& status) const;
  // Overwrites what earlier calls left, unless all of that and all of this call is one owner's.
  template <typename Job>
  absl::Status PrepareFor(std::span<Job> jobs) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  absl::Status EncodeGroup(std::span<TileEncodeJob*> jobs) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  absl::Status DecodeGroup(std::span<const TileDecodeJob*> jobs) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  const int device_;
  const std::string description_;
  const cudaStream_t stream_;

  absl::Mutex mu_;
  PinnedBuffer up_ ABSL_GUARDED_BY(mu_), down_ ABSL_GUARDED_BY(mu_);
  DeviceBuffer in_ ABSL_GUARDED_BY(mu_), out_ ABSL_GUARDED_BY(mu_), scratch_ ABSL_GUARDED_BY(mu_);
  // Of the last call; none when there were several.
  std::optional<uint32_t> owner_ ABSL_GUARDED_BY(mu_) = 0;
};

}  // namespace kvstow::gpu
