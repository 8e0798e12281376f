#include "client/chunk_writer.h"

#include <algorithm>
#include <random>
#include <vector>

#include "client/serialize.h"
#include "gtest/gtest.h"

namespace kvstow::client {
namespace {

struct Plane {
  PlaneSpec spec;
  uint32_t block;
  std::vector<std::byte> bytes;
};

PlaneSpec Spec(uint32_t layer, PlaneKind kind, size_t bytes) {
  PlaneSpec spec;
  spec.layer = layer;
  spec.kind = kind;
  spec.raw_bytes = bytes;
  return spec;
}

// Layer by layer, K before V, block by block, with bytes that differ everywhere.
std::vector<Plane> Planes(std::mt19937* random, size_t largest) {
  std::vector<Plane> planes;
  const uint32_t blocks = 1 + (*random)() % 4;
  for (uint32_t layer = 0; layer < 3; ++layer) {
    for (PlaneKind kind : {PlaneKind::kK, PlaneKind::kV}) {
      const size_t bytes = 1 + (*random)() % largest;
      for (uint32_t b = 0; b < blocks; ++b) {
        planes.push_back({Spec(layer, kind, bytes), b, std::vector<std::byte>(bytes)});
        for (std::byte& x : planes.back().bytes) x = static_cast<std::byte>((*random)());
      }
    }
  }
  return planes;
}

// Takes chunks apart again, checking order and sizes.
void ExpectSame(const std::vector<Plane>& planes, const std::vector<v1::Chunk>& chunks,
                size_t max_chunk) {
  size_t plane = 0, offset = 0;
  for (const v1::Chunk& chunk : chunks) {
    ASSERT_LE(chunk.data().size(), max_chunk);
    size_t at = 0;
    for (const v1::Segment& s : chunk.segments()) {
      ASSERT_LT(plane, planes.size());
      const Plane& want = planes[plane];
      ASSERT_EQ(s.layer(), want.spec.layer);
      ASSERT_EQ(static_cast<int>(s.kind()), static_cast<int>(want.spec.kind));
      ASSERT_EQ(s.block(), want.block);
      ASSERT_EQ(s.plane_bytes(), want.bytes.size());
      ASSERT_EQ(s.offset(), offset);
      ASSERT_GT(s.length(), 0u);
      ASSERT_EQ(chunk.data().substr(at, s.length()),
                std::string(reinterpret_cast<const char*>(want.bytes.data()) + offset, s.length()));
      at += s.length();
      offset += s.length();
      if (offset == want.bytes.size()) {
        ++plane;
        offset = 0;
      }
    }
    ASSERT_EQ(at, chunk.data().size());
  }
  EXPECT_EQ(plane, planes.size());
}

ChunkWriter::Send CollectInto(std::vector<v1::Chunk>* chunks) {
  return [chunks](const grpc::ByteBuffer& message) {
    grpc::ByteBuffer copy = message;
    v1::PutRequest request;
    EXPECT_TRUE(Parse(&copy, &request));
    chunks->push_back(request.chunk());
    return true;
  };
}

TEST(ChunkWriterTest, AnyPlanesInAnyChunkSizeComeOutInOrder) {
  for (uint32_t seed = 0; seed < 60; ++seed) {
    SCOPED_TRACE(seed);
    std::mt19937 random(seed);
    const std::vector<Plane> planes = Planes(&random, seed % 2 ? 50 : 5000);
    const size_t max_chunk = 1 + random() % 3000;
    std::vector<v1::Chunk> chunks;
    ChunkWriter writer(max_chunk, CollectInto(&chunks));
    uint64_t total = 0;
    for (const Plane& p : planes) {
      ASSERT_TRUE(writer.Append(p.spec, p.block, p.bytes));
      total += p.bytes.size();
    }
    ASSERT_TRUE(writer.Flush());
    EXPECT_EQ(writer.bytes_sent(), total);
    EXPECT_EQ(chunks.size(), (total + max_chunk - 1) / max_chunk);  // all but the last are full
    ExpectSame(planes, chunks, max_chunk);
  }
}

TEST(ChunkWriterTest, FilledPlanesComeOutAsAppendedOnes) {
  for (uint32_t seed = 0; seed < 60; ++seed) {
    SCOPED_TRACE(seed);
    std::mt19937 random(seed);
    const std::vector<Plane> planes = Planes(&random, seed % 2 ? 50 : 5000);
    const size_t max_chunk = 1 + random() % 10'000;
    std::vector<v1::Chunk> chunks;
    ChunkWriter writer(max_chunk, CollectInto(&chunks));
    for (const Plane& p : planes) {
      const auto nothing = [](std::span<std::byte>) { return false; };
      ASSERT_FALSE(writer.Fill(p.spec, p.block, nothing));
      ASSERT_TRUE(writer.Fill(p.spec, p.block, [&p](std::span<std::byte> to) {
        EXPECT_EQ(to.size(), p.bytes.size());
        std::copy(p.bytes.begin(), p.bytes.end(), to.begin());
        return true;
      }));
    }
    ASSERT_TRUE(writer.Flush());
    ExpectSame(planes, chunks, max_chunk);
  }
}

TEST(ChunkWriterTest, TinyPlanesDoNotMakeHugeHeaders) {
  size_t largest = 0;
  ChunkWriter writer(1 << 20, [&](const grpc::ByteBuffer& message) {
    largest = std::max(largest, message.Length());
    return true;
  });
  const std::byte one[1] = {};
  for (uint32_t i = 0; i < 100000; ++i) writer.Append(Spec(0, PlaneKind::kK, 1), i, one);
  writer.Flush();
  EXPECT_LT(largest, size_t{1} << 20);
}

TEST(ChunkWriterTest, BrokenStreamEndsTheWork) {
  int sends = 0;
  ChunkWriter writer(10, [&](const grpc::ByteBuffer&) { return ++sends < 2; });
  const std::vector<std::byte> bytes(100);
  EXPECT_FALSE(writer.Append(Spec(0, PlaneKind::kK, 100), 0, bytes));
  EXPECT_EQ(sends, 2);
}

TEST(ChunkWriterTest, TheTransportMayKeepChunksLongerThanTheWriter) {
  std::vector<grpc::ByteBuffer> kept;
  {
    ChunkWriter writer(10, [&](const grpc::ByteBuffer& message) {
      kept.push_back(message);
      return true;
    });
    writer.Append(Spec(0, PlaneKind::kK, 40), 0, std::vector<std::byte>(40, std::byte{7}));
    writer.Flush();
  }
  ASSERT_EQ(kept.size(), 4u);
  for (grpc::ByteBuffer& message : kept) {
    v1::PutRequest request;
    ASSERT_TRUE(Parse(&message, &request));
    EXPECT_EQ(request.chunk().data(), std::string(10, 7));
  }
}

}  // namespace
}  // namespace kvstow::client
