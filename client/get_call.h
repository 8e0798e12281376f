// One Get call.
#pragma once

#include <grpcpp/channel.h>

#include "client/deadline.h"
#include "client/kvstow/client.h"
#include "client/outcome.h"
#include "client/space_handle.h"
#include "space/plane_layout.h"

namespace kvstow::client {

// Gets the first `blocks` keys of the request and fills `result` but for its status. Returns by the
// deadline, except for the time that the request's callbacks take; nothing is written after.
// FAILED_PRECONDITION means that no callback was called yet and the call may be made again with
// another handle.
Outcome RunGet(std::shared_ptr<grpc::Channel> channel, const SpaceHandle& handle,
               const PlaneLayout& layout, const GetBlocksRequest& request, size_t blocks,
               const Deadline& deadline, GetBlocksResult* result);

}  // namespace kvstow::client
