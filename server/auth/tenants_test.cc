#include "server/auth/tenants.h"

#include <fstream>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/testing/temp_dir.h"

namespace kvstow {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

constexpr char kTokenA[] = "token-of-a-0123456789abcdef";
constexpr char kTokenB[] = "token-of-b-0123456789abcdef";
constexpr TenantId kA{0}, kB{1};

class TenantsTest : public ::testing::Test {
 protected:
  std::string Write(const std::string& name, const std::string& text) {
    const std::string path = dir_.path() + "/" + name;
    std::ofstream(path) << text;
    return path;
  }
  std::vector<TenantIdentity> Two() {
    TenantIdentity a{.name = "a",
                     .certificate_names = {"spiffe://cluster/a", "a.example"},
                     .token_file = Write("a", std::string("# ours\n") + kTokenA + "\n"),
                     .users = {1001},
                     .admin = true};
    TenantIdentity b{.name = "b",
                     .certificate_names = {"b.example"},
                     .token_file = Write("b", kTokenB),
                     .users = {},
                     .admin = false};
    return {a, b};
  }
  void Open(const std::string& unix_tenant = "") {
    auto tenants = Tenants::Create(Two(), unix_tenant);
    ASSERT_TRUE(tenants.ok()) << tenants.status();
    tenants_ = *std::move(tenants);
  }
  void ExpectTenant(const Evidence& evidence, TenantId tenant) {
    const auto caller = tenants_->Identify(evidence);
    ASSERT_TRUE(caller.ok()) << caller.status();
    EXPECT_EQ(caller->tenant, tenant);
    EXPECT_EQ(caller->admin, tenant == kA);
  }
  void ExpectNobody(const Evidence& evidence, const std::string& why) {
    const auto caller = tenants_->Identify(evidence);
    ASSERT_EQ(caller.status().code(), absl::StatusCode::kUnauthenticated);
    const std::string message(caller.status().message());
    EXPECT_THAT(message, HasSubstr(why));
    if (evidence.token && !evidence.token->empty()) {
      EXPECT_THAT(message, Not(HasSubstr(*evidence.token)));
    }
  }
  void ExpectRefused(std::vector<TenantIdentity> tenants, const std::string& why,
                     const std::string& unix_tenant = "") {
    const auto made = Tenants::Create(std::move(tenants), unix_tenant);
    ASSERT_EQ(made.status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(made.status().message()), HasSubstr(why));
  }

  testing::TempDir dir_;
  std::unique_ptr<Tenants> tenants_;
};

TEST_F(TenantsTest, WithoutTenantsEverybodyIsTheDefault) {
  tenants_ = *Tenants::Create({}, "");
  ExpectTenant({}, kDefaultTenant);
  ExpectTenant({.unix_socket = true, .certificate_names = {"x"}, .token = "anything"},
               kDefaultTenant);
  EXPECT_EQ(tenants_->names(), std::vector<std::string>{"default"});
  EXPECT_TRUE(tenants_->MayStage(kDefaultTenant, 12345));
}

TEST_F(TenantsTest, TokensAndCertificates) {
  Open();
  ExpectTenant({.token = kTokenA}, kA);
  ExpectTenant({.token = kTokenB}, kB);
  ExpectTenant({.certificate_names = {"unknown", "spiffe://cluster/a"}}, kA);
  ExpectTenant({.certificate_names = {"a.example", "spiffe://cluster/a"}}, kA);
  ExpectTenant({.certificate_names = {"b.example"}, .token = kTokenB}, kB);
  EXPECT_EQ(tenants_->names(), (std::vector<std::string>{"a", "b"}));
}

TEST_F(TenantsTest, WhoIsNobodyIsToldWhy) {
  Open();
  ExpectNobody({}, "nothing says who calls");
  ExpectNobody({.unix_socket = true}, "nothing says who calls");
  ExpectNobody({.token = ""}, "not valid");
  ExpectNobody({.token = "# ours"}, "not valid");
  ExpectNobody({.token = std::string(kTokenA) + " "}, "not valid");
  ExpectNobody({.certificate_names = {"A.EXAMPLE"}}, "certificate is no tenant's");
  ExpectNobody({.certificate_names = {"a.example", "b.example"}}, "names two tenants");
  ExpectNobody({.certificate_names = {"a.example"}, .token = kTokenB}, "different tenants'");
  ExpectNobody({.certificate_names = {"a.example"}, .token = "wrong"}, "not valid");
}

TEST_F(TenantsTest, TheUnixSocketMayStandForATenant) {
  Open("b");
  ExpectTenant({.unix_socket = true}, kB);
  ExpectTenant({.unix_socket = true, .token = kTokenA}, kA);
  ExpectNobody({.unix_socket = true, .token = "wrong"}, "not valid");
  ExpectNobody({}, "nothing says who calls");
}

TEST_F(TenantsTest, UsersOfSharedMemory) {
  Open();
  EXPECT_TRUE(tenants_->MayStage(kA, 1001));
  EXPECT_FALSE(tenants_->MayStage(kA, 0));
  EXPECT_TRUE(tenants_->MayStage(kB, 4711)) << "no list, no limit";
}

TEST_F(TenantsTest, TokensRotate) {
  Open();
  const std::string fresh = "fresh-token-0123456789abcdef";
  Write("b", std::string(kTokenB) + "\n" + fresh + "\n");
  ExpectNobody({.token = fresh}, "not valid");
  ASSERT_TRUE(tenants_->ReloadTokens().ok());
  ExpectTenant({.token = fresh}, kB);
  ExpectTenant({.token = kTokenB}, kB);
  Write("b", fresh);
  ASSERT_TRUE(tenants_->ReloadTokens().ok());
  ExpectNobody({.token = kTokenB}, "not valid");
  Write("b", "");
  ASSERT_TRUE(tenants_->ReloadTokens().ok());
  ExpectNobody({.token = fresh}, "not valid");
  ExpectTenant({.token = kTokenA}, kA);
}

TEST_F(TenantsTest, AReloadThatFailsChangesNothing) {
  Open();
  Write("a", "short");
  EXPECT_THAT(std::string(tenants_->ReloadTokens().message()), HasSubstr("can be guessed"));
  ExpectTenant({.token = kTokenA}, kA);
  Write("a", kTokenB);
  EXPECT_THAT(std::string(tenants_->ReloadTokens().message()), HasSubstr("a token of tenant 'a'"));
  ExpectTenant({.token = kTokenB}, kB);
  std::filesystem::remove(dir_.path() + "/a");
  EXPECT_THAT(std::string(tenants_->ReloadTokens().message()), HasSubstr("cannot be read"));
  ExpectTenant({.token = kTokenA}, kA);
}

TEST_F(TenantsTest, WhatIsAmbiguousIsRefused) {
  auto tenants = Two();
  tenants[1].name = "a";
  ExpectRefused(tenants, "there are two of that name");
  tenants = Two();
  tenants[1].certificate_names = {"a.example"};
  ExpectRefused(tenants, "certificate 'a.example' is tenant 'a' already");
  tenants = Two();
  tenants[1].token_file = tenants[0].token_file;
  ExpectRefused(tenants, "a token of tenant 'a'");
  tenants = Two();
  tenants[0].token_file = "/nonexistent";
  ExpectRefused(tenants, "/nonexistent cannot be read");
  ExpectRefused(Two(), "there is no tenant 'c'", "c");
  ExpectRefused({}, "there is no tenant 'a'", "a");
  ExpectRefused({TenantIdentity{}}, "without a name");
}

}  // namespace
}  // namespace kvstow
