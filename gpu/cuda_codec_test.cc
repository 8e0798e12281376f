#include "gpu/cuda_codec.h"

#include <algorithm>
#include <cstring>
#include <random>
#include <unordered_set>

#include "codec/codec_conformance.h"
#include "codec/crc32c.h"
#include "gpu/tile_batch.h"

namespace kvstow {
namespace gpu {

class CudaCodecPeer {
 public:
  // All that the codec keeps, on the host and on the device.
  static std::vector<uint64_t> Kept(CudaCodec& codec) {
    absl::MutexLock lock(&codec.mu_);
    std::vector<uint64_t> words;
    for (const PinnedBuffer* buffer : {&codec.up_, &codec.down_}) Append(*buffer, &words);
    for (const DeviceBuffer* buffer : {&codec.in_, &codec.out_, &codec.scratch_}) {
      Append(*buffer, &words);
    }
    return words;
  }

 private:
  template <typename Memory>
  static void Append(const GrowingBuffer<Memory>& buffer, std::vector<uint64_t>* words) {
    const size_t at = words->size();
    words->resize(at + buffer.size() / 8);
    ASSERT_EQ(cudaMemcpy(words->data() + at, buffer.data(), buffer.size(), cudaMemcpyDefault),
              cudaSuccess);
  }
};

}  // namespace gpu
namespace {

Codec* CudaOrNull() {
  static const auto* codec =
      new absl::StatusOr<std::unique_ptr<gpu::CudaCodec>>(gpu::CudaCodec::Create());
  return codec->ok() ? (*codec)->get() : nullptr;
}

INSTANTIATE_TEST_SUITE_P(Cuda, CodecConformance,
                         ::testing::Values(CodecUnderTest{"cuda", CudaOrNull}),
                         CodecUnderTest::NameOf);

TEST(CudaCodec, SaysWhyItIsNotThere) {
  const auto codec = gpu::CudaCodec::Create(1000);
  EXPECT_EQ(codec.status().code(), absl::StatusCode::kUnavailable);
}

// ---- What it keeps ----

// Tiles of numbers between 1 and 2, and their words as they lie in memory.
struct OwnedTiles {
  OwnedTiles(uint32_t owner, size_t count) : values(count * kShape.entries()), jobs(count) {
    std::mt19937 random(owner);
    for (uint16_t& value : values) value = static_cast<uint16_t>(0x3c00 + random() % 1024);
    bodies.resize(count * MaxTileBodyBytes(kShape));
    for (size_t i = 0; i < count; ++i) {
      TileEncodeJob& job = jobs[i];
      job.shape = kShape;
      job.values = reinterpret_cast<const std::byte*>(&values[i * kShape.entries()]);
      job.row_stride = kShape.dim * 2;
      job.owner = owner;
      job.body = bodies.data() + i * MaxTileBodyBytes(kShape);
    }
  }
  size_t CountIn(const std::vector<uint64_t>& kept) const {
    std::unordered_set<uint64_t> words;
    for (size_t i = 0; i < values.size(); i += 4) {
      uint64_t word;
      std::memcpy(&word, &values[i], sizeof(word));
      words.insert(word);
    }
    return static_cast<size_t>(std::count_if(kept.begin(), kept.end(),
                                             [&](uint64_t word) { return words.contains(word); }));
  }

  static constexpr TileShape kShape = {128, 128, DType::kFp16};
  std::vector<uint16_t> values;
  std::vector<std::byte> bodies;
  std::vector<TileEncodeJob> jobs;
};

TEST(CudaCodec, OverwritesWhatItKeepsForTheNextOwner) {
  auto codec = gpu::CudaCodec::Create();
  if (!codec.ok()) GTEST_SKIP() << "no CUDA device";
  OwnedTiles first(1, 64), second(2, 1), mixed(3, 2);
  ASSERT_TRUE((*codec)->Encode(first.jobs).ok());
  const size_t words = 64 * OwnedTiles::kShape.bytes() / 8;
  EXPECT_GE(first.CountIn(gpu::CudaCodecPeer::Kept(**codec)), words) << "so this test sees it";
  ASSERT_TRUE((*codec)->Encode(second.jobs).ok());
  EXPECT_EQ(first.CountIn(gpu::CudaCodecPeer::Kept(**codec)), 0u);
  // Tiles of two owners in one call, and then one of them again.
  mixed.jobs[1].owner = 2;
  ASSERT_TRUE((*codec)->Encode(mixed.jobs).ok());
  ASSERT_TRUE((*codec)->Encode(second.jobs).ok());
  EXPECT_EQ(mixed.CountIn(gpu::CudaCodecPeer::Kept(**codec)), 0u);
}

TEST(CudaCodec, KeepsWhatIsTheSameOwners) {
  auto codec = gpu::CudaCodec::Create();
  if (!codec.ok()) GTEST_SKIP() << "no CUDA device";
  OwnedTiles many(1, 64), one(1, 1);
  ASSERT_TRUE((*codec)->Encode(many.jobs).ok());
  ASSERT_TRUE((*codec)->Encode(one.jobs).ok());
  EXPECT_GT(many.CountIn(gpu::CudaCodecPeer::Kept(**codec)), 0u);
}

TEST(CudaCodec, ChecksumsOfAnyLength) {
  if (CudaOrNull() == nullptr) GTEST_SKIP() << "no CUDA device";
  const size_t sizes[] = {0,   1,   9,    15,   16,   17,   31,   32,    511,   512,
                          513, 528, 1000, 8191, 8192, 8193, 8208, 44000, 100003};
  std::mt19937_64 random(1);
  gpu::PinnedBuffer host;
  gpu::DeviceBuffer device, crcs;
  size_t room = 0;
  for (size_t size : sizes) room += (size + 15) / 16 * 16;
  ASSERT_TRUE(host.Reserve(room + sizeof(gpu::ChecksumRange) * std::size(sizes)).ok());
  ASSERT_TRUE(device.Reserve(host.size()).ok());
  ASSERT_TRUE(crcs.Reserve(4 * std::size(sizes)).ok());
  auto* ranges = reinterpret_cast<gpu::ChecksumRange*>(host.data() + room);
  size_t at = 0;
  for (size_t i = 0; i < std::size(sizes); ++i) {
    ranges[i] = {reinterpret_cast<const uint8_t*>(device.data() + at), sizes[i]};
    for (size_t k = 0; k < sizes[i]; ++k) host.data()[at + k] = static_cast<std::byte>(random());
    at += (sizes[i] + 15) / 16 * 16;
  }
  ASSERT_EQ(cudaMemcpy(device.data(), host.data(), host.size(), cudaMemcpyHostToDevice),
            cudaSuccess);
  auto* out = reinterpret_cast<uint32_t*>(crcs.data());
  // The shorter ones once more as a call that knows how short they are.
  for (uint64_t max_size : {uint64_t{100003}, uint64_t{8192}}) {
    uint32_t count = 0;
    while (count < std::size(sizes) && sizes[count] <= max_size) ++count;
    ASSERT_TRUE(gpu::ChecksumRanges(reinterpret_cast<gpu::ChecksumRange*>(device.data() + room),
                                    count, max_size, out, nullptr)
                    .ok());
    std::vector<uint32_t> got(count);
    ASSERT_EQ(cudaMemcpy(got.data(), out, 4 * got.size(), cudaMemcpyDeviceToHost), cudaSuccess);
    at = 0;
    for (size_t i = 0; i < count; ++i) {
      EXPECT_EQ(got[i], Crc32c({host.data() + at, sizes[i]})) << sizes[i] << " bytes";
      at += (sizes[i] + 15) / 16 * 16;
    }
  }
}

}  // namespace
}  // namespace kvstow
