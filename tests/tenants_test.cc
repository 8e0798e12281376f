// Tenants beside each other in one daemon: what is another's looks like what is not there, whatever
// the call, and nobody takes more than is theirs.
#include <sys/resource.h>
#include <unistd.h>

#include <fstream>
#include <set>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "client/channel.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "staging/side_channel.h"
#include "tests/testing/bare_connection.h"
#include "tests/testing/daemon_fixture.h"
#include "tests/testing/kv_data.h"
#include "tests/testing/raw_worker.h"

namespace kvstow::testing {
namespace {

using ::testing::HasSubstr;

constexpr char kTokenA[] = "token-of-a-0123456789abcdef";
constexpr char kTokenB[] = "token-of-b-0123456789abcdef";

class TenantsTest : public DaemonTest {
 protected:
  TenantsTest() {
    WriteToken("a", kTokenA);
    WriteToken("b", kTokenB);
    config_.tenants = {{.name = "a", .token_file = TokenFile("a"), .admin = true},
                       {.name = "b", .token_file = TokenFile("b"), .admin = false}};
    config_.store.quotas.resize(2);
    config_.rpc.tenants.resize(2);
    config_.limits.tenant_sessions.resize(2);
  }

  std::string TokenFile(const std::string& tenant) const { return dir_.path() + "/" + tenant; }
  // Whole or not at all, as Kubernetes does it.
  void WriteToken(const std::string& tenant, const std::string& text) const {
    std::ofstream(TokenFile(tenant) + ".new") << text << "\n";
    ASSERT_EQ(rename((TokenFile(tenant) + ".new").c_str(), TokenFile(tenant).c_str()), 0);
  }
  std::shared_ptr<grpc::Channel> Channel(const std::string& tenant) const {
    ClientSecurity security;
    if (!tenant.empty()) security.token_file = TokenFile(tenant);
    return client::MakeChannel(target(), security);
  }
  std::unique_ptr<RawWorker> Worker(const std::string& tenant) const {
    auto worker = std::make_unique<RawWorker>(Channel(tenant));
    worker->OpenSmall();
    return worker;
  }
  static std::vector<Planes> Blocks(size_t n) {
    std::vector<Planes> blocks;
    for (size_t i = 0; i < n; ++i) blocks.push_back(MakeBlock(SmallLayout(), i));
    return blocks;
  }

  // Every call of the API but Session and Stats, which name no session, with a session and a space
  // that may be anybody's.
  struct Credentials {
    std::string session;
    uint64_t space;
  };
  struct Outcome {
    std::string method;
    grpc::Status status;
    std::string answer;  // serialized, where there is one
  };
  static std::vector<Outcome> CallAll(grpc::Channel& channel, const Credentials& as,
                                      const BlockKey& key, uint64_t lease) {
    std::vector<Outcome> out;
    const auto stub =
        v1::Kvstow::NewStub(std::shared_ptr<grpc::Channel>(&channel, [](grpc::Channel*) {}));
    const auto unary = [&](const char* method, auto call, auto request, auto response) {
      grpc::ClientContext context;
      context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(20));
      request.set_session_id(as.session);
      const grpc::Status status = call(&context, request, &response);
      out.push_back({method, status, response.SerializeAsString()});
    };
    v1::OpenSpaceRequest open;
    *open.mutable_spec() = SmallSpec();
    unary(
        "OpenSpace", [&](auto... a) { return stub->OpenSpace(a...); }, open,
        v1::OpenSpaceResponse());
    v1::LookupRequest lookup;
    lookup.set_space(as.space);
    lookup.set_keys(KeyBytes(key));
    lookup.set_ttl_ms(1000);
    unary(
        "Lookup", [&](auto... a) { return stub->Lookup(a...); }, lookup, v1::LookupResponse());
    v1::PrefetchRequest prefetch;
    prefetch.set_space(as.space);
    prefetch.set_keys(KeyBytes(key));
    unary(
        "Prefetch", [&](auto... a) { return stub->Prefetch(a...); }, prefetch,
        v1::PrefetchResponse());
    v1::ReleaseRequest release;
    release.add_leases(lease);
    v1::RenewRequest renew;
    renew.add_leases(lease);
    renew.set_ttl_ms(1000);
    unary(
        "Renew", [&](auto... a) { return stub->Renew(a...); }, renew, v1::RenewResponse());
    unary(
        "Release", [&](auto... a) { return stub->Release(a...); }, release, v1::ReleaseResponse());
    v1::InspectRequest inspect;
    inspect.set_space(as.space);
    inspect.set_key(KeyBytes(key));
    unary(
        "Inspect", [&](auto... a) { return stub->Inspect(a...); }, inspect, v1::InspectResponse());
    v1::DropRequest drop;
    drop.set_space(as.space);
    drop.set_keys(KeyBytes(key));
    unary(
        "Drop", [&](auto... a) { return stub->Drop(a...); }, drop, v1::DropResponse());
    drop.clear_keys();
    drop.set_all(true);
    unary(
        "DropAll", [&](auto... a) { return stub->Drop(a...); }, drop, v1::DropResponse());
    out.push_back(Get(*stub, as, key));
    out.push_back(Put(*stub, as, key));
    out.push_back(Watch(*stub, as));
    return out;
  }
  static Outcome Watch(v1::Kvstow::Stub& stub, const Credentials& as) {
    grpc::ClientContext context;
    v1::WatchRequest request;
    request.set_session_id(as.session);
    request.set_space(as.space);
    const auto stream = stub.Watch(&context, request);
    Outcome out{"Watch", {}, ""};
    v1::WatchEvent event;
    if (stream->Read(&event)) {
      out.answer = event.SerializeAsString();
      context.TryCancel();  // it goes on for ever
    }
    out.status = stream->Finish();
    return out;
  }
  static Outcome Get(v1::Kvstow::Stub& stub, const Credentials& as, const BlockKey& key) {
    grpc::ClientContext context;
    const auto stream = stub.Get(&context);
    v1::GetRequest request;
    request.mutable_open()->set_session_id(as.session);
    request.mutable_open()->set_space(as.space);
    request.mutable_open()->set_keys(KeyBytes(key));
    stream->Write(request);
    stream->WritesDone();
    Outcome out{"Get", {}, ""};
    v1::GetResponse response;
    while (stream->Read(&response)) out.answer += response.SerializeAsString();
    out.status = stream->Finish();
    return out;
  }
  static Outcome Put(v1::Kvstow::Stub& stub, const Credentials& as, const BlockKey& key) {
    grpc::ClientContext context;
    const auto stream = stub.Put(&context);
    v1::PutRequest request;
    v1::PutRequest::Announce* announce = request.mutable_announce();
    announce->set_session_id(as.session);
    announce->set_space(as.space);
    announce->add_blocks()->set_key(KeyBytes(key));
    stream->Write(request);
    Outcome out{"Put", {}, ""};
    v1::PutResponse response;
    if (stream->Read(&response)) {
      out.answer = response.SerializeAsString();
      context.TryCancel();  // it waits for the blocks
    }
    out.status = stream->Finish();
    return out;
  }
};

// So a call that is added is tried as another tenant, too.
TEST_F(TenantsTest, EveryCallIsTried) {
  StartDaemon();
  const auto channel = Channel("b");
  std::set<std::string> tried = {"Session", "Stats"};
  for (const Outcome& outcome : CallAll(*channel, {}, SmallKeys(1)[0], 1)) {
    tried.insert(outcome.method);
  }
  const auto* service = v1::PutRequest::descriptor()->file()->FindServiceByName("Kvstow");
  ASSERT_NE(service, nullptr);
  for (int i = 0; i < service->method_count(); ++i) {
    EXPECT_EQ(tried.count(service->method(i)->name()), 1u) << service->method(i)->name();
  }
}

TEST_F(TenantsTest, NobodysCallsAreRefused) {
  StartDaemon();
  const auto nobody = Channel("");
  const auto stub = v1::Kvstow::NewStub(nobody);
  grpc::ClientContext session_context;
  v1::SessionEvent event;
  EXPECT_FALSE(stub->Session(&session_context, v1::SessionRequest())->Read(&event));
  auto a = Worker("a");
  ASSERT_TRUE(a->Put(SmallKeys(1), Blocks(1)).status.ok());
  for (const Outcome& outcome : CallAll(*nobody, {a->session(), a->space()}, SmallKeys(1)[0], 1)) {
    EXPECT_EQ(outcome.status.error_code(), grpc::StatusCode::UNAUTHENTICATED) << outcome.method;
    EXPECT_THAT(outcome.status.error_message(), HasSubstr("bearer token")) << outcome.method;
    EXPECT_EQ(outcome.answer, "") << outcome.method;
  }
  grpc::ClientContext stats_context;
  v1::StatsResponse stats;
  EXPECT_EQ(stub->Stats(&stats_context, {}, &stats).error_code(),
            grpc::StatusCode::UNAUTHENTICATED);
  EXPECT_EQ(a->Lookup(SmallKeys(1)), 1u) << "it is all there still";
}

// The session of another tenant is no session at all, to the last letter of the answer.
TEST_F(TenantsTest, AForeignSessionIsNone) {
  StartDaemon();
  auto a = Worker("a"), b = Worker("b");
  ASSERT_TRUE(a->Put(SmallKeys(1), Blocks(1)).status.ok());
  uint64_t lease = 0;
  ASSERT_EQ(a->Lookup(SmallKeys(1), 60'000, &lease), 1u);
  const auto channel = Channel("b");
  const BlockKey key = SmallKeys(1)[0];
  const auto foreign = CallAll(*channel, {a->session(), a->space()}, key, lease);
  const auto unknown = CallAll(*channel, {std::string(16, 'x'), a->space()}, key, lease);
  ASSERT_EQ(foreign.size(), unknown.size());
  for (size_t i = 0; i < foreign.size(); ++i) {
    EXPECT_EQ(foreign[i].status.error_code(), grpc::StatusCode::FAILED_PRECONDITION)
        << foreign[i].method;
    EXPECT_EQ(foreign[i].status.error_message(), unknown[i].status.error_message());
    EXPECT_EQ(foreign[i].answer, unknown[i].answer) << foreign[i].method;
  }
  // And a space handle is the session's own.
  for (const Outcome& outcome : CallAll(*channel, {b->session(), a->space()}, key, lease)) {
    if (outcome.method == "OpenSpace" || outcome.method == "Renew" || outcome.method == "Release") {
      continue;
    }
    EXPECT_EQ(outcome.status.error_code(), grpc::StatusCode::FAILED_PRECONDITION) << outcome.method;
  }
  uint64_t again = 0;
  EXPECT_EQ(a->Lookup(SmallKeys(1), 60'000, &again), 1u);
}

// So is a block: the same model, the same prompt, and not there.
TEST_F(TenantsTest, AForeignKeyIsUnknown) {
  StartDaemon();
  auto a = Worker("a"), b = Worker("b");
  const auto keys = SmallKeys(1);
  ASSERT_TRUE(a->Put(keys, Blocks(1)).status.ok());
  uint64_t lease = 0;
  ASSERT_EQ(a->Lookup(keys, 60'000, &lease), 1u);
  const auto channel = Channel("b");
  const auto foreign = CallAll(*channel, {b->session(), b->space()}, keys[0], lease);
  const auto unknown = CallAll(*channel, {b->session(), b->space()}, SmallKeys(1, 77)[0], 12345);
  for (size_t i = 0; i < foreign.size(); ++i) {
    if (foreign[i].method == "OpenSpace") continue;
    EXPECT_EQ(foreign[i].status.error_code(), unknown[i].status.error_code()) << foreign[i].method;
    EXPECT_EQ(foreign[i].answer, unknown[i].answer) << foreign[i].method;
  }
  EXPECT_EQ(a->Lookup(keys), 1u);
  // B's Put of the same block is its own.
  ASSERT_TRUE(b->Put(keys, Blocks(1)).status.ok());
  EXPECT_EQ(b->Drop(keys), 1u);
  EXPECT_EQ(a->Lookup(keys), 1u);
}

TEST_F(TenantsTest, WatchersSeeTheirOwn) {
  StartDaemon();
  auto a = Worker("a"), b = Worker("b");
  const auto watcher = Channel("b");
  const auto stub = v1::Kvstow::NewStub(watcher);
  grpc::ClientContext context;
  v1::WatchRequest request;
  request.set_session_id(b->session());
  request.set_space(b->space());
  const auto stream = stub->Watch(&context, request);
  v1::WatchEvent event;
  ASSERT_TRUE(stream->Read(&event));
  ASSERT_EQ(event.kind(), v1::WatchEvent::WATCHING);
  ASSERT_TRUE(a->Put(SmallKeys(1, 1), Blocks(1)).status.ok());
  ASSERT_TRUE(b->Put(SmallKeys(1, 2), Blocks(1)).status.ok());
  ASSERT_TRUE(stream->Read(&event));
  EXPECT_EQ(event.key(), KeyBytes(SmallKeys(1, 2)[0]));
}

TEST_F(TenantsTest, StatsAreForAdmins) {
  StartDaemon();
  const auto stats = [&](const std::string& tenant) {
    grpc::ClientContext context;
    v1::StatsResponse response;
    return v1::Kvstow::NewStub(Channel(tenant))->Stats(&context, {}, &response);
  };
  EXPECT_TRUE(stats("a").ok());
  const grpc::Status denied = stats("b");
  EXPECT_EQ(denied.error_code(), grpc::StatusCode::PERMISSION_DENIED);
  EXPECT_THAT(denied.error_message(), HasSubstr("admin: true"));
}

TEST_F(TenantsTest, TheUnixSocketMayStandForATenant) {
  config_.unix_tenant = "b";
  StartDaemon();
  auto b = Worker("b"), local = Worker("");
  ASSERT_TRUE(local->Put(SmallKeys(1), Blocks(1)).status.ok());
  EXPECT_EQ(b->Lookup(SmallKeys(1)), 1u);
  EXPECT_EQ(Worker("a")->Lookup(SmallKeys(1)), 0u);
}

TEST_F(TenantsTest, SharedMemoryIsForTheTenantsUsers) {
  config_.tenants[0].users = {getuid() + 1};
  StartDaemon();
  auto a = Worker("a"), b = Worker("b");
  const auto ask = [&](const RawWorker& worker) {
    StagingRequest request;
    std::copy_n(worker.session().begin(), request.session.size(), request.session.begin());
    request.bytes = 1 << 20;
    return RequestRegion(SideChannelPath(config_.rpc.unix_socket), request, absl::Seconds(20))
        .status();
  };
  const absl::Status refused = ask(*a);
  EXPECT_EQ(refused.code(), absl::StatusCode::kPermissionDenied);
  EXPECT_THAT(std::string(refused.message()), HasSubstr(absl::StrCat("user ", getuid())));
  EXPECT_TRUE(ask(*b).ok());
}

// A worker goes on while its token is replaced; the one before is worth nothing in the end.
TEST_F(TenantsTest, TokensRotateUnderLoad) {
  StartDaemon();
  auto worker = Worker("a");
  std::ofstream(TokenFile("old")) << kTokenA;
  const std::string fresh = "fresh-token-0123456789abcdef";
  WriteToken("a", fresh + "\n" + kTokenA);  // the client shows the first
  const absl::Time deadline = absl::Now() + absl::Seconds(60);
  const auto code = [&](const std::string& file) {
    grpc::ClientContext context;
    v1::StatsResponse response;
    return v1::Kvstow::NewStub(Channel(file))->Stats(&context, {}, &response).error_code();
  };
  while (code("a") != grpc::StatusCode::OK) ASSERT_LT(absl::Now(), deadline);
  EXPECT_EQ(code("old"), grpc::StatusCode::OK) << "both hold for a while";
  WriteToken("a", fresh);
  while (code("old") != grpc::StatusCode::UNAUTHENTICATED) {
    ASSERT_LT(absl::Now(), deadline);
    EXPECT_EQ(worker->Lookup(SmallKeys(1)), 0u);  // which must succeed
  }
  EXPECT_EQ(code("a"), grpc::StatusCode::OK);
}

TEST_F(TenantsTest, RequestsAreLimitedByRate) {
  config_.rpc.tenants[1].requests_per_second = 0.001;
  StartDaemon();
  const auto stub = v1::Kvstow::NewStub(Channel("b"));
  grpc::Status status;
  for (int i = 0; i < 2; ++i) {
    grpc::ClientContext context;
    v1::LookupResponse response;
    status = stub->Lookup(&context, {}, &response);
  }
  EXPECT_EQ(status.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_THAT(status.error_message(), HasSubstr("'b' is above its requests_per_second"));
  EXPECT_EQ(Worker("a")->Lookup(SmallKeys(1)), 0u) << "others are not concerned";
}

TEST_F(TenantsTest, StreamsAndSessionsAreLimited) {
  config_.rpc.tenants[1].streams = 1;
  config_.limits.tenant_sessions[1] = 2;
  StartDaemon();
  auto a = Worker("a"), b = Worker("b"), second = Worker("b");
  {
    const auto stub = v1::Kvstow::NewStub(Channel("b"));
    grpc::ClientContext context;
    const auto third = stub->Session(&context, v1::SessionRequest());
    v1::SessionEvent event;
    EXPECT_FALSE(third->Read(&event));
    EXPECT_THAT(third->Finish().error_message(), HasSubstr("sessions of this tenant"));
  }
  const auto stub = v1::Kvstow::NewStub(Channel("b"));
  grpc::ClientContext context;
  v1::WatchRequest request;
  request.set_session_id(b->session());
  request.set_space(b->space());
  const auto stream = stub->Watch(&context, request);
  v1::WatchEvent event;
  ASSERT_TRUE(stream->Read(&event));
  const auto refused = b->Get(SmallKeys(1));
  EXPECT_EQ(refused.status.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_THAT(refused.status.error_message(), HasSubstr("streams of this tenant"));
  EXPECT_TRUE(a->Get(SmallKeys(1)).status.ok());
  context.TryCancel();
  stream->Finish();
  // The daemon hears of it a little later.
  const absl::Time deadline = absl::Now() + absl::Seconds(60);
  while (!b->Get(SmallKeys(1)).status.ok()) ASSERT_LT(absl::Now(), deadline);
  second->EndSession();
  while (true) {
    const auto again = v1::Kvstow::NewStub(Channel("b"));
    grpc::ClientContext retry;
    const auto session = again->Session(&retry, v1::SessionRequest());
    if (session->Read(std::make_unique<v1::SessionEvent>().get())) {
      retry.TryCancel();
      break;
    }
    ASSERT_LT(absl::Now(), deadline);
  }
}

TEST_F(TenantsTest, BytesAreLimited) {
  config_.store.quotas[1].host_bytes = 100 << 10;
  StartDaemon();
  auto a = Worker("a"), b = Worker("b");
  uint64_t lease = 0;
  const auto put = b->Put(SmallKeys(8), Blocks(8), 0, {}, /*ttl_ms=*/60'000);
  ASSERT_TRUE(put.status.ok()) << put.status.error_message();
  const uint32_t stored = b->Lookup(SmallKeys(8), 60'000, &lease);
  EXPECT_GT(stored, 0u);
  EXPECT_LT(stored, 8u);
  EXPECT_GE(a->Stats().refused_blocks().at("quota"), 1u);
  // What it holds does not give way to more of it.
  const auto again = b->Put(SmallKeys(1, 5), Blocks(1));
  ASSERT_TRUE(again.status.ok()) << again.status.error_message();
  EXPECT_EQ(b->Lookup(SmallKeys(1, 5)), 0u);
  const auto more = a->Put(SmallKeys(8), Blocks(8));
  for (const auto& answer : more.answers) EXPECT_EQ(answer.refusal(), v1::REFUSAL_UNSPECIFIED);
}

// Connections that say nothing, or begin to and go no further, keep nobody out.
TEST_F(TenantsTest, SilentConnectionsKeepNobodyOut) {
  rlimit files{};
  getrlimit(RLIMIT_NOFILE, &files);
  files.rlim_cur = files.rlim_max;
  setrlimit(RLIMIT_NOFILE, &files);
  // Both ends are in this process.
  const size_t count = std::min<size_t>(1500, (files.rlim_cur - 200) / 2);
  config_.rpc.tcp_address = "127.0.0.1:0";
  StartDaemon();
  std::vector<OwnedFd> silent;
  for (size_t i = 0; i < count; ++i) {
    OwnedFd fd = Connect(daemon_->listeners()[i % 2]);
    ASSERT_TRUE(fd) << i;
    if (i % 3 == 0) {
      ASSERT_TRUE(Say(fd, "PRI * HT"));
    }
    silent.push_back(std::move(fd));
  }
  auto a = Worker("a");
  ASSERT_TRUE(a->Put(SmallKeys(1), Blocks(1)).status.ok());
  EXPECT_EQ(a->Lookup(SmallKeys(1)), 1u);
}

}  // namespace
}  // namespace kvstow::testing
