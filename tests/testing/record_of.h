// What a daemon stores of a Put, whoever encoded it.
#pragma once

#include <memory>
#include <utility>
#include <vector>

#include "gtest/gtest.h"
#include "kvstow/client.h"
#include "kvstow/coding.h"
#include "tests/testing/daemon_fixture.h"
#include "tests/testing/fake_encoding_kv.h"
#include "tests/testing/find_record.h"
#include "tests/testing/kv_data.h"
#include "tests/testing/raw_worker.h"

namespace kvstow::testing {

// Everything that a record can hold: keys turned by their positions, V, latent and opaque planes.
inline SpaceSpec EveryKind(CodecId codec, double bound) {
  SpaceSpec spec;
  spec.model = {"coding-test", "", ""};
  LayerGroup kv;
  kv.layers = {0, 1};
  kv.kv_heads = 3;
  kv.k_dim = kv.v_dim = 64;
  kv.rotary = RotaryEmbedding{};
  for (int i = 0; i < 32; ++i) kv.rotary->inverse_frequencies.push_back(1.0f / (1 + i));
  LayerGroup latent;
  latent.layers = {2};
  latent.kind = LayerGroup::Kind::kLatent;
  latent.kv_heads = 1;
  latent.k_dim = 128;
  LayerGroup opaque;
  opaque.layers = {3};
  opaque.kind = LayerGroup::Kind::kOpaque;
  opaque.opaque_bytes = 1000;
  spec.groups = {kv, latent, opaque};
  spec.codec.codec = codec;
  spec.codec.max_relative_error = bound;
  return spec;
}

// The record of a prompt's second block, from the tier of a daemon of its own.
class RecordOf : public DaemonTest {
 public:
  enum class Encoder { kDaemon, kCoder, kDevice };  // the client's coder, a DeviceKv
  RecordOf(const SpaceSpec& spec, Encoder encoder, DataPath path = DataPath::kAuto) {
    StartDaemon();
    ClientOptions options;
    options.target = target();
    options.path = path;
    if (encoder == Encoder::kCoder) options.coder = MakeCpuCoder();
    options.connect_wait = options.put_deadline = absl::Seconds(60);
    const auto client = Client::Create(options);
    const auto space = *client->OpenSpace(spec);
    std::vector<Planes> blocks;
    for (size_t b = 0; b < 2; ++b) blocks.push_back(MakeBlock(space->layout(), b));
    // Not finite: kept raw.
    blocks[1][2][1] = std::byte{0x7f};
    PutBlocksRequest request;
    request.keys = space->Keys(std::vector<uint32_t>(2 * spec.block_tokens, 7));
    request.source = [&](const PlaneSpec& plane, size_t block) {
      return std::span<const std::byte>(blocks[block][&plane - space->layout().planes().data()]);
    };
    if (encoder == Encoder::kDevice) {
      request.device = std::make_shared<FakeEncodingKv>(
          std::exchange(request.source, nullptr),
          *MakeCpuCoder()->ForSpace(spec, space->layout().shard()));
    }
    result = space->PutBlocks(request);
    if (result.stored < 2) return;
    bytes.resize(result.blocks[1].record_bytes);
    const auto at = FindRecord(daemon_->host_tier(), spec.block_tokens);
    if (!at.has_value()) {
      ADD_FAILURE() << "no such record";
      return;
    }
    EXPECT_TRUE(daemon_->host_tier().Read(*at, 0, bytes).ok());
  }
  void TestBody() override {}

  PutBlocksResult result;
  std::vector<std::byte> bytes;
};

}  // namespace kvstow::testing
