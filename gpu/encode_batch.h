// How an encode lays out its scratch.
#pragma once

#include "gpu/kernels.h"
#include "gpu/tile_batch.h"

namespace kvstow::gpu {

TileTables TablesOf(uint32_t dim);

// Everything about a batch but its arrays of tiles. With scratch null only `bytes` is meaningful.
EncodeBatch PlanEncode(const EncodeSettings& settings, uint32_t tiles, void* scratch,
                       size_t* bytes);

}  // namespace kvstow::gpu
