// One Put call from announce to results.
#pragma once

#include <grpcpp/channel.h>

#include <string>

#include "client/deadline.h"
#include "client/kvstow/client.h"
#include "client/outcome.h"
#include "client/space_handle.h"
#include "space/plane_layout.h"

namespace kvstow::client {

// Puts the first `blocks` keys of the request and fills `result` but for its status. Returns by the
// deadline, except for the time that request.source itself takes. FAILED_PRECONDITION means
// that nothing was asked of `source` yet and the call may be made again with another handle.
Outcome RunPut(std::shared_ptr<grpc::Channel> channel, const SpaceHandle& handle,
               const PlaneLayout& layout, const PutBlocksRequest& request, size_t blocks,
               const Deadline& deadline, PutBlocksResult* result);

}  // namespace kvstow::client
