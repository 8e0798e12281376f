// An inference worker in short: reuse the stored prefix of a prompt, give the rest back. The KV
// lives in pages of the engine; here they are plain memory.
#include <kvstow/client.h>

#include <cstdio>
#include <cstring>
#include <map>
#include <vector>

int main(int argc, char** argv) {
  kvstow::ClientOptions options;
  if (argc > 1) options.target = argv[1];  // "unix:/run/kvstow/kvstowd.sock"
  auto client = kvstow::Client::Create(options);

  kvstow::SpaceSpec spec;
  spec.model = {.name = "org/model", .revision = "main", .weights_digest = ""};
  spec.groups = {{.layers = {0, 1, 2, 3}, .kv_heads = 2, .k_dim = 128, .v_dim = 128, .rotary = {}}};
  auto space = client->OpenSpace(spec);
  if (!space.ok()) return 1;  // a spec that can never work; nothing else fails

  std::vector<uint32_t> prompt(512, 7);
  auto keys = (*space)->Keys(prompt);
  std::map<std::tuple<uint32_t, kvstow::PlaneKind, size_t>, std::vector<std::byte>> pages;
  for (const kvstow::PlaneSpec& plane : (*space)->layout().planes()) {
    for (size_t b = 0; b < keys.size(); ++b)
      pages[{plane.layer, plane.kind, b}].resize(plane.raw_bytes);
  }

  // Layer by layer, while the engine already computes with the layers that came.
  kvstow::Match match = (*space)->Lookup(keys);
  auto get = (*space)->StartGet(
      {.keys = {keys.begin(), keys.begin() + match.blocks},
       .destination = nullptr,
       .take =
           [&](const kvstow::PlaneSpec& plane, size_t block, std::span<const std::byte> from) {
             auto& page = pages.at({plane.layer, plane.kind, block});
             std::memcpy(page.data(), from.data(), from.size());  // or ScatterPlane, kvstow/pages.h
           },
       .on_layer = [](uint32_t layer, size_t) { std::printf("layer %u may start\n", layer); }});
  const size_t reused = get->Wait().usable;
  client->Release(match.lease);
  std::printf("%zu tokens need no prefill\n", reused * spec.block_tokens);

  // The rest is prefilled, and stored for the next prompt with this prefix while it is.
  auto put = (*space)->StartPut(
      {.keys = keys,
       .source = nullptr,
       .fill = [&](const kvstow::PlaneSpec& plane, size_t block, std::span<std::byte> to) {
         std::memcpy(to.data(), pages.at({plane.layer, plane.kind, block}).data(), to.size());
         return true;
       }});
  for (uint32_t layer = 0; layer < 4; ++layer) {
    // ... compute the layer ...
    put->LayerReady(layer);
  }
  const kvstow::PutBlocksResult& result = put->Wait();
  std::printf("%zu blocks stored, %zu were there (%s)\n", result.stored, result.existed,
              result.status.ToString().c_str());
}
