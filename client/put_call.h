// One Put call from announce to results.
#pragma once

#include <optional>

#include "client/bulk_stream.h"
#include "client/kvstow/client.h"
#include "client/kvstow/coding.h"
#include "client/outcome.h"
#include "client/space_handle.h"
#include "client/staging_link.h"
#include "space/plane_layout.h"

namespace kvstow::client {

// Whether its DeviceKv encodes, so that it needs no device memory shared with the daemon.
bool EncodesOnDevice(const PutBlocksRequest& request);

// Puts the first `blocks` keys of the request and fills `result` but for its status. Returns by the
// deadline, except for the time that request.source itself takes. `slot` may be null: then all
// bytes travel in the stream; so may `coder`: then the daemon encodes. FAILED_PRECONDITION means
// that nothing was asked of `source` yet and the call may be made again with another handle.
Outcome RunPut(const BulkStream::Terms& terms, const SpaceHandle& handle,
               std::optional<StagingLink::Slot> slot, SpaceCoder* coder, const PlaneLayout& layout,
               const PutBlocksRequest& request, size_t blocks, PutBlocksResult* result);

}  // namespace kvstow::client
