#include "server/core/space_context.h"

#include <algorithm>
#include <utility>

#include "codec/plane.h"
#include "codec/record.h"
#include "server/core/status_macros.h"

namespace kvstow {

absl::StatusOr<std::shared_ptr<const SpaceContext>> SpaceContext::Create(TenantId tenant,
                                                                         SpaceSpec spec,
                                                                         Shard shard,
                                                                         Store* store) {
  KVSTOW_ASSIGN_OR_RETURN(PlaneLayout layout,
                          PlaneLayout::Create(std::move(spec), std::move(shard)));
  std::shared_ptr<SpaceContext> context(new SpaceContext(tenant, std::move(layout)));
  context->fingerprint_ = FingerprintOf(context->layout_.spec());
  context->id_ = store->AddSpace(tenant, context->fingerprint_, context->layout_.shard().expected,
                                 context->layout_.spec().block_tokens);
  return context;
}

uint64_t SpaceContext::EstimatedRecordBytes() const {
  const CodecSettings& codec = layout_.spec().codec;
  uint64_t bytes = RecordIndex::BytesFor(layout_);
  for (const PlaneSpec& plane : layout_.planes()) {
    if (IsVerbatim(plane, codec)) {
      bytes += RoundUpToTile(VerbatimOffset(plane) + plane.raw_bytes);
    } else {
      const uint32_t bits = plane.is_key_like() ? codec.k_bits : codec.v_bits;
      // Lengths, low-rank part and tables come to about half a bit an entry.
      bytes += plane.entries() * (2 * bits + 1) / 16;
    }
  }
  return bytes;
}

uint64_t SpaceContext::RoomForRecord() const {
  const uint64_t typical = typical_record_bytes_.load(std::memory_order_relaxed);
  if (typical > 0) return typical + typical / 128;
  const bool exact = std::ranges::all_of(layout_.planes(), [this](const PlaneSpec& plane) {
    return IsVerbatim(plane, layout_.spec().codec);
  });
  return exact ? EstimatedRecordBytes() : EstimatedRecordBytes() * 9 / 8;
}

// Rises at once and falls slowly: too little room costs a copy of the record, too much a few pages
// for as long as the Put takes. What several threads note at a time may be lost.
void SpaceContext::NoteRecordBytes(uint64_t bytes) const {
  const uint64_t typical = typical_record_bytes_.load(std::memory_order_relaxed);
  const uint64_t next = bytes >= typical ? bytes : typical - (typical - bytes) / 64;
  typical_record_bytes_.store(next, std::memory_order_relaxed);
}

}  // namespace kvstow
