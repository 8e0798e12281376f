#include "client_cuda/leaving_encoder.h"

#include <unordered_set>

#include "client_cuda/page_copy.h"
#include "gpu/cuda_status.h"

namespace kvstow {
namespace {

bool IsKeptAsItIs(const PlaneSpec& plane, const SpaceSpec& space) {
  return plane.is_opaque() || space.codec.codec == CodecId::kRaw;
}

}  // namespace

absl::StatusOr<std::unique_ptr<LeavingEncoder>> LeavingEncoder::Create(
    const PlaneLayout& layout, const gpu::PlaneEncoderConfig& config, const PageTable* pages,
    LentMemory* lent) {
  std::unique_ptr<LeavingEncoder> out(new LeavingEncoder(layout, config, pages, lent));
  KVSTOW_RETURN_IF_ERROR(out->Allocate());
  return out;
}

absl::Status LeavingEncoder::Allocate() {
  auto encoder = gpu::PlaneEncoder::Create(layout_, config_);
  if (!encoder.ok()) return encoder.status();
  encoder_ = *std::move(encoder);
  // What fits by its load fits here.
  return gathered_.Reserve(encoder_->max_load());
}

size_t LeavingEncoder::Fitting(std::span<const PlaneToEncode> planes) const {
  std::unordered_set<uint64_t> positions;
  size_t load = 0, count = 0;
  for (const PlaneToEncode& plane : planes) {
    load += encoder_->LoadOf(plane.index);
    positions.insert(plane.first_position);
    if (load > encoder_->max_load() || positions.size() > config_.max_blocks) break;
    ++count;
  }
  return count;
}

absl::Status LeavingEncoder::Gather(std::span<const PlaneToEncode> planes) {
  auto lent = lent_.Borrow(planes.size() * kDescriptionBytes);
  if (!lent.ok()) return lent.status();
  const auto descriptions = Descriptions(*lent, planes.size());
  batch_.clear();
  std::byte* values = gathered_.data();
  for (size_t i = 0; i < planes.size(); ++i) {
    const PlaneSpec& spec = *planes[i].plane;
    auto paged = pages_.Describe(spec, planes[i].block, values);
    if (!paged.ok()) return paged.status();
    descriptions[i] = *paged;
    const size_t row = spec.dim * SizeOf(spec.dtype);
    batch_.push_back({planes[i].index, planes[i].first_position, values, row * spec.tokens, row});
    values += gpu::SideBySide(spec.raw_bytes);
  }
  KVSTOW_CUDA_RETURN_IF_ERROR(LaunchPageCopies(PageCopy::kGather, descriptions.data(),
                                               static_cast<uint32_t>(planes.size()),
                                               config_.stream));
  return lent_.Return(*lent);
}

absl::StatusOr<size_t> LeavingEncoder::Encode(std::span<const PlaneToEncode> planes) {
  const auto idle = encoder_->Passed();
  if (!idle.ok()) return idle.status();
  if (!*idle) {
    return absl::UnavailableError("the engine's stream has not come to what an earlier Put left");
  }
  planes = planes.first(Fitting(planes));
  KVSTOW_RETURN_IF_ERROR(Gather(planes));
  KVSTOW_RETURN_IF_ERROR(encoder_->Encode(batch_));
  return planes.size();
}

absl::StatusOr<std::vector<PlaneEncodedOnDevice>> LeavingEncoder::TakeEncoded() {
  const auto encoded = encoder_->Collect();
  if (!encoded.ok()) return encoded.status();
  std::vector<PlaneEncodedOnDevice> out;
  for (size_t i = 0; i < encoded->size(); ++i) {
    const auto& from = (*encoded)[i];
    PlaneEncodedOnDevice& to = out.emplace_back();
    to.bytes = from.bytes;
    to.crc32c = from.summary.crc32c;
    if (IsKeptAsItIs(layout_.planes()[batch_[i].plane], layout_.spec())) continue;
    for (const TileReport& tile : from.tiles) {
      const ErrorSums& s = tile.sums;
      to.tiles.push_back({s.energy, s.error, s.centred_energy, s.centred_error, s.inner_product});
    }
  }
  return out;
}

}  // namespace kvstow
