// One Get call.
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

// Gets the first `blocks` keys of the request and fills `result` but for its status. Returns by the
// deadline, except for the time that the request's callbacks take; nothing is written after. `slot`
// may be null: then all bytes travel in the stream; so may `coder`: then the daemon decodes.
// FAILED_PRECONDITION means that no callback was called yet and the call may be made again with
// another handle.
Outcome RunGet(const BulkStream::Terms& terms, const SpaceHandle& handle,
               std::optional<StagingLink::Slot> slot, SpaceCoder* coder, const PlaneLayout& layout,
               const GetBlocksRequest& request, size_t blocks, GetBlocksResult* result);

}  // namespace kvstow::client
