// What every Put and Get shares: the codec, where its work runs, and the bounds on bytes in flight.
// One a daemon; plain references, all thread-safe.
#pragma once

#include "server/core/byte_budget.h"
#include "server/core/clock.h"
#include "server/core/device_reads.h"
#include "server/core/device_writes.h"
#include "server/core/executor.h"
#include "server/core/plane_codec.h"
#include "server/core/stats_sink.h"
#include "server/core/store.h"

namespace kvstow {

struct CallContext {
  Store& store;
  PlaneCodec& codec;
  Executor& executor;
  const Clock& clock;
  StatsSink& stats;
  ByteBudget& inflight;  // raw planes received and not yet encoded, or decoded and not yet sent
  ByteBudget& staged;    // encoded planes of Puts that have not committed
  // Of Gets and Puts whose staging lies on a device; null without one.
  DeviceReads* device_reads = nullptr;
  DeviceWrites* device_writes = nullptr;
};

}  // namespace kvstow
