#include "gpu/cuda_codec.h"

#include <random>

#include "codec/codec_conformance.h"
#include "codec/crc32c.h"
#include "gpu/tile_batch.h"

namespace kvstow {
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
