// Planes to and from pages on the device, against the CPU's copies (kvstow/pages.h), byte for byte.
#include <algorithm>
#include <memory>
#include <numeric>
#include <ostream>
#include <random>
#include <string>
#include <tuple>
#include <vector>

#include "absl/strings/str_cat.h"
#include "client_cuda/kvstow/cuda.h"
#include "gpu/staging.h"
#include "gtest/gtest.h"

namespace kvstow {
namespace {

constexpr uint32_t kBlocks = 3, kTokens = 128;
constexpr size_t kGap = 96;  // behind each page, as where something else lies between

struct Shape {
  const char* name;
  DType dtype;
  uint32_t heads, dim;

  friend void PrintTo(const Shape& shape, std::ostream* out) { *out << shape.name; }
};
// Rows of whole words and of none: 256, 512, 6 and 82 bytes.
constexpr Shape kShapes[] = {{"Fp16x128", DType::kFp16, 3, 128},
                             {"Fp32x128", DType::kFp32, 2, 128},
                             {"Bf16x3", DType::kBf16, 5, 3},
                             {"Fp16x41", DType::kFp16, 2, 41}};

enum class Order { kNhd, kHnd };
void PrintTo(Order order, std::ostream* out) { *out << (order == Order::kNhd ? "Nhd" : "Hnd"); }
using Param = std::tuple<Shape, uint32_t, Order>;
std::string NameOf(const ::testing::TestParamInfo<Param>& info) {
  const auto& [shape, page_tokens, order] = info.param;
  return absl::StrCat(shape.name, "Pages", page_tokens, order == Order::kNhd ? "Nhd" : "Hnd");
}

class PageCopyTest : public ::testing::TestWithParam<Param> {
 protected:
  void SetUp() override {
    if (auto gpu = OpenWorkerGpu(0); !gpu.ok()) GTEST_SKIP() << "no GPU: " << gpu.status();
    const auto& [shape, page_tokens, order] = GetParam();
    SpaceSpec spec;
    spec.model = {"page-copy-test", "", ""};
    spec.groups = {{.layers = {0, 1},
                    .kv_heads = shape.heads,
                    .k_dim = shape.dim,
                    .v_dim = shape.dim,
                    .dtype = shape.dtype,
                    .rotary = {}}};
    spec.codec.codec = CodecId::kRaw;
    layout_ = std::make_unique<PlaneLayout>(*PlaneLayout::Create(spec, {}));
    // Somewhere in a cache of twice the room.
    const uint32_t of_block = kTokens / page_tokens;
    std::vector<uint32_t> all(2 * kBlocks * of_block);
    std::iota(all.begin(), all.end(), 0);
    std::shuffle(all.begin(), all.end(), random_);
    for (uint32_t b = 0; b < kBlocks; ++b) {
      pages_.emplace_back(all.begin() + b * of_block, all.begin() + (b + 1) * of_block);
    }
    stride_ = page_tokens * shape.heads * shape.dim * SizeOf(shape.dtype) + kGap;
    for (size_t i = 0; i < planes().size(); ++i) {
      caches_.push_back(RandomBytes(all.size() * stride_));
      on_device_.push_back(Upload(caches_.back()));
    }
  }

  const std::vector<PlaneSpec>& planes() const { return layout_->planes(); }
  size_t Index(const PlaneSpec& plane) const {
    return static_cast<size_t>(&plane - planes().data());
  }
  PagedKv At(std::byte* base, const PlaneSpec& plane) const {
    const auto& [shape, page_tokens, order] = GetParam();
    return order == Order::kNhd ? PagedKv::Nhd(base, plane, page_tokens, stride_)
                                : PagedKv::Hnd(base, plane, page_tokens, stride_);
  }

  std::vector<std::byte> RandomBytes(size_t size) {
    std::vector<std::byte> bytes(size);
    for (std::byte& b : bytes) b = static_cast<std::byte>(random_());
    return bytes;
  }
  template <typename T>
  static std::unique_ptr<gpu::DeviceBuffer> Upload(const std::vector<T>& from) {
    auto buffer = std::make_unique<gpu::DeviceBuffer>();
    EXPECT_TRUE(buffer->Reserve(from.size() * sizeof(T)).ok());
    EXPECT_EQ(cudaMemcpy(buffer->data(), from.data(), from.size() * sizeof(T), cudaMemcpyDefault),
              cudaSuccess);
    return buffer;
  }
  static std::vector<std::byte> Download(const std::byte* from, size_t size) {
    EXPECT_EQ(cudaStreamSynchronize(cudaStreamPerThread), cudaSuccess);
    std::vector<std::byte> bytes(size);
    EXPECT_EQ(cudaMemcpy(bytes.data(), from, size, cudaMemcpyDefault), cudaSuccess);
    return bytes;
  }

  std::shared_ptr<PagedDeviceKv> MakeKv() {
    auto kv = PagedDeviceKv::Create({.device = 0, .stream = cudaStreamPerThread});
    EXPECT_TRUE(kv.ok()) << kv.status();
    EXPECT_TRUE((*kv)
                    ->SetPages({[this](const PlaneSpec& plane) {
                                  return At(on_device_[Index(plane)]->data(), plane);
                                },
                                pages_})
                    .ok());
    return *kv;
  }

  // All planes of all blocks as the CPU gathers them.
  std::vector<std::vector<std::byte>> Expected() {
    std::vector<std::vector<std::byte>> out;
    for (const PlaneSpec& plane : planes()) {
      for (uint32_t b = 0; b < kBlocks; ++b) {
        out.emplace_back(plane.raw_bytes);
        EXPECT_TRUE(
            GatherPlane(plane, At(caches_[Index(plane)].data(), plane), pages_[b], out.back())
                .ok());
      }
    }
    return out;
  }
  // Scatters random planes on the CPU, and with `scatter` on the device.
  template <typename Scatter>
  void ExpectScatters(Scatter scatter) {
    for (const PlaneSpec& plane : planes()) {
      for (uint32_t b = 0; b < kBlocks; ++b) {
        const auto values = RandomBytes(plane.raw_bytes);
        const size_t i = Index(plane);
        ASSERT_TRUE(ScatterPlane(plane, values, At(caches_[i].data(), plane), pages_[b]).ok());
        scatter(plane, b, values);
      }
    }
    for (size_t i = 0; i < caches_.size(); ++i) {
      EXPECT_TRUE(Download(on_device_[i]->data(), caches_[i].size()) == caches_[i])
          << "plane " << i;
    }
  }

  std::mt19937_64 random_{11};
  std::unique_ptr<PlaneLayout> layout_;
  std::vector<std::vector<uint32_t>> pages_;
  size_t stride_ = 0;
  std::vector<std::vector<std::byte>> caches_;  // of each plane, on the host
  std::vector<std::unique_ptr<gpu::DeviceBuffer>> on_device_;
};

INSTANTIATE_TEST_SUITE_P(Pages, PageCopyTest,
                         ::testing::Combine(::testing::ValuesIn(kShapes),
                                            ::testing::Values(1u, 8u, 16u, 128u),
                                            ::testing::Values(Order::kNhd, Order::kHnd)),
                         NameOf);

TEST_P(PageCopyTest, GathersAsTheCpu) {
  const auto expected = Expected();
  const size_t room = (planes()[0].raw_bytes + 63) / 64 * 64;
  gpu::DeviceBuffer out;
  ASSERT_TRUE(out.Reserve(expected.size() * room).ok());
  std::vector<LeavingPlane> leaving;
  for (const PlaneSpec& plane : planes()) {
    for (uint32_t b = 0; b < kBlocks; ++b) {
      leaving.push_back({&plane, Index(plane), b, out.data() + leaving.size() * room});
    }
  }
  const auto kv = MakeKv();
  ASSERT_TRUE(kv->Gather(leaving).ok());
  for (size_t i = 0; i < expected.size(); ++i) {
    EXPECT_TRUE(Download(leaving[i].to, expected[i].size()) == expected[i]) << i;
    std::vector<std::byte> on_host(expected[i].size());
    ASSERT_TRUE(kv->GatherToHost(*leaving[i].plane, leaving[i].block, on_host).ok());
    EXPECT_TRUE(on_host == expected[i]) << i;
  }
}

TEST_P(PageCopyTest, ScattersAsTheCpuAndTouchesNothingElse) {
  const auto kv = MakeKv();
  std::vector<std::unique_ptr<gpu::DeviceBuffer>> arrived;
  ExpectScatters([&](const PlaneSpec& plane, size_t b, const std::vector<std::byte>& values) {
    arrived.push_back(Upload(values));
    const ArrivedPlane one = {&plane, Index(plane), b, arrived.back()->data()};
    ASSERT_TRUE(kv->Scatter({&one, 1}).ok());
  });
  ExpectScatters([&](const PlaneSpec& plane, size_t b, const std::vector<std::byte>& values) {
    ASSERT_TRUE(kv->ScatterFromHost(plane, b, values).ok());
  });
}

TEST_P(PageCopyTest, CopiesAloneOnTheCallersStream) {
  std::vector<std::unique_ptr<gpu::DeviceBuffer>> tables, buffers;
  for (const auto& pages : pages_) tables.push_back(Upload(pages));
  const auto table = [&](size_t b) {
    return std::span(reinterpret_cast<const uint32_t*>(tables[b]->data()), pages_[b].size());
  };
  const auto expected = Expected();
  size_t i = 0;
  for (const PlaneSpec& plane : planes()) {
    const PagedKv cache = At(on_device_[Index(plane)]->data(), plane);
    for (uint32_t b = 0; b < kBlocks; ++b, ++i) {
      gpu::DeviceBuffer out;
      ASSERT_TRUE(out.Reserve(plane.raw_bytes).ok());
      ASSERT_TRUE(
          GatherPlane(plane, cache, table(b), {out.data(), plane.raw_bytes}, cudaStreamPerThread)
              .ok());
      EXPECT_TRUE(Download(out.data(), plane.raw_bytes) == expected[i]) << i;
    }
  }
  ExpectScatters([&](const PlaneSpec& plane, size_t b, const std::vector<std::byte>& values) {
    buffers.push_back(Upload(values));
    ASSERT_TRUE(ScatterPlane(plane, {buffers.back()->data(), values.size()},
                             At(on_device_[Index(plane)]->data(), plane), table(b),
                             cudaStreamPerThread)
                    .ok());
  });
}

// ---- What does not fit, with one shape ----

class PageCopyErrorTest : public PageCopyTest {
 protected:
  static absl::StatusCode Code(const absl::Status& s) { return s.code(); }
};
INSTANTIATE_TEST_SUITE_P(One, PageCopyErrorTest,
                         ::testing::Values(Param(kShapes[0], 16, Order::kNhd)), NameOf);

TEST_P(PageCopyErrorTest, RefusesWhatPagesDoNotHold) {
  const PlaneSpec& plane = planes()[0];
  gpu::DeviceBuffer out;
  ASSERT_TRUE(out.Reserve(plane.raw_bytes).ok());
  const auto kv = MakeKv();
  std::vector<std::byte> on_host(plane.raw_bytes);
  const auto refused = [&](const PlaneSpec& of, size_t block) {
    const LeavingPlane leaving = {&of, 0, block, out.data()};
    const ArrivedPlane arrived = {&of, 0, block, out.data()};
    EXPECT_EQ(Code(kv->Gather({&leaving, 1})), absl::StatusCode::kInvalidArgument);
    EXPECT_EQ(Code(kv->Scatter({&arrived, 1})), absl::StatusCode::kInvalidArgument);
    EXPECT_EQ(Code(kv->GatherToHost(of, block, on_host)), absl::StatusCode::kInvalidArgument);
    EXPECT_EQ(Code(kv->ScatterFromHost(of, block, on_host)), absl::StatusCode::kInvalidArgument);
  };
  refused(plane, kBlocks);  // no such block
  PlaneSpec opaque;
  opaque.kind = PlaneKind::kOpaque;
  opaque.raw_bytes = 64;
  refused(opaque, 0);

  const auto before = Download(on_device_[0]->data(), caches_[0].size());
  pages_[1].pop_back();
  const auto of_plane = [this](const PlaneSpec& p) { return At(on_device_[0]->data(), p); };
  ASSERT_TRUE(kv->SetPages({of_plane, pages_}).ok());
  refused(plane, 1);
  const auto odd = [&](const PlaneSpec& p) {
    PagedKv kv = of_plane(p);
    kv.page_tokens = 48;  // does not divide the block
    return kv;
  };
  ASSERT_TRUE(kv->SetPages({odd, pages_}).ok());
  refused(plane, 0);
  EXPECT_TRUE(Download(on_device_[0]->data(), caches_[0].size()) == before);
}

TEST_P(PageCopyErrorTest, CopiesAloneRefuseTheSame) {
  const PlaneSpec& plane = planes()[0];
  const PagedKv cache = At(on_device_[0]->data(), plane);
  const std::vector<uint32_t> pages(kTokens / 16);
  std::byte* const nowhere = on_device_[1]->data();
  const auto gather = [&](const PlaneSpec& of, const PagedKv& from, size_t page_count,
                          size_t bytes) {
    return Code(GatherPlane(of, from, std::span(pages).first(page_count), {nowhere, bytes},
                            cudaStreamPerThread));
  };
  constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;
  EXPECT_EQ(gather(plane, cache, pages.size() - 1, plane.raw_bytes), kInvalid);
  EXPECT_EQ(gather(plane, cache, pages.size(), plane.raw_bytes - 1), kInvalid);
  PagedKv none = cache;
  none.page_tokens = 0;
  EXPECT_EQ(gather(plane, none, pages.size(), plane.raw_bytes), kInvalid);
  PlaneSpec opaque;
  opaque.kind = PlaneKind::kOpaque;
  EXPECT_EQ(gather(opaque, cache, pages.size(), 0), kInvalid);
  EXPECT_EQ(Code(ScatterPlane(plane, {nowhere, 7}, cache, pages, cudaStreamPerThread)), kInvalid);
}

}  // namespace
}  // namespace kvstow
