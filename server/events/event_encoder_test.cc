// Golden bytes. The maps are what msgspec writes for vLLM's structs of the same values; the arrays
// are without the optional fields that newer versions append.
#include "server/events/event_encoder.h"

#include <gtest/gtest.h>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"

namespace kvstow {
namespace {

using Form = EventFormat::Form;
using Hash = EventFormat::Hash;

BlockKey Key(uint8_t last) {
  BlockKey key{};
  key.fill(0xaa);
  key[24] = 0;
  key[30] = 1;
  key[31] = last;
  return key;
}

const std::string kKeyBegin = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa00aaaaaaaaaa01";
std::string Bin(const std::string& last) { return absl::StrCat("c420", kKeyBegin, last); }
std::string Text(const std::string& text) {
  return absl::StrCat(absl::Hex(0xa0 + text.size()), absl::BytesToHexString(text));
}

EventBatch Batch() {
  StoreEvent stored;
  stored.key = Key(2);
  stored.parent = Key(1);
  stored.first_position = 4;
  stored.block_tokens = 4;
  stored.token_ids =
      std::make_shared<const std::vector<uint32_t>>(std::vector<uint32_t>{1, 200, 65535, 128000});
  StoreEvent removed;
  removed.kind = StoreEvent::Kind::kRemoved;
  removed.key = Key(3);
  removed.tier = TierKind::kGpu;
  EventBatch batch;
  batch.Add(stored);
  batch.Add(removed);
  batch.AddAllCleared();
  return batch;
}

std::string EncodeToHex(const EventFormat& format) {
  return absl::BytesToHexString(Encode(Batch(), format, 1.5));
}

const std::string kTokens = "9401ccc8cdffffce0001f400";

TEST(EventEncoderTest, Maps) {
  EXPECT_EQ(EncodeToHex({Form::kMap, Hash::kBytes, 3}),
            absl::StrCat("93cb3ff800000000000093",                  //
                         "88", Text("type"), Text("BlockStored"),   //
                         Text("block_hashes"), "91", Bin("02"),     //
                         Text("parent_block_hash"), Bin("01"),      //
                         Text("token_ids"), kTokens,                //
                         Text("block_size"), "04",                  //
                         Text("lora_id"), "c0",                     //
                         Text("medium"), Text("CPU"),               //
                         Text("lora_name"), "c0",                   //
                         "83", Text("type"), Text("BlockRemoved"),  //
                         Text("block_hashes"), "91", Bin("03"),     //
                         Text("medium"), Text("GPU"),               //
                         "81", Text("type"), Text("AllBlocksCleared"), "03"));
}

TEST(EventEncoderTest, Arrays) {
  EXPECT_EQ(EncodeToHex({Form::kArray, Hash::kBytes, 0}),
            absl::StrCat("93cb3ff800000000000093",                                        //
                         "98", Text("BlockStored"), "91", Bin("02"), Bin("01"), kTokens,  //
                         "04", "c0", Text("CPU"), "c0",                                   //
                         "93", Text("BlockRemoved"), "91", Bin("03"), Text("GPU"),        //
                         "91", Text("AllBlocksCleared"), "00"));
}

TEST(EventEncoderTest, IntegersAreTheLastEightBytes) {
  EXPECT_EQ(EncodeToHex({Form::kArray, Hash::kInteger, 0}),
            absl::StrCat("93cb3ff800000000000093",  //
                         "98", Text("BlockStored"), "91", "cf00aaaaaaaaaa0102",
                         "cf00aaaaaaaaaa0101", kTokens,                           //
                         "04", "c0", Text("CPU"), "c0",                           //
                         "93", Text("BlockRemoved"), "91", "cf00aaaaaaaaaa0103",  //
                         Text("GPU"),                                             //
                         "91", Text("AllBlocksCleared"), "00"));
}

TEST(EventEncoderTest, ARootHasNoParentAndNoTokenIdsAreAnEmptyList) {
  StoreEvent stored;
  stored.key = Key(1);
  stored.block_tokens = 128;
  EventBatch batch;
  batch.Add(stored);
  EXPECT_EQ(absl::BytesToHexString(Encode(batch, {Form::kArray, Hash::kBytes, 0}, 0)),
            absl::StrCat("93cb0000000000000000", "91", "98", Text("BlockStored"), "91", Bin("01"),
                         "c0", "90", "cc80", "c0", Text("CPU"), "c0", "00"));
}

TEST(EventEncoderTest, SequencesAreBigEndian) {
  EXPECT_EQ(absl::BytesToHexString(EncodeSequence(0x0102030405060708)), "0102030405060708");
  EXPECT_EQ(absl::BytesToHexString(EncodeSequence(UINT64_MAX)), "ffffffffffffffff");
}

}  // namespace
}  // namespace kvstow
