// An inference worker in short: reuse the stored prefix of a prompt, give the rest back. The KV
// lives in pages of the engine; here they are plain memory.
#include <kvstow/client.h>

#include <cstdio>
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

  std::map<std::pair<uint32_t, size_t>, std::vector<std::byte>> pages;  // K by layer and block
  const auto page = [&](const kvstow::PlaneSpec& plane, size_t block) {
    auto& bytes = pages[{2 * plane.layer + (plane.kind == kvstow::PlaneKind::kV), block}];
    bytes.resize(plane.raw_bytes);
    return std::span<std::byte>(bytes);
  };

  std::vector<uint32_t> prompt(512, 7);
  auto keys = (*space)->Keys(prompt);
  kvstow::Match match = (*space)->Lookup(keys);
  kvstow::GetBlocksResult got = (*space)->GetBlocks(
      {.keys = {keys.begin(), keys.begin() + match.blocks},
       .destination = page,
       .on_layer = [](uint32_t layer, size_t) { std::printf("layer %u may start\n", layer); }});
  client->Release(match.lease);
  std::printf("%zu tokens need no prefill\n", got.usable * spec.block_tokens);

  // ... prefill the rest ..., then store it for the next prompt with this prefix:
  kvstow::PutBlocksResult put = (*space)->PutBlocks({.keys = keys, .source = page});
  std::printf("%zu blocks stored, %zu were there (%s)\n", put.stored, put.existed,
              put.status.ToString().c_str());
}
