#include "gpu/device_rotary.h"

#include <cmath>
#include <utility>

#include "gpu/plane_kernels.h"

namespace kvstow::gpu {

absl::StatusOr<DeviceRotary> DeviceRotary::Create(const PlaneLayout& layout, size_t max_blocks) {
  DeviceRotary out;
  std::vector<const RotaryEmbedding*> seen;
  for (const PlaneSpec& plane : layout.planes()) {
    out.of_plane_.push_back(kNone);
    if (plane.rotary == nullptr) continue;
    size_t i = 0;
    while (i < seen.size() && !(*seen[i] == *plane.rotary)) ++i;
    out.of_plane_.back() = i;
    if (i < seen.size()) continue;
    seen.push_back(plane.rotary);
    KVSTOW_RETURN_IF_ERROR(out.Add(*plane.rotary, plane.tokens, max_blocks));
  }
  return out;
}

absl::Status DeviceRotary::Add(const RotaryEmbedding& rotary, uint32_t tokens, size_t max_blocks) {
  auto embedding = std::make_unique<Embedding>();
  const size_t pairs = rotary.inverse_frequencies.size();
  const size_t entries = tokens * pairs;
  embedding->tokens = tokens;
  embedding->pairs = static_cast<uint32_t>(pairs);
  std::vector<double> offsets(2 * entries);
  for (size_t at = 0; at < entries; ++at) {
    const double angle = static_cast<double>(at / pairs) * rotary.inverse_frequencies[at % pairs];
    offsets[at] = std::cos(angle);
    offsets[entries + at] = std::sin(angle);
  }
  const size_t offset_bytes = offsets.size() * sizeof(double);
  const size_t frequency_bytes = pairs * sizeof(float);
  KVSTOW_RETURN_IF_ERROR(embedding->constants.Reserve(offset_bytes + frequency_bytes));
  KVSTOW_RETURN_IF_ERROR(embedding->tables.Reserve(max_blocks * 2 * entries * sizeof(float)));
  KVSTOW_CUDA_RETURN_IF_ERROR(cudaMemcpy(embedding->constants.data(), offsets.data(), offset_bytes,
                                         cudaMemcpyHostToDevice));
  KVSTOW_CUDA_RETURN_IF_ERROR(cudaMemcpy(embedding->constants.data() + offset_bytes,
                                         rotary.inverse_frequencies.data(), frequency_bytes,
                                         cudaMemcpyHostToDevice));
  embeddings_.push_back(std::move(embedding));
  return absl::OkStatus();
}

absl::Status DeviceRotary::Fill(const uint64_t* first_positions, size_t blocks,
                                cudaStream_t stream) {
  for (const auto& e : embeddings_) {
    const size_t entries = size_t{e->tokens} * e->pairs;
    const auto* offsets = reinterpret_cast<const double*>(e->constants.data());
    KVSTOW_CUDA_RETURN_IF_ERROR(LaunchRotaryTables(
        first_positions, static_cast<uint32_t>(blocks),
        reinterpret_cast<const float*>(offsets + 2 * entries), offsets, offsets + entries,
        e->tokens, e->pairs, reinterpret_cast<float*>(e->tables.data()), stream));
  }
  return absl::OkStatus();
}

const float* DeviceRotary::Cos(size_t plane, size_t block) const {
  if (of_plane_[plane] == kNone) return nullptr;
  const Embedding& e = *embeddings_[of_plane_[plane]];
  return reinterpret_cast<const float*>(e.tables.data()) + block * 2 * e.tokens * e.pairs;
}

const float* DeviceRotary::Sin(size_t plane, size_t block) const {
  if (of_plane_[plane] == kNone) return nullptr;
  const Embedding& e = *embeddings_[of_plane_[plane]];
  return Cos(plane, block) + size_t{e.tokens} * e.pairs;
}

}  // namespace kvstow::gpu
