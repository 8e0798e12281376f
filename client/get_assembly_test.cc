// What a daemon may send to a Get, and every lie about it. Messages go through the wire form.
#include "client/get_assembly.h"

#include <functional>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "client/convert.h"
#include "client/get_message.h"
#include "client/serialize.h"
#include "client/testing/fake_daemon.h"
#include "gtest/gtest.h"

namespace kvstow::client {
namespace {

using testing::SmallSpec;

constexpr size_t kPlane = 2 * 128 * 64 * 2;  // SmallSpec()

char Fill(uint32_t layer, int kind, uint32_t block) {
  return static_cast<char>(1 + layer * 50 + kind * 20 + block);
}

v1::GetResponse Answers(const std::vector<bool>& found) {
  v1::GetResponse response;
  for (bool f : found) response.mutable_answers()->add_answers()->set_found(f);
  return response;
}

void AddSegment(uint32_t layer, int kind, uint32_t block, size_t offset, size_t length,
                v1::GetResponse* response) {
  v1::Segment* s = response->mutable_chunk()->add_segments();
  s->set_layer(layer);
  s->set_kind(static_cast<v1::PlaneKind>(kind));
  s->set_block(block);
  s->set_offset(offset);
  s->set_length(length);
  s->set_plane_bytes(kPlane);
  response->mutable_chunk()->mutable_data()->append(length, Fill(layer, kind, block));
}

v1::GetResponse Plane(uint32_t layer, int kind, uint32_t block) {
  v1::GetResponse response;
  AddSegment(layer, kind, block, 0, kPlane, &response);
  return response;
}

v1::GetResponse Damage(uint32_t block, uint32_t layer) {
  v1::GetResponse response;
  response.mutable_damage()->set_block(block);
  response.mutable_damage()->set_layer(layer);
  return response;
}

class GetAssemblyTest : public ::testing::Test {
 protected:
  static constexpr size_t kBlocks = 3;

  GetAssemblyTest() : layout_(PlaneLayout::Create(*FromProto(SmallSpec()), {}).value()) {
    request_.destination = [this](const PlaneSpec& plane, size_t block) {
      auto& memory = memory_[{plane.layer, static_cast<int>(plane.kind), block}];
      // Guards on both sides show writes beyond the span.
      memory.assign(kPlane + 2 * kGuard, 0);
      return std::as_writable_bytes(std::span(memory)).subspan(kGuard, kPlane);
    };
    request_.on_layer = [this](uint32_t layer, size_t usable) {
      layers_.push_back({layer, usable});
    };
    Begin();
  }

  void Begin() { assembly_.emplace(GetAssembly::Create(layout_, request_, kBlocks).value()); }

  absl::Status Send(const v1::GetResponse& response) {
    grpc::ByteBuffer buffer = Serialize(response);
    return TakeGetResponse(&buffer, std::as_bytes(std::span(slot_)), &*assembly_, &staged_);
  }
  void SendAll(const std::vector<v1::GetResponse>& responses) {
    for (const v1::GetResponse& r : responses) ASSERT_TRUE(Send(r).ok());
  }
  std::vector<v1::GetResponse> Whole(const std::vector<uint32_t>& blocks) {
    std::vector<v1::GetResponse> all;
    for (uint32_t layer : {0, 1}) {
      for (int kind : {0, 1}) {
        for (uint32_t b : blocks) all.push_back(Plane(layer, kind, b));
      }
    }
    return all;
  }
  void ExpectWritten(uint32_t layer, int kind, size_t block) {
    const auto& memory = memory_.at({layer, kind, block});
    EXPECT_EQ(std::string(memory.begin() + kGuard, memory.end() - kGuard),
              std::string(kPlane, Fill(layer, kind, block)));
  }
  void TearDown() override {
    for (const auto& [plane, memory] : memory_) {
      EXPECT_EQ(std::string(memory.begin(), memory.begin() + kGuard), std::string(kGuard, 0));
      EXPECT_EQ(std::string(memory.end() - kGuard, memory.end()), std::string(kGuard, 0));
    }
  }

  static constexpr size_t kGuard = 64;
  using Layers = std::vector<std::pair<uint32_t, size_t>>;

  const PlaneLayout layout_;
  GetBlocksRequest request_;
  std::map<std::tuple<uint32_t, int, size_t>, std::vector<char>> memory_;
  Layers layers_;
  std::optional<GetAssembly> assembly_;
  std::string slot_;  // empty: none
  StagedCount staged_;
};

TEST_F(GetAssemblyTest, WholeGet) {
  SendAll({Answers({true, true, true})});
  SendAll(Whole({0, 1, 2}));
  EXPECT_TRUE(assembly_->OnEnd().ok());
  EXPECT_EQ(assembly_->usable(), 3u);
  EXPECT_EQ(layers_, (Layers{{0, 3}, {1, 3}}));
  EXPECT_EQ(assembly_->received_bytes(), 12 * kPlane);
  for (size_t b = 0; b < 3; ++b) {
    ExpectWritten(0, 0, b);
    ExpectWritten(1, 1, b);
  }
}

TEST_F(GetAssemblyTest, LayerIsReportedWithItsLastPlane) {
  SendAll({Answers({true, true, false}), Plane(0, 0, 0), Plane(0, 0, 1), Plane(0, 1, 0)});
  EXPECT_TRUE(layers_.empty());
  SendAll({Plane(0, 1, 1)});
  EXPECT_EQ(layers_, (Layers{{0, 2}}));
}

TEST_F(GetAssemblyTest, SegmentsSplitAndPackedAnyhow) {
  SendAll({Answers({true, false, false})});
  v1::GetResponse packed;
  AddSegment(0, 0, 0, 0, 100, &packed);
  SendAll({packed});
  packed.Clear();
  AddSegment(0, 0, 0, 100, kPlane - 100, &packed);
  AddSegment(0, 1, 0, 0, kPlane, &packed);
  AddSegment(1, 0, 0, 0, 1, &packed);
  SendAll({packed});
  packed.Clear();
  AddSegment(1, 0, 0, 1, kPlane - 1, &packed);
  AddSegment(1, 1, 0, 0, kPlane, &packed);
  SendAll({packed});
  EXPECT_TRUE(assembly_->OnEnd().ok());
  EXPECT_EQ(assembly_->usable(), 1u);
  ExpectWritten(0, 0, 0);
  ExpectWritten(1, 0, 0);
}

TEST_F(GetAssemblyTest, MissingBlockEndsThePrefixAndLaterBlocksAreNotWritten) {
  SendAll({Answers({true, false, true})});
  SendAll(Whole({0, 2}));
  EXPECT_TRUE(assembly_->OnEnd().ok());
  EXPECT_EQ(assembly_->usable(), 1u);
  EXPECT_EQ(layers_, (Layers{{0, 1}, {1, 1}}));
  EXPECT_EQ(memory_.size(), 4u);
}

TEST_F(GetAssemblyTest, NothingFoundIsHopeless) {
  SendAll({Answers({false, true, true})});
  EXPECT_TRUE(assembly_->hopeless());
  EXPECT_EQ(assembly_->usable(), 0u);
}

TEST_F(GetAssemblyTest, DamageShortensThePrefix) {
  SendAll({Answers({true, true, true}), Plane(0, 0, 0), Plane(0, 0, 1), Plane(0, 0, 2),
           Plane(0, 1, 0), Damage(1, 0), Plane(0, 1, 2)});
  EXPECT_EQ(layers_, (Layers{{0, 1}}));
  SendAll({Plane(1, 0, 0), Plane(1, 0, 2), Plane(1, 1, 0), Plane(1, 1, 2)});
  EXPECT_TRUE(assembly_->OnEnd().ok());
  EXPECT_EQ(assembly_->usable(), 1u);
  EXPECT_EQ(assembly_->damage().code(), absl::StatusCode::kDataLoss);
}

TEST_F(GetAssemblyTest, OtherPlanesOfADamagedBlockMayStillCome) {
  SendAll({Answers({true, true, false}), Plane(0, 0, 0), Damage(1, 0), Plane(0, 1, 0),
           Plane(0, 1, 1), Plane(1, 0, 0), Plane(1, 0, 1), Plane(1, 1, 0), Plane(1, 1, 1)});
  EXPECT_TRUE(assembly_->OnEnd().ok());
  EXPECT_EQ(assembly_->usable(), 1u);
}

TEST_F(GetAssemblyTest, DamageOfTheFirstBlockIsHopeless) {
  SendAll({Answers({true, true, true}), Damage(0, 0)});
  EXPECT_TRUE(assembly_->hopeless());
  EXPECT_TRUE(layers_.empty());
}

TEST_F(GetAssemblyTest, EarlyEndCountsCompleteBlocksOnly) {
  SendAll({Answers({true, true, true})});
  std::vector<v1::GetResponse> all = Whole({0, 1, 2});
  for (size_t i = 0; i < all.size(); ++i) {
    EXPECT_EQ(assembly_->usable(), i < 10 ? 0u : i - 9) << i;
    EXPECT_EQ(assembly_->OnEnd().code(), absl::StatusCode::kInternal) << i;
    SendAll({all[i]});
  }
  EXPECT_EQ(assembly_->usable(), 3u);
}

TEST_F(GetAssemblyTest, ChosenLayersOnly) {
  request_.layers = {1};
  Begin();
  SendAll({Answers({true, false, false}), Plane(1, 0, 0), Plane(1, 1, 0)});
  EXPECT_TRUE(assembly_->OnEnd().ok());
  EXPECT_EQ(assembly_->usable(), 1u);
  EXPECT_EQ(layers_, (Layers{{1, 1}}));
}

TEST_F(GetAssemblyTest, EmptyDestinationSkips) {
  request_.destination = [](const PlaneSpec&, size_t) { return std::span<std::byte>(); };
  Begin();
  SendAll({Answers({true, true, true})});
  SendAll(Whole({0, 1, 2}));
  EXPECT_EQ(assembly_->usable(), 3u);
}

TEST_F(GetAssemblyTest, WrongDestinationOrLayersAreTheCallersFault) {
  std::vector<std::byte> small(10);
  request_.destination = [&](const PlaneSpec&, size_t) { return std::span(small); };
  Begin();
  SendAll({Answers({true, true, true})});
  EXPECT_EQ(Send(Plane(0, 0, 0)).code(), absl::StatusCode::kInvalidArgument);
  for (std::vector<uint32_t> layers : {std::vector<uint32_t>{2}, {1, 0}, {1, 1}}) {
    request_.layers = layers;
    EXPECT_EQ(GetAssembly::Create(layout_, request_, 1).status().code(),
              absl::StatusCode::kInvalidArgument);
  }
  request_.layers.clear();
  request_.destination = nullptr;
  EXPECT_FALSE(GetAssembly::Create(layout_, request_, 1).ok());
}

struct Lie {
  const char* name;
  std::function<v1::GetResponse()> message;  // after answers and plane (0, K, 0)
};

class LieTest : public GetAssemblyTest, public ::testing::WithParamInterface<Lie> {};

TEST_P(LieTest, EndsTheGetWithoutUsableBlocks) {
  SendAll({Answers({true, true, false}), Plane(0, 0, 0)});
  EXPECT_EQ(Send(GetParam().message()).code(), absl::StatusCode::kInternal);
  EXPECT_EQ(assembly_->usable(), 0u);
}

v1::GetResponse Twisted(const std::function<void(v1::Chunk*)>& twist) {
  v1::GetResponse response = Plane(0, 0, 1);
  twist(response.mutable_chunk());
  return response;
}

INSTANTIATE_TEST_SUITE_P(
    Lies, LieTest,
    ::testing::Values(
        Lie{"SecondAnswers",
            [] {
              return Answers({true, true, true});
            }},
        Lie{"WrongBlock", [] { return Plane(0, 0, 0); }},
        Lie{"BlockNotFound", [] { return Plane(0, 0, 2); }},
        Lie{"BlockOutOfRange", [] { return Plane(0, 0, 4000000000); }},
        Lie{"WrongKind", [] { return Plane(0, 1, 1); }},
        Lie{"UnknownKind", [] { return Plane(0, 77, 1); }},
        Lie{"WrongLayer", [] { return Plane(1, 0, 1); }},
        Lie{"StartsInTheMiddle",
            [] {
              return Twisted([](v1::Chunk* c) {
                c->mutable_segments(0)->set_offset(8);
                c->mutable_segments(0)->set_length(8);
                c->mutable_data()->resize(8);
              });
            }},
        Lie{"PlaneBytesSmaller",
            [] {
              return Twisted(
                  [](v1::Chunk* c) { c->mutable_segments(0)->set_plane_bytes(kPlane - 1); });
            }},
        Lie{"OverlongPlane",
            [] {
              return Twisted([](v1::Chunk* c) {
                c->mutable_segments(0)->set_length(kPlane + 1);
                c->mutable_data()->push_back('x');
              });
            }},
        Lie{"HugeLength",
            [] {
              return Twisted([](v1::Chunk* c) { c->mutable_segments(0)->set_length(0xffffffff); });
            }},
        Lie{"EmptySegment",
            [] {
              return Twisted([](v1::Chunk* c) {
                c->mutable_segments(0)->set_length(0);
                c->clear_data();
              });
            }},
        Lie{"ShortData",
            [] { return Twisted([](v1::Chunk* c) { c->mutable_data()->pop_back(); }); }},
        Lie{"DataWithoutSegment",
            [] { return Twisted([](v1::Chunk* c) { c->mutable_data()->push_back('x'); }); }},
        Lie{"NoData", [] { return Twisted([](v1::Chunk* c) { c->clear_data(); }); }},
        Lie{"NoSegments", [] { return Twisted([](v1::Chunk* c) { c->clear_segments(); }); }},
        Lie{"DamageOfAnUnknownBlock", [] { return Damage(2, 0); }},
        Lie{"DamageOutOfRange", [] { return Damage(4000000000, 0); }}),
    [](const auto& info) { return std::string(info.param.name); });

TEST_F(GetAssemblyTest, AnswersOfTheWrongNumber) {
  EXPECT_EQ(Send(Answers({true, true})).code(), absl::StatusCode::kInternal);
}

TEST_F(GetAssemblyTest, PlanesBeforeAnswers) {
  EXPECT_EQ(Send(Plane(0, 0, 0)).code(), absl::StatusCode::kInternal);
}

TEST_F(GetAssemblyTest, DamageBeforeAnswers) {
  EXPECT_EQ(Send(Damage(0, 0)).code(), absl::StatusCode::kInternal);
}

TEST_F(GetAssemblyTest, MoreThanWasAskedFor) {
  SendAll({Answers({true, false, false})});
  SendAll(Whole({0}));
  EXPECT_EQ(Send(Plane(1, 1, 0)).code(), absl::StatusCode::kInternal);
}

// All planes of one layer of block 0, side by side in a slot.
v1::GetResponse Staged(uint32_t layer) {
  v1::GetResponse response;
  v1::StagedPlanes& planes = *response.mutable_staged();
  planes.set_layer(layer);
  for (int kind : {0, 1}) {
    planes.add_kinds(static_cast<v1::PlaneKind>(kind));
    planes.add_blocks(0);
    planes.add_staged_at(static_cast<uint32_t>(kind * kPlane));
    planes.add_plane_bytes(kPlane);
  }
  return response;
}

TEST_F(GetAssemblyTest, StagedPlanesAreReadOutOfTheSlot) {
  slot_ = std::string(kPlane, Fill(1, 0, 0)) + std::string(kPlane, Fill(1, 1, 0));
  SendAll({Answers({true, false, false}), Plane(0, 0, 0), Plane(0, 1, 0), Staged(1)});
  EXPECT_TRUE(assembly_->OnEnd().ok());
  EXPECT_EQ(assembly_->usable(), 1u);
  EXPECT_EQ(staged_.segments, 2u);
  ExpectWritten(1, 0, 0);
  ExpectWritten(1, 1, 0);
}

TEST_F(GetAssemblyTest, StagedPlanesOfTwoLayers) {
  v1::GetResponse both = Staged(0);
  v1::StagedPlanes& planes = *both.mutable_staged();
  planes.MergeFrom(Staged(1).staged());
  planes.clear_layer();
  for (size_t i = 0; i < 4; ++i) {
    planes.add_layers(static_cast<uint32_t>(i / 2));
    planes.set_staged_at(static_cast<int>(i), static_cast<uint32_t>(i * kPlane));
    slot_ += std::string(kPlane, Fill(static_cast<uint32_t>(i / 2), static_cast<int>(i % 2), 0));
  }
  SendAll({Answers({true, false, false}), both});
  EXPECT_TRUE(assembly_->OnEnd().ok());
  EXPECT_EQ(assembly_->usable(), 1u);
  for (const int layer : {0, 1}) {
    for (const int kind : {0, 1}) ExpectWritten(layer, kind, 0);
  }
}

TEST_F(GetAssemblyTest, StagedPlanesWhoseListsDiffer) {
  using Spoil = std::function<void(v1::StagedPlanes*)>;
  const Spoil spoils[] = {
      [](auto* p) { p->add_layers(0); },
      [](auto* p) { p->mutable_kinds()->RemoveLast(); },
      [](auto* p) { p->add_blocks(0); },
      [](auto* p) { p->mutable_staged_at()->RemoveLast(); },
      [](auto* p) { p->add_plane_bytes(kPlane); },
      [](auto* p) { p->add_crc32c(0); },
  };
  slot_.assign(4 * kPlane, 0);
  for (const Spoil& spoil : spoils) {
    Begin();
    SendAll({Answers({true, false, false})});
    v1::GetResponse response = Staged(0);
    spoil(response.mutable_staged());
    EXPECT_EQ(Send(response).code(), absl::StatusCode::kInternal);
  }
}

TEST_F(GetAssemblyTest, StagedPlanesOutsideTheSlot) {
  slot_.assign(2 * kPlane, 0);
  for (const size_t at : {kPlane + 1, 2 * kPlane, size_t{~uint32_t{0}}}) {
    Begin();
    SendAll({Answers({true, false, false})});
    v1::GetResponse response = Staged(0);
    response.mutable_staged()->set_staged_at(0, static_cast<uint32_t>(at));
    EXPECT_EQ(Send(response).code(), absl::StatusCode::kInternal) << at;
  }
}

// Cut and flipped messages must neither crash nor write elsewhere; TearDown() checks the guards.
TEST_F(GetAssemblyTest, BrokenBytes) {
  const std::string whole = Plane(0, 0, 0).SerializeAsString();
  const auto feed = [&](const std::string& bytes) {
    Begin();
    SendAll({Answers({true, true, true})});
    const grpc::Slice slice(bytes);
    grpc::ByteBuffer buffer(&slice, 1);
    return TakeGetResponse(&buffer, {}, &*assembly_, &staged_);
  };
  for (size_t cut = 1; cut < 64; ++cut) {
    EXPECT_FALSE(feed(whole.substr(0, whole.size() - cut)).ok()) << cut;
    EXPECT_FALSE(feed(whole.substr(0, cut)).ok()) << cut;
  }
  for (size_t at = 0; at < 32; ++at) {
    for (int bit = 0; bit < 8; ++bit) {
      std::string flipped = whole;
      flipped[at] = static_cast<char>(flipped[at] ^ (1 << bit));
      feed(flipped).IgnoreError();
    }
  }
}

}  // namespace
}  // namespace kvstow::client
