// Rotary tables of blocks in device memory, made there: 64 KiB a block of 128 tokens and 64 pairs
// are too many to make on the host and send along.
//
// Not thread-safe.
#pragma once

#include <cuda_runtime_api.h>

#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "gpu/staging.h"
#include "space/plane_layout.h"

namespace kvstow::gpu {

class DeviceRotary {
 public:
  // Room for `max_blocks` blocks of every embedding that the layout's planes undo; none for layouts
  // without.
  static absl::StatusOr<DeviceRotary> Create(const PlaneLayout& layout, size_t max_blocks);

  // Makes the tables of the blocks at these positions (device memory), at most max_blocks.
  absl::Status Fill(const uint64_t* first_positions, size_t blocks, cudaStream_t stream);

  // Whether the rotary embedding of the layout's plane `plane` is undone.
  bool Undoes(size_t plane) const { return of_plane_[plane] != kNone; }
  // Of that plane, for the block-th position given to Fill; null where it is not undone.
  const float* Cos(size_t plane, size_t block) const;
  const float* Sin(size_t plane, size_t block) const;

 private:
  struct Embedding {
    uint32_t tokens = 0, pairs = 0;
    DeviceBuffer constants;  // cosines, sines [tokens, pairs] in double, frequencies
    DeviceBuffer tables;     // [max_blocks, 2, tokens, pairs]
  };
  static constexpr size_t kNone = ~size_t{0};

  absl::Status Add(const RotaryEmbedding& rotary, uint32_t tokens, size_t max_blocks);

  std::vector<std::unique_ptr<Embedding>> embeddings_;
  std::vector<size_t> of_plane_;
};

}  // namespace kvstow::gpu
