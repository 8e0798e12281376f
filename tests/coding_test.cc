// Planes that workers encode, at a real daemon: what an honest worker sends becomes the record that
// the daemon would have written, and what cannot be a plane of the space becomes nothing.
#include <atomic>
#include <cstring>
#include <thread>

#include "codec/crc32c.h"
#include "codec/record.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kvstow/client.h"
#include "kvstow/coding.h"
#include "staging/side_channel.h"
#include "tests/testing/daemon_fixture.h"
#include "tests/testing/kv_data.h"
#include "tests/testing/raw_worker.h"
#include "tests/testing/record_of.h"

namespace kvstow::testing {
namespace {

using grpc::StatusCode;
using ::testing::HasSubstr;

class CodingTest : public DaemonTest {
 protected:
  void SetUp() override { StartDaemon(); }
};

// ---- Equality ----

TEST(CodingEqualityTest, AWorkersRecordIsTheDaemonsByteForByte) {
  for (CodecId codec : {CodecId::kRaw, CodecId::kTurboQuant, CodecId::kEOptShrinkQ}) {
    for (double bound : {0.0, 0.01}) {
      const SpaceSpec spec = EveryKind(codec, bound);
      const RecordOf daemons(spec, RecordOf::Encoder::kDaemon),
          workers(spec, RecordOf::Encoder::kCoder);
      ASSERT_EQ(daemons.result.stored, 2u) << daemons.result.status;
      ASSERT_EQ(workers.result.stored, 2u) << workers.result.status;
      ASSERT_TRUE(RecordIndex::Parse(workers.bytes).ok())
          << RecordIndex::Parse(workers.bytes).status();
      EXPECT_TRUE(workers.bytes == daemons.bytes) << Name(codec) << " " << bound;
      const Fidelity &k = workers.result.k, &expected = daemons.result.k;
      EXPECT_EQ(k.nmse, expected.nmse);
      EXPECT_EQ(k.worst_centred_nmse, expected.worst_centred_nmse);
      EXPECT_EQ(k.rank_mean, expected.rank_mean);
      EXPECT_EQ(k.tiles_raw, expected.tiles_raw);
      EXPECT_EQ(k.bits_per_entry, expected.bits_per_entry);
      if (codec != CodecId::kRaw) {
        EXPECT_LT(workers.result.sent_bytes, daemons.result.sent_bytes * (bound > 0 ? 0.9 : 0.5));
      }
    }
  }
}

TEST_F(CodingTest, EitherSideReadsWhatTheOtherWrote) {
  const SpaceSpec spec = EveryKind(CodecId::kEOptShrinkQ, 0);
  std::vector<std::vector<std::byte>> got[2];
  for (int codes = 0; codes < 2; ++codes) {
    ClientOptions options;
    options.target = target();
    options.connect_wait = options.put_deadline = options.get_deadline = absl::Seconds(60);
    if (codes == 1) options.coder = MakeCpuCoder();
    const auto client = Client::Create(options);
    const auto space = *client->OpenSpace(spec);
    const Planes block = MakeBlock(space->layout(), 1);
    const auto index = [&](const PlaneSpec& plane) {
      return &plane - space->layout().planes().data();
    };
    const auto keys = space->Keys(std::vector<uint32_t>(spec.block_tokens, 3));
    const auto put = space->PutBlocks({.keys = keys, .source = [&](const PlaneSpec& plane, size_t) {
                                         return std::span<const std::byte>(block[index(plane)]);
                                       }});
    EXPECT_EQ(put.stored + put.existed, 1u) << put.status;
    got[codes].resize(block.size());
    GetBlocksRequest get;
    get.keys = keys;
    get.destination = [&](const PlaneSpec& plane, size_t) {
      got[codes][index(plane)].resize(plane.raw_bytes);
      return std::span<std::byte>(got[codes][index(plane)]);
    };
    EXPECT_EQ(space->GetBlocks(get).usable, 1u);
  }
  EXPECT_TRUE(got[0] == got[1]);
}

// ---- What is refused ----

class BadPlaneTest : public CodingTest {
 protected:
  void SetUp() override {
    CodingTest::SetUp();
    worker_ = std::make_unique<RawWorker>(target());
    worker_->OpenSmall();
  }
  void TearDown() override {
    worker_.reset();
    daemon_.reset();
  }

  // The chunks of an honest Put of one block, a plane each.
  std::vector<v1::PutRequest> Chunks() const {
    std::vector<v1::PutRequest> chunks;
    const Planes block = MakeBlock(layout_, 1);
    for (size_t p = 0; p < layout_.planes().size(); ++p) {
      const PlaneSpec& plane = layout_.planes()[p];
      PlaneEncodeJobs jobs = MakeEncodeJobs(plane, layout_.spec().codec, nullptr, block[p]);
      EXPECT_TRUE(CpuCodec()->Encode(std::span(jobs.jobs)).ok());
      const EncodedPlane encoded = AssemblePlane(plane, jobs);
      const std::string bytes(reinterpret_cast<const char*>(encoded.bytes.data()),
                              encoded.bytes.size());
      chunks.push_back(RawWorker::ChunkOf(plane.layer, static_cast<v1::PlaneKind>(plane.kind), 0, 0,
                                          static_cast<uint32_t>(bytes.size()), bytes));
      auto* declared = chunks.back().mutable_chunk()->mutable_segments(0)->mutable_declared();
      declared->set_crc32c(Crc32c(encoded.bytes));
      for (const TileEncodeJob& job : jobs.jobs) {
        const ErrorSums& s = job.report.sums;
        for (double sum : {s.energy, s.error, s.centred_energy, s.centred_error, s.inner_product}) {
          declared->add_tile_sums(sum);
        }
      }
    }
    return chunks;
  }
  static v1::Segment& SegmentOf(v1::PutRequest& chunk) {
    return *chunk.mutable_chunk()->mutable_segments(0);
  }
  // Changes bytes as a client that means it.
  static void Reseal(v1::PutRequest& chunk) {
    const std::string& data = chunk.chunk().data();
    SegmentOf(chunk).set_length(static_cast<uint32_t>(data.size()));
    SegmentOf(chunk).set_plane_bytes(static_cast<uint32_t>(data.size()));
    SegmentOf(chunk).mutable_declared()->set_crc32c(Crc32c(std::as_bytes(std::span(data))));
  }

  grpc::Status Put(const std::vector<v1::PutRequest>& chunks, v1::Form form = v1::FORM_ENCODED) {
    auto context = worker_->Context();
    auto stream = worker_->stub().Put(context.get());
    v1::PutRequest announce = worker_->Announce(keys_);
    announce.mutable_announce()->set_form(form);
    stream->Write(announce);
    v1::PutResponse response;
    EXPECT_TRUE(stream->Read(&response));
    for (const v1::PutRequest& chunk : chunks) stream->Write(chunk);
    stream->Write(RawWorker::Commit());
    stream->WritesDone();
    while (stream->Read(&response)) {
    }
    return stream->Finish();
  }
  void ExpectRefused(const std::vector<v1::PutRequest>& chunks, const std::string& words,
                     v1::Form form = v1::FORM_ENCODED) {
    const grpc::Status status = Put(chunks, form);
    EXPECT_EQ(status.error_code(), StatusCode::INVALID_ARGUMENT) << words;
    EXPECT_THAT(status.error_message(), HasSubstr(words));
    EXPECT_EQ(worker_->Lookup(keys_), 0u) << words;
  }

  std::unique_ptr<RawWorker> worker_;
  const PlaneLayout layout_ = SmallLayout();
  const std::vector<BlockKey> keys_ = SmallKeys(1);
};

TEST_F(BadPlaneTest, AnHonestOneIsStored) {
  const grpc::Status status = Put(Chunks());
  EXPECT_TRUE(status.ok()) << status.error_message();
  EXPECT_EQ(worker_->Lookup(keys_), 1u);
  const auto inspected = worker_->Inspect(keys_[0]);
  EXPECT_TRUE(inspected.records(0).intact()) << inspected.records(0).problem();
  EXPECT_GT(inspected.records(0).k().nmse(), 0);
}

TEST_F(BadPlaneTest, EachIsNamedWithWhatWasWrong) {
  struct Case {
    const char* words;
    std::function<void(v1::PutRequest&)> spoil;
  };
  const std::vector<Case> cases = {
      {"layer 1 v block 0 was refused (checksum): its bytes have the CRC32C",
       [](v1::PutRequest& c) { (*c.mutable_chunk()->mutable_data())[500] ^= 1; }},
      {"(checksum)", [](v1::PutRequest& c) { SegmentOf(c).mutable_declared()->set_crc32c(1); }},
      {"(structure): plane of layer 1 (v): tiles run past its end",
       [](v1::PutRequest& c) {
         c.mutable_chunk()->mutable_data()->resize(c.chunk().data().size() - 16);
         Reseal(c);
       }},
      {"(structure): plane of layer 1 (v): bytes left after its tiles",
       [](v1::PutRequest& c) {
         c.mutable_chunk()->mutable_data()->append(16, '\0');
         Reseal(c);
       }},
      {"(structure): 40000 bytes; encoded it takes",
       [](v1::PutRequest& c) { SegmentOf(c).set_plane_bytes(40000); }},
      {"(structure): plane of layer 1 (v): tile mode 2 is unknown",
       [](v1::PutRequest& c) {
         (*c.mutable_chunk()->mutable_data())[0] = 0x22;
         Reseal(c);
       }},
      {"(settings): tile 0: 3 bits; the space's settings allow 2 to 2",
       [this](v1::PutRequest& c) {
         CodecSettings settings = layout_.spec().codec;
         settings.v_bits = 3;
         const PlaneSpec& plane = layout_.planes().back();
         const auto block = MakeBlock(layout_, 1);
         const auto encoded = *EncodePlane(*CpuCodec(), plane, settings, nullptr, block.back());
         c.mutable_chunk()->set_data(encoded.bytes.data(), encoded.bytes.size());
         Reseal(c);
       }},
      {"(declaration): tile 0: sums that no tile can have",
       [](v1::PutRequest& c) { SegmentOf(c).mutable_declared()->set_tile_sums(1, std::nan("")); }},
      {"(declaration): tile 1: sums that no tile can have",
       [](v1::PutRequest& c) { SegmentOf(c).mutable_declared()->set_tile_sums(6, -1); }},
      {"(declaration): tile 0: sums that no tile can have",
       [](v1::PutRequest& c) { SegmentOf(c).mutable_declared()->set_tile_sums(0, 1e300); }},
      {"(declaration): sums of 1 tiles; declare 2",
       [](v1::PutRequest& c) {
         SegmentOf(c).mutable_declared()->mutable_tile_sums()->Truncate(5);
       }},
      {"segment.declared has 9 tile_sums; they are five a tile",
       [](v1::PutRequest& c) {
         SegmentOf(c).mutable_declared()->mutable_tile_sums()->Truncate(9);
       }},
      {"not declared. The first segment of each encoded plane declares it",
       [](v1::PutRequest& c) { SegmentOf(c).clear_declared(); }},
  };
  for (const Case& each : cases) {
    std::vector<v1::PutRequest> chunks = Chunks();
    each.spoil(chunks.back());
    ExpectRefused(chunks, each.words);
  }
  EXPECT_TRUE(Put(Chunks()).ok()) << "nothing is left of them";
}

TEST_F(BadPlaneTest, ABoundOfErrorIsHeldAgainstTheSums) {
  v1::SpaceSpec spec = SmallSpec();
  spec.mutable_codec()->set_max_relative_error(1e-3);
  v1::OpenSpaceResponse opened;
  ASSERT_TRUE(worker_->OpenSpace(spec, &opened).ok());
  auto context = worker_->Context();
  auto stream = worker_->stub().Put(context.get());
  v1::PutRequest announce = worker_->Announce(keys_);
  announce.mutable_announce()->set_form(v1::FORM_ENCODED);
  announce.mutable_announce()->set_space(opened.space());
  stream->Write(announce);
  v1::PutResponse response;
  EXPECT_TRUE(stream->Read(&response));
  for (const v1::PutRequest& chunk : Chunks()) stream->Write(chunk);
  stream->Write(RawWorker::Commit());
  while (stream->Read(&response)) {
  }
  const grpc::Status status = stream->Finish();
  EXPECT_EQ(status.error_code(), StatusCode::INVALID_ARGUMENT);
  EXPECT_THAT(status.error_message(), HasSubstr("(bound): tile 0: a relative error of"));
}

TEST_F(BadPlaneTest, DeclarationsOutOfPlace) {
  // In a Put that announced planes as they are.
  ExpectRefused(Chunks(), "not announced as encoded", v1::FORM_DECODED);
  // Twice, and a plane that changes its size on the way.
  std::vector<v1::PutRequest> chunks = Chunks();
  const std::string data = chunks[0].chunk().data();
  v1::PutRequest rest = chunks[0];
  chunks[0].mutable_chunk()->set_data(data.substr(0, 100));
  SegmentOf(chunks[0]).set_length(100);
  rest.mutable_chunk()->set_data(data.substr(100));
  SegmentOf(rest).set_offset(100);
  SegmentOf(rest).set_length(static_cast<uint32_t>(data.size() - 100));
  chunks.insert(chunks.begin() + 1, rest);
  ExpectRefused(chunks, "declared twice");
  SegmentOf(chunks[1]).clear_declared();
  SegmentOf(chunks[1]).set_plane_bytes(static_cast<uint32_t>(data.size() + 16));
  ExpectRefused(chunks, "bytes, then of");
  SegmentOf(chunks[1]).set_plane_bytes(static_cast<uint32_t>(data.size()));
  EXPECT_TRUE(Put(chunks).ok());
}

TEST_F(BadPlaneTest, AnUnknownFormIsNamed) {
  auto context = worker_->Context();
  auto stream = worker_->stub().Put(context.get());
  v1::PutRequest announce = worker_->Announce(keys_);
  announce.mutable_announce()->set_form(static_cast<v1::Form>(7));
  stream->Write(announce);
  v1::PutResponse response;
  EXPECT_FALSE(stream->Read(&response));
  EXPECT_THAT(stream->Finish().error_message(), HasSubstr("form"));
  const auto get = worker_->Get(keys_, static_cast<v1::Form>(7));
  EXPECT_EQ(get.status.error_code(), StatusCode::INVALID_ARGUMENT);
}

// A worker that writes into the slot while the daemon reads: what is stored is what was checked.
TEST_F(BadPlaneTest, WritingWhileTheDaemonReads) {
  StagingRequest ask;
  std::memcpy(ask.session.data(), worker_->session().data(), ask.session.size());
  ask.bytes = 2 << 20;
  auto region = RequestRegion(SideChannelPath(config_.rpc.unix_socket), ask, absl::Seconds(60));
  ASSERT_TRUE(region.ok()) << region.status();
  const std::span<std::byte> memory = region->memory.bytes();
  v1::PutRequest staged;
  size_t at = 0;
  for (const v1::PutRequest& chunk : Chunks()) {
    v1::Segment* segment = staged.mutable_staged()->add_segments();
    *segment = chunk.chunk().segments(0);
    segment->set_staged_at(static_cast<uint32_t>(at));
    std::memcpy(memory.data() + at, chunk.chunk().data().data(), chunk.chunk().data().size());
    at += (chunk.chunk().data().size() + 63) / 64 * 64;
  }
  std::atomic<bool> stop{false};
  auto* const byte = reinterpret_cast<std::atomic<uint8_t>*>(memory.data() + 700);
  std::thread spoiler([&] {
    while (!stop) byte->fetch_xor(1);
  });
  for (int i = 0; i < 50; ++i) {
    auto context = worker_->Context();
    auto stream = worker_->stub().Put(context.get());
    v1::PutRequest announce = worker_->Announce(keys_);
    announce.mutable_announce()->set_form(v1::FORM_ENCODED);
    announce.mutable_announce()->mutable_slot()->set_region(region->region);
    announce.mutable_announce()->mutable_slot()->set_bytes(1 << 20);
    stream->Write(announce);
    stream->Write(staged);
    stream->Write(RawWorker::Commit());
    stream->WritesDone();
    v1::PutResponse response;
    while (stream->Read(&response)) {
    }
    const grpc::Status status = stream->Finish();
    if (!status.ok()) {
      EXPECT_THAT(status.error_message(), HasSubstr("(checksum)"));
    } else {
      EXPECT_TRUE(worker_->Inspect(keys_[0]).records(0).intact());
      EXPECT_TRUE(worker_->Get(keys_).damage.empty());
      worker_->Drop(keys_);
    }
  }
  stop = true;
  spoiler.join();
}

TEST_F(BadPlaneTest, EncodedPlanesComeWithTheirChecksums) {
  ASSERT_TRUE(Put(Chunks()).ok());
  auto context = worker_->Context();
  auto stream = worker_->StartGet(context.get(), keys_, v1::FORM_ENCODED);
  v1::GetResponse response;
  size_t planes = 0;
  while (stream->Read(&response)) {
    size_t at = 0;
    for (const v1::Segment& segment : response.chunk().segments()) {
      const std::string data = response.chunk().data().substr(at, segment.length());
      at += segment.length();
      ASSERT_EQ(segment.length(), segment.plane_bytes()) << "small planes come whole";
      EXPECT_EQ(segment.declared().crc32c(), Crc32c(std::as_bytes(std::span(data))));
      EXPECT_EQ(segment.declared().tile_sums_size(), 0);
      ++planes;
    }
  }
  EXPECT_TRUE(stream->Finish().ok());
  EXPECT_EQ(planes, layout_.planes().size());
}

}  // namespace
}  // namespace kvstow::testing
