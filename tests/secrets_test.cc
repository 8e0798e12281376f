// What nobody may read in logs and metrics: keys, tokens, certificates, passwords, KV. A daemon
// that logs all it can is called well and badly; then its log, its metrics and what it refuses with
// are searched for all of them.
#include <algorithm>
#include <fstream>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "client/channel.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "httplib.h"
#include "server/auth/testing/certificates.h"
#include "tests/testing/bare_connection.h"
#include "tests/testing/eventually.h"
#include "tests/testing/kv_data.h"
#include "tests/testing/process.h"
#include "tests/testing/raw_worker.h"
#include "tests/testing/temp_dir.h"

namespace kvstow::testing {
namespace {

using ::testing::HasSubstr;

constexpr char kToken[] = "token-of-a-0123456789abcdef";
constexpr char kWrongToken[] = "token-that-is-nobodys-0123456789";
constexpr char kNewToken[] = "token-too-late-0123456789abcdef";
constexpr char kPassword[] = "password-of-prometheus-0123456789";
constexpr char kKvText[] = "KV-that-is-a-prompt-0123456789ab";  // 32 bytes

class SecretsTest : public ::testing::Test {
 protected:
  SecretsTest() {
    authority_.WriteCertificate(File("ca"));
    authority_.Issue({"kvstowd", "DNS:localhost,IP:127.0.0.1"}, File("daemon"), File("daemon.key"));
    authority_.Issue({"nobody", "URI:spiffe://test/nobody"}, File("nobody"), File("nobody.key"));
    Write("metrics.pem", ReadFile(File("daemon")) + ReadFile(File("daemon.key")));
    Write("a.token", kToken);
    Write("wrong.token", kWrongToken);
    Write("password", kPassword);
    Write("config", absl::StrCat(R"(
        unix_socket: ")",
                                 File("d.sock"), R"("
        tcp: "127.0.0.1:0"
        tls { certificate: ")",
                                 File("daemon"), R"(" key: ")", File("daemon.key"),
                                 R"(" client_ca: ")", File("ca"), R"(" }
        tenant { name: "a" token_file: ")",
                                 File("a.token"), R"(" admin: true }
        metrics: "127.0.0.1:0"
        metrics_security { certificate: ")",
                                 File("metrics.pem"), R"(" user: "prometheus"
                           password_file: ")",
                                 File("password"), R"(" }
        host_tier: "64MiB" device: "cpu" log_level: "trace" slow_call_ms: 1)"));
  }

  std::string File(const std::string& name) const { return dir_.path() + "/" + name; }
  void Write(const std::string& name, const std::string& text) const {
    std::ofstream(File(name) + ".new") << text;
    ASSERT_EQ(rename((File(name) + ".new").c_str(), File(name).c_str()), 0);
  }

  void Start() {
    daemon_ = std::make_unique<Process>(
        std::vector<std::string>{KVSTOWD, "--config=" + File("config")}, File("log"));
    ASSERT_TRUE(Eventually([&] { return Connect("unix:" + File("d.sock")); }))
        << ReadFile(File("log"));
    ASSERT_TRUE(Eventually([&] { return !MetricsAddress().empty(); })) << ReadFile(File("log"));
  }
  std::string MetricsAddress() const {
    const std::string log = ReadFile(File("log"));
    const size_t at = log.find(" metrics=");
    if (at == std::string::npos) return "";
    return log.substr(at + 9, log.find('\n', at) - at - 9);
  }
  std::string Scrape(const std::string& password) const {
    httplib::Client http("https://" + MetricsAddress());
    http.enable_server_certificate_verification(false);
    http.set_basic_auth("prometheus", password);
    const auto response = http.Get("/metrics");
    EXPECT_TRUE(response) << httplib::to_string(response.error());
    return response ? response->body : "";
  }
  grpc::Status Stats(const ClientSecurity& security, const std::string& target) const {
    const auto stub = v1::Kvstow::NewStub(client::MakeChannel(target, security));
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(20));
    v1::StatsResponse response;
    return stub->Stats(&context, {}, &response);
  }

  // Every call, some of them not as they should be.
  void CallWellAndBadly() {
    const std::string target = "unix:" + File("d.sock");
    RawWorker worker(client::MakeChannel(target, {.token_file = File("a.token")}));
    worker.OpenSmall();
    Planes block = MakeBlock(SmallLayout(), 1);
    for (auto& plane : block) {
      for (size_t at = 0; at + 32 <= plane.size(); at += 64) {
        std::copy_n(reinterpret_cast<const std::byte*>(kKvText), 32, plane.begin() + at);
      }
    }
    ASSERT_TRUE(worker.Put(keys_, {block}).status.ok());
    EXPECT_EQ(worker.Lookup(keys_, 1000), 1u);
    EXPECT_TRUE(worker.Get(keys_).status.ok());
    EXPECT_TRUE(worker.Get(keys_, v1::FORM_ENCODED).status.ok());
    worker.Inspect(keys_[0]);
    Refused(Stats({.token_file = File("wrong.token")}, target));
    Refused(Stats({}, target));
    // A Put that ends in the middle of a plane, and one that says what cannot be.
    for (const uint32_t offset : {0u, 7u}) {
      auto context = worker.Context();
      auto stream = worker.stub().Put(context.get());
      stream->Write(worker.Announce(SmallKeys(1, 5)));
      v1::PutResponse response;
      stream->Read(&response);
      stream->Write(RawWorker::ChunkOf(0, v1::PLANE_K, 0, offset, 32 << 10, kKvText));
      stream->WritesDone();
      while (stream->Read(&response)) {
      }
      Refused(stream->Finish());
    }
    {
      auto context = worker.Context();
      auto stream = worker.stub().Put(context.get());
      v1::PutRequest odd = worker.Announce(keys_);
      odd.mutable_announce()->mutable_blocks(0)->mutable_key()->append("more");
      stream->Write(odd);
      v1::PutResponse response;
      while (stream->Read(&response)) {
      }
      Refused(stream->Finish());
    }
    EXPECT_EQ(worker.Drop(keys_), 1u);
    // Bytes that are no HTTP/2, and a certificate of no tenant over TCP.
    const OwnedFd stray = Connect(target);
    Say(stray, absl::StrCat("GET /", kWrongToken, " HTTP/1.1\r\n\r\n"));
    const std::vector<int> ports = ListeningPorts(daemon_->pid());
    for (int port : ports) {
      if (absl::StrCat("127.0.0.1:", port) == MetricsAddress()) continue;
      Refused(Stats({.ca_file = File("ca"),
                     .certificate_file = File("nobody"),
                     .key_file = File("nobody.key")},
                    absl::StrCat("127.0.0.1:", port)));
    }
    EXPECT_THAT(Scrape("not-" + std::string(kPassword)), ::testing::Not(HasSubstr("kvstow_calls")));
    // A token file that cannot be used any more: two tokens, one of them too short.
    Write("a.token", absl::StrCat(kNewToken, "\nshort-secret\n"));
    EXPECT_TRUE(Eventually([&] {
      return ReadFile(File("log")).find("keeps the tokens it has") != std::string::npos;
    })) << ReadFile(File("log"));
  }
  void Refused(const grpc::Status& status) {
    EXPECT_FALSE(status.ok());
    refusals_ += status.error_message() + "\n";
  }

  // As they are, and as programs write them.
  std::vector<std::string> Secrets() const {
    std::vector<std::string> secrets = {kToken,    kWrongToken,    kNewToken,
                                        kPassword, "short-secret", kKvText};
    for (const BlockKey& key : keys_) secrets.push_back(KeyBytes(key));
    const std::vector<std::string> plain = secrets;
    for (const std::string& text : plain) {
      secrets.push_back(absl::BytesToHexString(text));
      secrets.push_back(absl::Base64Escape(text).substr(0, 4 * (text.size() / 3)));
      secrets.push_back(absl::CHexEscape(text));
      secrets.push_back(absl::CEscape(text));
    }
    for (const char* file : {"ca", "daemon", "daemon.key", "nobody", "nobody.key"}) {
      for (absl::string_view line : absl::StrSplit(ReadFile(File(file)), '\n')) {
        if (line.size() > 40) secrets.emplace_back(line);
      }
    }
    return secrets;
  }
  void ExpectNoSecret(const std::string& where, const std::string& text) const {
    for (const std::string& secret : Secrets()) {
      EXPECT_EQ(text.find(secret), std::string::npos)
          << absl::CEscape(secret) << " is in " << where << ":\n"
          << text;
    }
  }

  const TempDir dir_;
  const Authority authority_{"test authority"};
  const std::vector<BlockKey> keys_ = SmallKeys(1);
  std::unique_ptr<Process> daemon_;
  std::string refusals_;
};

TEST_F(SecretsTest, AreInNoLogMetricOrRefusal) {
  Start();
  CallWellAndBadly();
  const std::string metrics = Scrape(kPassword);
  daemon_->Signal(SIGTERM);
  EXPECT_EQ(daemon_->Wait(), 0);
  const std::string log = ReadFile(File("log"));
  EXPECT_THAT(metrics, HasSubstr("kvstow_calls_total{code=\"OK\",method=\"Put\"}"));
  EXPECT_THAT(log, HasSubstr("method=Put")) << "slow calls are logged";
  EXPECT_THAT(log, HasSubstr("kvstowd stopped"));
  EXPECT_GT(refusals_.size(), 100u);
  ExpectNoSecret("the log", log);
  ExpectNoSecret("the metrics", metrics);
  ExpectNoSecret("what was refused", refusals_);
}

// Nor in what is said of files that cannot be used.
TEST_F(SecretsTest, AreNotInWhatIsSaidOfAWrongConfiguration) {
  Write("a.token", absl::StrCat(kToken, "\nshort-secret\n"));
  Process tokens({KVSTOWD, "--config=" + File("config"), "--check_config"}, File("log"));
  EXPECT_EQ(tokens.Wait(), 78);
  EXPECT_THAT(ReadFile(File("log")), HasSubstr("a.token"));
  ExpectNoSecret("the log", ReadFile(File("log")));
  Write("a.token", kToken);
  Write("daemon.key", ReadFile(File("nobody.key")));
  Process keys({KVSTOWD, "--config=" + File("config"), "--check_config"}, File("log"));
  EXPECT_EQ(keys.Wait(), 78);
  EXPECT_THAT(ReadFile(File("log")), HasSubstr("daemon.key"));
  ExpectNoSecret("the log", ReadFile(File("log")));
}

}  // namespace
}  // namespace kvstow::testing
