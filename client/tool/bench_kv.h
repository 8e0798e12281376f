// Where the KV of a bench worker lies: in host memory, or in that of a GPU.
//
// Not thread-safe; one worker's.
#pragma once

#include <cstddef>
#include <memory>

#include "absl/status/statusor.h"
#include "client/kvstow/client.h"
#include "client/tool/bench_data.h"
#include "client/tool/plugin_gpu.h"
#include "space/plane_layout.h"

namespace kvstow::tool {

class BenchKv {
 public:
  virtual ~BenchKv() = default;
  // Says where a Put's planes come from, and where a Get's go, to be seen by nobody. `layout` is
  // the calling space's.
  virtual void Give(const PlaneLayout& layout, PutBlocksRequest* request) = 0;
  virtual void Take(const PlaneLayout& layout, GetBlocksRequest* request) = 0;
};

// Data and layout outlive it.
std::unique_ptr<BenchKv> MakeHostKv(const PlaneLayout& layout, const BenchData* data);

// With room for Gets of so many blocks. RESOURCE_EXHAUSTED when the device has not so much.
absl::StatusOr<std::unique_ptr<BenchKv>> MakeDeviceKv(std::shared_ptr<PluginGpu> gpu,
                                                      const PlaneLayout& layout,
                                                      const BenchData* data, size_t blocks);

}  // namespace kvstow::tool
