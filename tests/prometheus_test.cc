// A real Prometheus scrapes a real daemon and is asked what it saw; promtool finds nothing to say.
#include <fstream>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "httplib.h"
#include "server/auth/testing/certificates.h"
#include "staging/shared_region.h"
#include "tests/testing/daemon_fixture.h"
#include "tests/testing/kv_data.h"
#include "tests/testing/process.h"
#include "tests/testing/raw_worker.h"

namespace kvstow::testing {
namespace {

using ::testing::HasSubstr;

class PrometheusTest : public DaemonTest {
 protected:
  void SetUp() override {
    config_.metrics.address = "127.0.0.1:0";
    StartDaemon();
    worker_ = std::make_unique<RawWorker>(target());
    worker_->OpenSmall();
    std::vector<Planes> blocks;
    for (int i = 0; i < 3; ++i) blocks.push_back(MakeBlock(SmallLayout(), i));
    ASSERT_TRUE(worker_->Put(SmallKeys(3), blocks).status.ok());
    EXPECT_EQ(worker_->Lookup(SmallKeys(3), 1000), 3u);
    EXPECT_EQ(worker_->Lookup(SmallKeys(2, 9), 1000), 0u);
    EXPECT_TRUE(worker_->Get(SmallKeys(3)).status.ok());
  }
  void TearDown() override {
    worker_.reset();
    daemon_.reset();
  }
  std::string Scrape() {
    httplib::Client http(absl::StrCat("http://", daemon_->metrics_address()));
    const auto response = http.Get("/metrics");
    EXPECT_TRUE(response) << httplib::to_string(response.error());
    return response ? response->body : "";
  }
  std::unique_ptr<RawWorker> worker_;
};

TEST_F(PrometheusTest, ScrapeTellsWhatHappened) {
  const std::string text = Scrape();
  EXPECT_THAT(text, HasSubstr("kvstow_tier_blocks{tier=\"host\"} 3\n"));
  EXPECT_THAT(text, HasSubstr("kvstow_tier_capacity_bytes{tier=\"host\"} 67108864\n"));
  EXPECT_THAT(text, HasSubstr("result=\"hit\",tenant=\"default\"} 384\n"));
  EXPECT_THAT(text, HasSubstr("result=\"miss\",tenant=\"default\"} 256\n"));
  EXPECT_THAT(text, HasSubstr("kvstow_relative_error_count{plane=\"k\"} 3\n"));
  EXPECT_THAT(text, HasSubstr("kvstow_sessions 1\n"));
  EXPECT_THAT(text, HasSubstr("kvstow_build_info{"));
  EXPECT_THAT(text, HasSubstr("kvstow_calls_total{code=\"OK\",method=\"Put\"} 1\n"));
  // Nothing has been refused or damaged, and the series say so instead of being absent.
  EXPECT_THAT(text,
              HasSubstr("kvstow_refused_blocks_total{reason=\"full\",tenant=\"default\"} 0\n"));
  EXPECT_THAT(text, HasSubstr("kvstow_checksum_failures_total{tier=\"host\"} 0\n"));
}

using MetricsListenerTest = DaemonTest;

TEST_F(MetricsListenerTest, MetricsCanAskForAPassword) {
  config_.metrics = {.address = "127.0.0.1:0", .user = "prometheus", .password = "secret"};
  StartDaemon();
  httplib::Client http(absl::StrCat("http://", daemon_->metrics_address()));
  EXPECT_EQ(http.Get("/metrics")->status, 401);
  http.set_basic_auth("prometheus", "wrong!");
  EXPECT_EQ(http.Get("/metrics")->status, 401);
  http.set_basic_auth("prometheus", "secret");
  EXPECT_EQ(http.Get("/metrics")->status, 200);
}

TEST_F(MetricsListenerTest, MetricsCanBeServedOverTls) {
  const Authority authority("test");
  const std::string certificate = dir_.path() + "/pem", key = dir_.path() + "/key",
                    ca = dir_.path() + "/ca";
  authority.Issue({"kvstowd", "IP:127.0.0.1"}, certificate, key);
  authority.WriteCertificate(ca);
  std::ofstream(certificate, std::ios::app) << std::ifstream(key).rdbuf();
  config_.metrics = {.address = "127.0.0.1:0", .certificate = certificate};
  StartDaemon();
  httplib::Client https(absl::StrCat("https://", daemon_->metrics_address()));
  https.set_ca_cert_path(ca.c_str());
  const auto answer = https.Get("/metrics");
  ASSERT_TRUE(answer) << httplib::to_string(answer.error());
  EXPECT_EQ(answer->status, 200);
  EXPECT_THAT(answer->body, HasSubstr("kvstow_build_info"));
  httplib::Client http(absl::StrCat("http://", daemon_->metrics_address()));
  const auto refused = http.Get("/metrics");
  EXPECT_FALSE(refused && refused->status == 200) << "in clear";
}

// A renewed certificate is shown from the next connection on.
TEST_F(MetricsListenerTest, TheMetricsCertificateIsRenewed) {
  const std::string certificate = dir_.path() + "/pem", key = dir_.path() + "/key",
                    ca = dir_.path() + "/ca";
  const auto issue = [&](const Authority& authority) {
    authority.Issue({"kvstowd", "IP:127.0.0.1"}, certificate, key);
    authority.WriteCertificate(ca);
    std::ofstream(certificate, std::ios::app) << std::ifstream(key).rdbuf();
  };
  issue(Authority("before"));
  config_.metrics = {.address = "127.0.0.1:0", .certificate = certificate};
  StartDaemon();
  issue(Authority("after"));
  httplib::Client https(absl::StrCat("https://", daemon_->metrics_address()));
  https.set_ca_cert_path(ca.c_str());
  EXPECT_TRUE(https.Get("/metrics"));
}

TEST_F(MetricsListenerTest, MetricsDoNotShareAPort) {
  config_.metrics = {.address = "127.0.0.1:0"};
  StartDaemon();
  config_.metrics.address = daemon_->metrics_address();
  config_.rpc.unix_socket += "2";
  const auto second = Daemon::Start(config_);
  ASSERT_FALSE(second.ok());
  EXPECT_THAT(std::string(second.status().message()), HasSubstr("Is the port taken?"));
}

// More scrapers than there are threads ask and do not read: the next one waits for them a few
// seconds at most, and so does the end.
TEST_F(MetricsListenerTest, ScrapesThatNeverEnd) {
  config_.metrics = {.address = "127.0.0.1:0"};
  StartDaemon();
  const std::string address = daemon_->metrics_address();
  const int port = std::stoi(address.substr(address.rfind(':') + 1));
  std::vector<OwnedFd> stuck;
  for (int i = 0; i < 6; ++i) {
    stuck.emplace_back(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_in to{};
    to.sin_family = AF_INET;
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    to.sin_port = htons(static_cast<uint16_t>(port));
    ASSERT_EQ(connect(stuck.back().get(), reinterpret_cast<sockaddr*>(&to), sizeof(to)), 0);
    // Half a request.
    ASSERT_EQ(write(stuck.back().get(), "GET /metrics HT", 15), 15);
  }
  httplib::Client http(absl::StrCat("http://", address));
  http.set_read_timeout(60);
  const auto answer = http.Get("/metrics");
  ASSERT_TRUE(answer) << httplib::to_string(answer.error());
  EXPECT_EQ(answer->status, 200);
}

TEST_F(PrometheusTest, PromtoolHasNothingToSay) {
  if (!IsInPath("promtool")) GTEST_SKIP() << "promtool is not installed (Debian: prometheus)";
  const std::string metrics = dir_.path() + "/metrics", said = dir_.path() + "/said";
  std::ofstream(metrics) << Scrape();
  Process promtool({"promtool", "check", "metrics"}, said, metrics);
  EXPECT_EQ(promtool.Wait(), 0);
  EXPECT_EQ(ReadFile(said), "");
}

// Asks until there is an answer; each try is a round trip, and all together are bounded.
std::string Query(int port, const std::string& query, const std::string& wanted) {
  httplib::Client http(absl::StrCat("http://127.0.0.1:", port));
  std::string last;
  const absl::Time deadline = absl::Now() + absl::Seconds(60);
  while (absl::Now() < deadline) {
    const auto response =
        http.Get("/api/v1/query", httplib::Params{{"query", query}}, httplib::Headers{});
    if (response) last = response->body;
    if (last.find(wanted) != std::string::npos) break;
  }
  return last;
}

int WaitForPort(const Process& process) {
  const absl::Time deadline = absl::Now() + absl::Seconds(60);
  while (absl::Now() < deadline) {
    if (const auto ports = ListeningPorts(process.pid()); !ports.empty()) return ports.front();
  }
  return 0;
}

TEST_F(PrometheusTest, RealPrometheusAnswersQueries) {
  if (!IsInPath("prometheus")) GTEST_SKIP() << "prometheus is not installed (Debian: prometheus)";
  const std::string config = dir_.path() + "/prometheus.yml", log = dir_.path() + "/log";
  std::ofstream(config) << "global: {scrape_interval: 1s}\n"
                        << "scrape_configs:\n- job_name: kvstow\n  static_configs:\n"
                        << "  - targets: ['" << daemon_->metrics_address() << "']\n";
  Process prometheus(
      {"prometheus", "--config.file=" + config, "--storage.tsdb.path=" + dir_.path() + "/tsdb",
       "--web.listen-address=127.0.0.1:0"},
      log);
  const int port = WaitForPort(prometheus);
  ASSERT_NE(port, 0) << ReadFile(log);
  EXPECT_THAT(Query(port, "kvstow_tier_blocks{tier=\"host\"}", "\"3\""), HasSubstr("\"3\""));
  // The hit rate in tokens, as a dashboard asks for it.
  const std::string hit_rate =
      "sum(kvstow_lookup_tokens_total{result=\"hit\"}) / sum(kvstow_lookup_tokens_total)";
  EXPECT_THAT(Query(port, hit_rate, "\"0.6\""), HasSubstr("\"0.6\""));
  EXPECT_THAT(Query(port, "up{job=\"kvstow\"}", "\"1\""), HasSubstr("\"1\""));
  const std::string bits = "8 * kvstow_record_bytes_total / kvstow_record_entries_total > 2 < 4";
  EXPECT_THAT(Query(port, bits, "default"), HasSubstr("default"));
  prometheus.Signal(SIGTERM);
  EXPECT_EQ(prometheus.Wait(), 0);
}

}  // namespace
}  // namespace kvstow::testing
