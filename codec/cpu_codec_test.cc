#include "codec/codec_conformance.h"

namespace kvstow {
namespace {

INSTANTIATE_TEST_SUITE_P(
    Cpu, CodecConformance,
    ::testing::Values(CodecUnderTest{"portable", [] { return CpuCodec(CpuIsa::kPortable); }},
                      CodecUnderTest{"avx2", [] { return CpuCodec(CpuIsa::kAvx2); }}),
    CodecUnderTest::NameOf);

TEST(CpuCodec, BestIsNeverNull) {
  ASSERT_NE(CpuCodec(), nullptr);
  EXPECT_EQ(CpuCodec()->device(), "cpu");
  EXPECT_EQ(CpuCodec(CpuIsa::kPortable)->description(), "portable");
}

}  // namespace
}  // namespace kvstow
