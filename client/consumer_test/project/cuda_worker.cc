// A worker whose KV lies in pages on a GPU. Without a daemon it misses, like any other; without a
// GPU it goes on without one.
#include <kvstow/client.h>
#include <kvstow/cuda.h>

#include <cstdio>

int main(int argc, char** argv) {
  kvstow::ClientOptions options;
  if (argc > 1) options.target = argv[1];
  auto gpu = kvstow::OpenWorkerGpu(0);
  if (gpu.ok()) options.gpu = *gpu;
  auto client = kvstow::Client::Create(options);
  kvstow::SpaceSpec spec;
  spec.model = {.name = "org/model", .revision = "main", .weights_digest = ""};
  spec.groups = {{.layers = {0}, .kv_heads = 2, .k_dim = 128, .v_dim = 128, .rotary = {}}};
  auto space = client->OpenSpace(spec);
  if (!space.ok()) return 1;

  auto kv = kvstow::PagedDeviceKv::Create({.device = 0});
  if (!kv.ok()) {
    std::printf("no KV on a GPU: %s\n", kv.status().ToString().c_str());
    return gpu.ok() ? 1 : 0;
  }
  kvstow::GetBlocksRequest request;
  request.keys = (*space)->Keys(std::vector<uint32_t>(128, 7));
  request.device = *kv;
  return static_cast<int>((*space)->GetBlocks(request).usable);
}
