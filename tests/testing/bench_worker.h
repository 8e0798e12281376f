// A worker for benchmarks: one space, its values and its pages on the host. Ends the program on any
// error.
#pragma once

#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/time/clock.h"
#include "kvstow/client.h"
#include "tests/testing/kv_data.h"

namespace kvstow::testing {

// Llama-3.1-8B's planes, `layers` of its 32: half a MiB a layer of a block of 128 tokens.
inline SpaceSpec BenchSpec(CodecId codec, uint32_t layers = 8) {
  SpaceSpec spec;
  spec.model = {"transport-benchmark", "", ""};
  LayerGroup group;
  for (uint32_t i = 0; i < layers; ++i) group.layers.push_back(i);
  group.kv_heads = 8;
  group.k_dim = group.v_dim = 128;
  spec.groups = {group};
  spec.codec.codec = codec;
  return spec;
}

struct BenchWorker {
  BenchWorker(const std::string& target, DataPath path, CodecId codec, size_t blocks,
              uint32_t layers = 8, std::shared_ptr<PlaneCoder> coder = nullptr) {
    ClientOptions options;
    options.coder = std::move(coder);
    options.target = target;
    options.path = path;
    options.connect_wait = absl::Seconds(20);
    options.lookup_deadline = options.get_deadline = options.put_deadline = absl::Minutes(5);
    client = Client::Create(options);
    space = *client->OpenSpace(BenchSpec(codec, layers));
    keys = space->Keys(std::vector<uint32_t>(blocks * 128, 1));
    for (size_t b = 0; b < blocks; ++b) values.push_back(MakeBlock(space->layout(), b));
    pages = values;
    // The daemon may have just been started.
    for (int i = 0; i < 200 && absl::IsUnavailable(space->Lookup({keys.data(), 1}).status); ++i) {
      absl::SleepFor(absl::Milliseconds(50));
    }
  }
  size_t Index(const PlaneSpec& plane) const {
    return static_cast<size_t>(&plane - space->layout().planes().data());
  }
  double bytes() const { return static_cast<double>(keys.size() * space->layout().raw_bytes()); }
  void Put() {
    PutBlocksRequest request;
    request.keys = keys;
    request.source = [this](const PlaneSpec& plane, size_t block) {
      return std::span<const std::byte>(values[block][Index(plane)]);
    };
    const auto put = space->PutBlocks(request);
    if (put.stored != keys.size()) {
      std::fprintf(stderr, "put: %s\n", put.status.ToString().c_str());
      std::exit(1);
    }
  }
  void Get() {
    GetBlocksRequest request;
    request.keys = keys;
    request.destination = [this](const PlaneSpec& plane, size_t block) {
      return std::span<std::byte>(pages[block][Index(plane)]);
    };
    const auto get = space->GetBlocks(request);
    if (get.usable != keys.size()) {
      std::fprintf(stderr, "get: %s\n", get.status.ToString().c_str());
      std::exit(1);
    }
  }
  void Drop() { space->DropAll().IgnoreError(); }

  std::unique_ptr<Client> client;
  std::shared_ptr<Space> space;
  std::vector<BlockKey> keys;
  std::vector<std::vector<std::vector<std::byte>>> values, pages;  // by block and plane
};

}  // namespace kvstow::testing
