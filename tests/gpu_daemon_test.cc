// The daemon with a GPU, as far as it can be tested without one: a plugin made of host memory that
// is loaded like the real one and fails when told to.
#include <dlfcn.h>

#include <string>
#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "gmock/gmock.h"
#include "gpu/api/testing/fake_device.h"
#include "gtest/gtest.h"
#include "httplib.h"
#include "tests/testing/daemon_fixture.h"
#include "tests/testing/kv_data.h"
#include "tests/testing/process.h"
#include "tests/testing/raw_worker.h"

namespace kvstow::testing {
namespace {

using ::testing::HasSubstr;

class GpuDaemonTest : public DaemonTest {
 protected:
  GpuDaemonTest() {
    config_.device = DaemonConfig::Device::kCuda;
    config_.gpu_plugin = FAKE_PLUGIN;
    config_.metrics.address = "127.0.0.1:0";
  }
  void Start() {
    StartDaemon();
    ASSERT_NE(daemon_, nullptr);
    void* plugin = dlopen(FAKE_PLUGIN, RTLD_NOW);
    device_ = reinterpret_cast<gpu::FakeDevice* (*)()>(dlsym(plugin, "kvstow_fake_device"))();
    worker_ = std::make_unique<RawWorker>(target());
    worker_->OpenSmall();
    for (size_t b = 0; b < keys_.size(); ++b) blocks_.push_back(MakeBlock(SmallLayout(), b));
  }
  void TearDown() override {
    worker_.reset();
    daemon_.reset();
  }
  std::string Scrape() {
    httplib::Client http(absl::StrCat("http://", daemon_->metrics_address()));
    const auto response = http.Get("/metrics");
    return response ? response->body : "";
  }
  // Exit code of `kvstow health --service=kvstow.gpu`, as a probe sees it.
  int GpuHealth() const {
    Process tool({KVSTOW, "health", "--service=kvstow.gpu", "--target=" + target()});
    return tool.Wait();
  }
  void PutAll() {
    const auto put = worker_->Put(keys_, blocks_);
    ASSERT_TRUE(put.status.ok()) << put.status.error_message();
    ASSERT_EQ(worker_->Lookup(keys_), keys_.size());
  }
  void ExpectAllThere() {
    const auto get = worker_->Get(keys_);
    ASSERT_TRUE(get.status.ok()) << get.status.error_message();
    ASSERT_EQ(get.planes.size(), keys_.size() * SmallLayout().planes().size());
    EXPECT_EQ(get.damage.size(), 0u);
    const auto& [where, values] = *get.planes.begin();
    EXPECT_LT(Nmse(blocks_[0][0], std::as_bytes(std::span(values))), 0.2);
  }

  gpu::FakeDevice* device_ = nullptr;
  const std::vector<BlockKey> keys_ = SmallKeys(3);
  std::vector<Planes> blocks_;
  std::unique_ptr<RawWorker> worker_;
};

TEST_F(GpuDaemonTest, UsesTheGpuAndSaysSo) {
  Start();
  PutAll();
  ExpectAllThere();
  EXPECT_EQ(GpuHealth(), 0);
  const std::string text = Scrape();
  const size_t raw = keys_.size() * SmallLayout().raw_bytes();
  EXPECT_THAT(text, HasSubstr(absl::StrCat(
                        "kvstow_codec_bytes_total{device=\"cuda\",direction=\"encode\"} ", raw)));
  EXPECT_THAT(text, HasSubstr("kvstow_codec_bytes_total{device=\"cpu\",direction=\"encode\"} 0\n"));
  EXPECT_THAT(text, HasSubstr("kvstow_gpu_healthy 1\n"));
  EXPECT_THAT(text, HasSubstr("device=\"cuda\",version="));
}

TEST_F(GpuDaemonTest, BlocksOfTheHostTierOutliveTheDevice) {
  Start();
  PutAll();
  device_->Lose();
  ExpectAllThere();
  ASSERT_TRUE(worker_->Drop(keys_));
  PutAll();
  ExpectAllThere();
  const absl::Time deadline = absl::Now() + absl::Seconds(60);
  while (GpuHealth() == 0 && absl::Now() < deadline) {
  }
  EXPECT_EQ(GpuHealth(), 1) << "not serving";
  Process tool({KVSTOW, "health", "--target=" + target()});
  EXPECT_EQ(tool.Wait(), 0) << "the daemon itself goes on";
  const std::string text = Scrape();
  EXPECT_THAT(text, HasSubstr("kvstow_gpu_healthy 0\n"));
  // One, or two: a batch may be on each of the device's codecs when it goes.
  EXPECT_THAT(text, ::testing::ContainsRegex(
                        "kvstow_codec_failures_total.device=\"cuda\",permanent=\"true\". [12]\n"));
  EXPECT_THAT(text, ::testing::Not(HasSubstr("kvstow_cuda_errors_total 0\n")));
}

TEST_F(GpuDaemonTest, RecordsLieInTheGpuTier) {
  config_.gpu_tier_bytes = 16 << 20;
  Start();
  PutAll();
  ExpectAllThere();
  const std::string text = Scrape();
  EXPECT_THAT(text, HasSubstr("kvstow_tier_capacity_bytes{tier=\"gpu\"} 16777216\n"));
  EXPECT_THAT(text, HasSubstr("kvstow_tier_blocks{tier=\"gpu\"} 3\n"));
  EXPECT_THAT(text, HasSubstr("kvstow_tier_blocks{tier=\"host\"} 0\n"));
}

// What lay in the memory of a lost device is a miss, never garbage.
TEST_F(GpuDaemonTest, RecordsOfALostDeviceAreMissed) {
  config_.gpu_tier_bytes = 16 << 20;
  Start();
  PutAll();
  device_->Lose();
  const auto get = worker_->Get(keys_);
  EXPECT_TRUE(get.status.ok()) << get.status.error_message();
  EXPECT_EQ(get.planes.size(), 0u);
  // Told as damaged, or gone already when the daemon noticed before the Get came.
  EXPECT_THAT(get.damage.size(), ::testing::AnyOf(0, keys_.size()));
  const absl::Time deadline = absl::Now() + absl::Seconds(60);
  while (worker_->Lookup(keys_) > 0 && absl::Now() < deadline) {
  }
  EXPECT_EQ(worker_->Lookup(keys_), 0u);
  // What is put from now on stays in host memory.
  PutAll();
  ExpectAllThere();
  EXPECT_THAT(Scrape(), HasSubstr("kvstow_tier_blocks{tier=\"host\"} 3\n"));
}

TEST_F(GpuDaemonTest, StartsWithoutAGpuTierThatCannotBeHad) {
  config_.gpu_tier_bytes = uint64_t{1} << 43;  // more than the fake device has
  Start();
  PutAll();
  ExpectAllThere();
  EXPECT_THAT(Scrape(), HasSubstr("kvstow_tier_blocks{tier=\"host\"} 3\n"));
}

TEST_F(GpuDaemonTest, AskedForAGpuThatIsNotThereItDoesNotStart) {
  config_.device_index = 5;
  const auto daemon = Daemon::Start(config_);
  ASSERT_FALSE(daemon.ok());
  EXPECT_THAT(std::string(daemon.status().message()), HasSubstr("the fake plugin has one device"));
}

TEST_F(GpuDaemonTest, LeftToItselfItGoesOnWithTheCpu) {
  config_.device = DaemonConfig::Device::kAuto;
  config_.gpu_plugin = "/nonexistent/libkvstow_gpu.so";
  StartDaemon();
  worker_ = std::make_unique<RawWorker>(target());
  worker_->OpenSmall();
  EXPECT_EQ(worker_->Lookup(keys_), 0u);
  EXPECT_EQ(GpuHealth(), 1) << "no such service";
  EXPECT_THAT(Scrape(), HasSubstr("kvstow_gpu_healthy 0\n"));
}

}  // namespace
}  // namespace kvstow::testing
