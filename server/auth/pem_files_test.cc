#include "server/auth/pem_files.h"

#include <fstream>

#include "absl/time/clock.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/auth/testing/certificates.h"
#include "tests/testing/temp_dir.h"

namespace kvstow {
namespace {

using ::testing::HasSubstr;

class PemFilesTest : public ::testing::Test {
 protected:
  std::string File(const std::string& name) const { return dir_.path() + "/" + name; }
  std::string Message(const absl::Status& status) {
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    return std::string(status.message());
  }
  void Write(const std::string& name, const std::string& text) {
    std::ofstream(File(name)) << text;
  }
  const testing::TempDir dir_;
  const testing::Authority authority_{"test authority"};
  const absl::Time now_ = absl::Now();
};

TEST_F(PemFilesTest, SoundOnesPass) {
  authority_.Issue({"leaf", "DNS:localhost"}, File("crt"), File("key"));
  authority_.WriteCertificate(File("ca"));
  EXPECT_EQ(CheckCertificate(File("crt"), File("key"), now_), absl::OkStatus());
  EXPECT_EQ(CheckAuthorities(File("ca"), now_), absl::OkStatus());
}

TEST_F(PemFilesTest, WhatIsWrongIsSaid) {
  authority_.Issue({"leaf", ""}, File("crt"), File("key"));
  authority_.Issue({"other", ""}, File("other.crt"), File("other.key"));
  Write("text", "not PEM\n");
  EXPECT_THAT(Message(CheckCertificate(File("none"), File("key"), now_)),
              HasSubstr("none: cannot be read"));
  EXPECT_THAT(Message(CheckCertificate(File("text"), File("key"), now_)),
              HasSubstr("text: holds no PEM certificate"));
  EXPECT_THAT(Message(CheckCertificate(File("crt"), File("none"), now_)),
              HasSubstr("none: cannot be read"));
  EXPECT_THAT(Message(CheckCertificate(File("crt"), File("crt"), now_)),
              HasSubstr("crt: holds no PEM private key"));
  EXPECT_THAT(Message(CheckCertificate(File("crt"), File("other.key"), now_)),
              HasSubstr("other.key: is not the key of"));
  EXPECT_THAT(Message(CheckAuthorities(File("text"), now_)), HasSubstr("holds no PEM certificate"));
}

TEST_F(PemFilesTest, TimesCount) {
  authority_.Issue({"leaf", ""}, File("crt"), File("key"));
  authority_.WriteCertificate(File("ca"));
  EXPECT_THAT(Message(CheckCertificate(File("crt"), File("key"), now_ + absl::Hours(2))),
              HasSubstr("expired"));
  EXPECT_THAT(Message(CheckCertificate(File("crt"), File("key"), now_ - absl::Hours(2))),
              HasSubstr("not valid yet"));
  EXPECT_THAT(Message(CheckAuthorities(File("ca"), now_ + absl::Hours(48))), HasSubstr("expired"));
}

TEST_F(PemFilesTest, OneAuthorityOfSeveralMayHaveExpired) {
  authority_.Issue({"old", "", -absl::Hours(3), -absl::Hours(2)}, File("old"), File("key"));
  authority_.WriteCertificate(File("ca"));
  std::ofstream both(File("both"));
  both << std::ifstream(File("old")).rdbuf() << std::ifstream(File("ca")).rdbuf();
  both.close();
  EXPECT_EQ(CheckAuthorities(File("both"), now_), absl::OkStatus());
}

}  // namespace
}  // namespace kvstow
