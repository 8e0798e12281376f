#include "client/device_encoding_writer.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "client/device_wait.h"
#include "client/plane_declaration.h"
#include "client/stopwatch.h"

namespace kvstow::client {

DeviceEncodingWriter::DeviceEncodingWriter(std::unique_ptr<PlaneWriter> path, DeviceKv* kv,
                                           const PlaneLayout* layout, uint64_t first_position,
                                           const BulkStream::Terms* terms)
    : path_(std::move(path)),
      kv_(*kv),
      layout_(*layout),
      first_position_(first_position),
      terms_(*terms) {}

bool DeviceEncodingWriter::Append(const PlaneSpec&, uint32_t, std::span<const std::byte>,
                                  const v1::PlaneDeclaration*) {
  problem_ = absl::InternalError("a plane in host memory, of a Put that encodes on the device");
  return false;
}

bool DeviceEncodingWriter::Gather(const PlaneSpec& plane, uint32_t block, GatherToHost) {
  waiting_.push_back({&plane, static_cast<size_t>(&plane - layout_.planes().data()), block,
                      first_position_ + uint64_t{block} * layout_.spec().block_tokens});
  waiting_bytes_ += plane.raw_bytes;
  return waiting_bytes_ < kv_.encodes_at_a_time() || Advance();
}

bool DeviceEncodingWriter::Flush() {
  while (flying_ || !waiting_.empty()) {
    if (!Advance()) return false;
  }
  return path_->Flush();
}

bool DeviceEncodingWriter::Advance() {
  const auto landed = Land();
  problem_ = landed.ok() ? Launch() : landed.status();
  if (!problem_.ok()) return false;
  for (size_t i = 0; i < landed->planes.size(); ++i) {
    const PlaneToEncode& plane = landed->planes[i];
    const PlaneEncodedOnDevice& encoded = landed->encoded[i];
    const v1::PlaneDeclaration declared = DeclarationOf(encoded.crc32c, encoded.tiles);
    if (!path_->Append(*plane.plane, static_cast<uint32_t>(plane.block), encoded.bytes,
                       &declared)) {
      return false;
    }
  }
  return true;
}

absl::StatusOr<DeviceEncodingWriter::Landed> DeviceEncodingWriter::Land() {
  if (!flying_) return Landed();
  Batch batch = *std::exchange(flying_, std::nullopt);
  const Stopwatch stopwatch(&waited_);
  if (absl::Status s = AwaitMark(kv_, batch.mark, terms_); !s.ok()) return s;
  auto encoded = kv_.TakeEncoded();
  if (!encoded.ok()) return encoded.status();
  if (encoded->size() != batch.planes.size()) {
    return absl::InternalError(absl::StrCat("the DeviceKv took ", batch.planes.size(),
                                            " planes to encode and gave ", encoded->size()));
  }
  return Landed{std::move(batch.planes), *std::move(encoded)};
}

absl::Status DeviceEncodingWriter::Launch() {
  if (waiting_.empty()) return absl::OkStatus();
  const auto taken = kv_.Encode(waiting_);
  if (!taken.ok()) return taken.status();
  if (*taken == 0 || *taken > waiting_.size()) {
    return absl::InternalError(
        absl::StrCat("the DeviceKv took ", *taken, " of ", waiting_.size(), " planes to encode"));
  }
  const auto mark = kv_.Mark();
  if (!mark.ok()) return mark.status();
  const auto end = waiting_.begin() + static_cast<ptrdiff_t>(*taken);
  flying_ = Batch{{waiting_.begin(), end}, *mark};
  for (const PlaneToEncode& plane : flying_->planes) waiting_bytes_ -= plane.plane->raw_bytes;
  waiting_.erase(waiting_.begin(), end);
  return absl::OkStatus();
}

}  // namespace kvstow::client
