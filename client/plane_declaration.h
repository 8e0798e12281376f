// What a client that encodes says of a plane.
#pragma once

#include <cstdint>
#include <span>

#include "client/kvstow/coding.h"
#include "kvstow/v1/kvstow.pb.h"

namespace kvstow::client {

inline v1::PlaneDeclaration DeclarationOf(uint32_t crc32c, std::span<const TileSums> tiles) {
  v1::PlaneDeclaration declared;
  declared.set_crc32c(crc32c);
  declared.mutable_tile_sums()->Reserve(static_cast<int>(5 * tiles.size()));
  for (const TileSums& s : tiles) {
    for (double sum : {s.energy, s.error, s.centred_energy, s.centred_error, s.inner_product}) {
      declared.add_tile_sums(sum);
    }
  }
  return declared;
}

}  // namespace kvstow::client
