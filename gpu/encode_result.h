// What the device says of an encoded tile, in the codec's words.
#pragma once

#include <cstring>

#include "codec/report.h"
#include "codec/tile.h"
#include "gpu/device_tile.h"

namespace kvstow::gpu {

inline TileHead HeadOf(const EncodeResult& result) {
  std::byte packed[kTileHeadBytes];
  std::memcpy(packed, &result.head, sizeof(packed));
  TileHead head;
  // The encoder writes valid heads only.
  (void)UnpackTileHead(packed, &head);
  return head;
}

inline TileReport ReportOf(const EncodeResult& result) {
  const TileHead head = HeadOf(result);
  TileReport report;
  report.sums = {result.energy, result.error, result.centred_energy, result.centred_error,
                 result.inner_product};
  report.rank = head.rank;
  report.bits = head.bits;
  report.raw = result.raw != 0;
  report.has_means = head.has_means;
  return report;
}

}  // namespace kvstow::gpu
