// A worker that codes KV itself. Without a daemon it misses, like any other.
#include <kvstow/client.h>
#include <kvstow/coding.h>

int main(int argc, char** argv) {
  kvstow::ClientOptions options;
  if (argc > 1) options.target = argv[1];
  options.coder = kvstow::MakeCpuCoder({.threads = 1});
  auto client = kvstow::Client::Create(options);
  kvstow::SpaceSpec spec;
  spec.model = {.name = "org/model", .revision = "main", .weights_digest = ""};
  spec.groups = {{.layers = {0}, .kv_heads = 2, .k_dim = 128, .v_dim = 128, .rotary = {}}};
  auto space = client->OpenSpace(spec);
  if (!space.ok()) return 1;
  const auto keys = (*space)->Keys(std::vector<uint32_t>(128, 7));
  return static_cast<int>((*space)->Lookup(keys).blocks);
}
