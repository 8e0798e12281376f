// `kvstow doctor` against real daemons: a sound deployment has nothing to change, and each broken
// one has its line, which says what to change. The real binary, as a user of the container runs it.
#include <fcntl.h>
#include <grp.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>
#include <sstream>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/auth/testing/certificates.h"
#include "staging/shared_region.h"
#include "tests/testing/daemon_fixture.h"
#include "tests/testing/process.h"
#include "tests/testing/raw_worker.h"

namespace kvstow::testing {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::StartsWith;

constexpr char kToken[] = "token-0123456789abcdefghij";
constexpr uid_t kNobody = 65534;

struct Diagnosis {
  int code = -1;
  std::string output;
  std::map<std::string, std::string> lines;  // by check

  // The line of a check; empty without.
  std::string of(const std::string& check) const {
    const auto at = lines.find(check);
    return at == lines.end() ? "" : at->second;
  }
  size_t failed() const {
    size_t n = 0;
    for (const auto& [check, line] : lines) n += absl::StartsWith(line, "FAIL");
    return n;
  }
};

class DoctorTest : public DaemonTest {
 protected:
  std::string File(const std::string& name) const { return dir_.path() + "/" + name; }
  const std::string& socket() const { return config_.rpc.unix_socket; }

  static Diagnosis Read(int code, const std::string& output) {
    Diagnosis diagnosis{code, output, {}};
    std::istringstream in(output);
    for (std::string line; std::getline(in, line);) {
      // "FAIL  daemon memory  ...", see PrintLine() of the tool.
      if (line.size() < 21) continue;
      std::string check = line.substr(6, 13);
      check.erase(check.find_last_not_of(' ') + 1);
      diagnosis.lines[check] = line;
    }
    return diagnosis;
  }
  Diagnosis Doctor(const std::vector<std::string>& flags) const {
    std::vector<std::string> argv = {KVSTOW, "doctor", "--deadline=20s"};
    argv.insert(argv.end(), flags.begin(), flags.end());
    const std::string out = File("doctor.out");
    std::filesystem::remove(out);
    const int code = Process(argv, out).Wait();
    return Read(code, ReadFile(out));
  }
  Diagnosis DoctorOf(const std::string& target, std::vector<std::string> flags = {}) const {
    flags.push_back("--target=" + target);
    return Doctor(flags);
  }
  Diagnosis DoctorOfSocket() const { return DoctorOf("unix:" + socket()); }
  // As a user who is neither owner nor in the group. The program is opened first: that user need
  // not be able to get to the build.
  Diagnosis DoctorAsNobody() const;
};

Diagnosis DoctorTest::DoctorAsNobody() const {
  const std::string out = File("nobody.out"), target = "--target=unix:" + socket();
  const int program = open(KVSTOW, O_RDONLY);
  const int to = open(out.c_str(), O_WRONLY | O_CREAT, 0600);
  const pid_t child = fork();
  if (child == 0) {
    dup2(to, 1);
    const char* const argv[] = {"kvstow", "doctor", target.c_str(), nullptr};
    if (setgroups(0, nullptr) == 0 && setgid(kNobody) == 0 && setuid(kNobody) == 0) {
      fexecve(program, const_cast<char* const*>(argv), environ);
    }
    _exit(99);
  }
  int status = 0;
  waitpid(child, &status, 0);
  close(program);
  close(to);
  return Read(WIFEXITED(status) ? WEXITSTATUS(status) : -1, ReadFile(out));
}

// ---- A sound one ----

TEST_F(DoctorTest, ASoundDeploymentHasNothingToChange) {
  config_.host_tier_bytes = 16 << 20;
  StartDaemon();
  const Diagnosis diagnosis = DoctorOf(target());
  EXPECT_EQ(diagnosis.code, 0) << diagnosis.output;
  EXPECT_EQ(diagnosis.failed(), 0u) << diagnosis.output;
  for (const char* check : {"socket", "health", "session", "version", "store", "path shm",
                            "path grpc", "memfd", "memlock"}) {
    EXPECT_THAT(diagnosis.of(check), StartsWith("ok")) << check;
    EXPECT_THAT(diagnosis.of(check), Not(HasSubstr("->"))) << check;
  }
  EXPECT_THAT(diagnosis.of("path shm"), HasSubstr("bit for bit"));
  EXPECT_THAT(diagnosis.of("path grpc"), HasSubstr("bit for bit"));
  EXPECT_NE(diagnosis.of("lookup"), "");
  EXPECT_NE(diagnosis.of("memory"), "");
  EXPECT_NE(diagnosis.of("daemon memory"), "");
  EXPECT_EQ(RawWorker(target()).Stats().visible_blocks(), 0u) << "it left something behind";
}

TEST_F(DoctorTest, TellsOfTheGpuOrWhyThereIsNone) {
  StartDaemon();
  const std::string line = DoctorOf(target()).of("gpu");
  EXPECT_THAT(line,
              ::testing::AnyOf(HasSubstr("no GPU here: "), HasSubstr(" here, the first is ")));
}

TEST_F(DoctorTest, TriesDeviceMemory) {
  config_.device = DaemonConfig::Device::kCuda;
  config_.gpu_plugin = FAKE_PLUGIN;
  StartDaemon();
  const std::string plugin = absl::StrCat("--gpu_plugin=", FAKE_PLUGIN);
  EXPECT_THAT(DoctorOf(target(), {plugin}).of("path cuda"),
              AllOf(StartsWith("ok"), HasSubstr("proved from both ends")));
  EXPECT_THAT(DoctorOf(target(), {"--gpu_plugin=/none"}).of("path cuda"),
              AllOf(StartsWith("skip"), HasSubstr("cannot load the GPU plugin")));
  daemon_.reset();
  config_.staging.device_budget_bytes = 0;
  StartDaemon();
  EXPECT_THAT(DoctorOf(target(), {plugin}).of("path cuda"),
              AllOf(StartsWith("warn"), HasSubstr("shares none"), HasSubstr("device_total")));
}

TEST_F(DoctorTest, SpeaksJson) {
  StartDaemon();
  const Diagnosis diagnosis = DoctorOf(target(), {"--json"});
  EXPECT_EQ(diagnosis.code, 0) << diagnosis.output;
  EXPECT_THAT(diagnosis.output, AllOf(HasSubstr("\"failed\":0"), HasSubstr("\"check\":\"socket\""),
                                      HasSubstr("\"result\":\"ok\""), HasSubstr(target())));
  const Diagnosis broken = DoctorOf("unix:" + File("nothing"), {"--json"});
  EXPECT_EQ(broken.code, 2);
  EXPECT_THAT(broken.output, HasSubstr("\"failed\":1"));
}

// ---- The socket ----

TEST_F(DoctorTest, TargetsThatAreNone) {
  for (const char* target : {"nonsense", "http://x/y", "host:", "unix:"}) {
    const Diagnosis diagnosis = DoctorOf(target);
    EXPECT_EQ(diagnosis.code, 2);
    EXPECT_THAT(diagnosis.of("target"), AllOf(StartsWith("FAIL"), HasSubstr("HOST:PORT")));
  }
}

TEST_F(DoctorTest, NoSocketAndNoFolder) {
  const Diagnosis none = DoctorOfSocket();
  EXPECT_EQ(none.code, 2);
  EXPECT_THAT(none.of("socket"), AllOf(StartsWith("FAIL"), HasSubstr("No such file"),
                                       HasSubstr("is kvstowd running")));
  EXPECT_THAT(none.of("daemon memory"), StartsWith("skip"));
  const Diagnosis no_folder = DoctorOf("unix:" + File("volume/k.sock"));
  EXPECT_EQ(no_folder.code, 2);
  EXPECT_THAT(no_folder.of("socket"), AllOf(HasSubstr("there is no folder " + File("volume")),
                                            HasSubstr("mount the volume")));
  const Diagnosis too_long = DoctorOf("unix:" + File(std::string(120, 'x')));
  EXPECT_THAT(too_long.of("socket"), HasSubstr("a Unix socket's at most 107"));
}

TEST_F(DoctorTest, WhatIsThereIsNoSocket) {
  std::ofstream(socket()) << "text";
  EXPECT_THAT(DoctorOfSocket().of("socket"), AllOf(StartsWith("FAIL"), HasSubstr("is no socket")));
}

// A socket of nobody: its daemon was killed.
TEST_F(DoctorTest, AStaleSocket) {
  {
    const OwnedFd fd(::socket(AF_UNIX, SOCK_STREAM, 0));
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    socket().copy(address.sun_path, sizeof(address.sun_path) - 1);
    ASSERT_EQ(bind(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
  }
  const Diagnosis diagnosis = DoctorOfSocket();
  EXPECT_EQ(diagnosis.code, 2);
  EXPECT_THAT(diagnosis.of("socket"), AllOf(StartsWith("FAIL"), HasSubstr("its daemon is gone"),
                                            HasSubstr("start kvstowd")));
}

TEST_F(DoctorTest, TheSideChannelIsNotTheSocket) {
  StartDaemon();
  EXPECT_THAT(DoctorOf(target() + ".staging").of("socket"),
              AllOf(StartsWith("FAIL"), HasSubstr("not the side channel")));
}

TEST_F(DoctorTest, WrongPermissions) {
  StartDaemon();
  Diagnosis diagnosis;
  if (geteuid() == 0) {
    ASSERT_EQ(chmod(dir_.path().c_str(), 0755), 0);
    diagnosis = DoctorAsNobody();
    EXPECT_THAT(diagnosis.of("socket"), HasSubstr(absl::StrCat("user ", kNobody)));
  } else {
    ASSERT_EQ(chmod(socket().c_str(), 0), 0);
    diagnosis = DoctorOfSocket();
  }
  EXPECT_EQ(diagnosis.code, 2) << diagnosis.output;
  EXPECT_THAT(diagnosis.of("socket"), AllOf(StartsWith("FAIL"), HasSubstr("may not use"),
                                            HasSubstr("fsGroup"), HasSubstr("owner ")));
}

TEST_F(DoctorTest, AFolderThatMayNotBeEntered) {
  StartDaemon();
  Diagnosis diagnosis;
  if (geteuid() == 0) {
    diagnosis = DoctorAsNobody();  // mkdtemp made it 0700
  } else {
    const std::string locked = File("locked");
    ASSERT_EQ(mkdir(locked.c_str(), 0), 0);
    diagnosis = DoctorOf("unix:" + locked + "/k.sock");
  }
  EXPECT_EQ(diagnosis.code, 2) << diagnosis.output;
  EXPECT_THAT(diagnosis.of("socket"),
              AllOf(StartsWith("FAIL"), HasSubstr("may not enter folder"), HasSubstr("fsGroup")));
}

// Connections are made by the kernel; nobody takes them.
TEST_F(DoctorTest, ADaemonThatDoesNotAnswer) {
  const OwnedFd fd(::socket(AF_UNIX, SOCK_STREAM, 0));
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  socket().copy(address.sun_path, sizeof(address.sun_path) - 1);
  ASSERT_EQ(bind(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
  ASSERT_EQ(listen(fd.get(), 16), 0);
  const Diagnosis diagnosis = DoctorOf("unix:" + socket(), {"--deadline=300ms"});
  EXPECT_EQ(diagnosis.code, 2);
  EXPECT_THAT(diagnosis.of("socket"), StartsWith("ok"));
  EXPECT_THAT(diagnosis.of("health"), AllOf(StartsWith("FAIL"), HasSubstr("DEADLINE_EXCEEDED"),
                                            HasSubstr("gets no processor")));
}

// ---- Shared memory ----

TEST_F(DoctorTest, SharedMemoryIsOff) {
  config_.staging.budget_bytes = 0;
  StartDaemon();
  const Diagnosis diagnosis = DoctorOf(target());
  EXPECT_EQ(diagnosis.code, 0) << diagnosis.output;
  EXPECT_THAT(diagnosis.of("path shm"),
              AllOf(StartsWith("warn"), HasSubstr("nobody offers shared memory"),
                    HasSubstr("set `staging`")));
  EXPECT_THAT(diagnosis.of("path grpc"), AllOf(StartsWith("ok"), HasSubstr("bit for bit")));
}

TEST_F(DoctorTest, SharedMemoryIsUsedUp) {
  config_.staging.budget_bytes = 1;
  StartDaemon();
  EXPECT_THAT(DoctorOf(target()).of("path shm"),
              AllOf(StartsWith("warn"), HasSubstr("raise `staging.total`")));
}

TEST_F(DoctorTest, SharedMemoryIsForOthers) {
  std::ofstream(File("token")) << kToken << "\n";
  config_.tenants = {{.name = "a", .token_file = File("token"), .users = {getuid() + 1}}};
  StartDaemon();
  const Diagnosis diagnosis = DoctorOf(target(), {"--token_file=" + File("token")});
  EXPECT_EQ(diagnosis.code, 0) << diagnosis.output;
  EXPECT_THAT(diagnosis.of("path shm"),
              AllOf(StartsWith("warn"), HasSubstr("may not share memory"), HasSubstr("`user`s")));
  EXPECT_THAT(diagnosis.of("store"), AllOf(StartsWith("skip"), HasSubstr("no admin")));
  EXPECT_THAT(diagnosis.output, Not(HasSubstr(kToken)));
}

// ---- Who calls ----

TEST_F(DoctorTest, Tokens) {
  std::ofstream(File("token")) << kToken << "\n";
  std::ofstream(File("other")) << "another-0123456789abcdefghij\n";
  std::ofstream(File("short")) << "short\n";
  std::ofstream(File("empty")) << "";
  config_.tenants = {{.name = "a", .token_file = File("token"), .admin = true}};
  StartDaemon();
  const auto with = [&](const std::string& file) {
    return DoctorOf(target(), {"--token_file=" + File(file)});
  };
  EXPECT_EQ(with("token").code, 0);
  EXPECT_THAT(with("token").of("token"), StartsWith("ok"));

  const Diagnosis none = DoctorOf(target());
  EXPECT_EQ(none.code, 1) << none.output;
  EXPECT_THAT(none.of("health"), StartsWith("ok"));
  EXPECT_THAT(none.of("session"),
              AllOf(StartsWith("FAIL"), HasSubstr("UNAUTHENTICATED"), HasSubstr("--token_file")));
  EXPECT_THAT(with("other").of("session"), AllOf(StartsWith("FAIL"), HasSubstr("not valid")));
  const Diagnosis missing = with("missing");
  EXPECT_EQ(missing.code, 1);
  EXPECT_THAT(missing.of("files"),
              AllOf(StartsWith("FAIL"), HasSubstr("missing cannot be read"), HasSubstr("mount")));
  EXPECT_THAT(with("empty").of("token"), AllOf(StartsWith("FAIL"), HasSubstr("no first line")));
  EXPECT_THAT(with("short").of("token"), AllOf(StartsWith("FAIL"), HasSubstr("none below 22")));
}

// ---- TCP and TLS ----

class TlsDoctorTest : public DoctorTest {
 protected:
  TlsDoctorTest() {
    authority_.WriteCertificate(File("ca"));
    stranger_.WriteCertificate(File("other-ca"));
    authority_.Issue({"kvstowd", "DNS:kvstowd.example,IP:127.0.0.1"}, File("crt"), File("key"));
    authority_.Issue({"worker", "URI:spiffe://test/a"}, File("a"), File("a.key"));
    config_.rpc.tcp_address = "127.0.0.1:0";
    config_.rpc.tls = {.certificate = File("crt"), .key = File("key"), .client_ca = File("ca")};
    config_.rpc.tls.require_client_certificate = false;
    config_.tenants = {{.name = "a", .certificate_names = {"spiffe://test/a"}, .admin = true}};
  }
  // With the worker's certificate, but for what `flags` say.
  Diagnosis Tcp(std::vector<std::string> flags = {}) const {
    std::vector<std::string> all = {"--tls_ca=" + File("ca"), "--tls_certificate=" + File("a"),
                                    "--tls_key=" + File("a.key")};
    all.insert(all.end(), flags.begin(), flags.end());
    return DoctorOf(daemon_->listeners()[1], all);
  }

  const Authority authority_{"test authority"}, stranger_{"another authority"};
};

TEST_F(TlsDoctorTest, Sound) {
  StartDaemon();
  const Diagnosis diagnosis = Tcp();
  EXPECT_EQ(diagnosis.code, 0) << diagnosis.output;
  for (const char* check : {"address", "ca", "certificate", "handshake", "session", "path grpc"}) {
    EXPECT_THAT(diagnosis.of(check), StartsWith("ok")) << check;
  }
  EXPECT_THAT(diagnosis.of("handshake"), HasSubstr("kvstowd.example, 127.0.0.1"));
  EXPECT_THAT(diagnosis.of("path shm"), StartsWith("skip"));
}

TEST_F(TlsDoctorTest, AnotherName) {
  authority_.Issue({"kvstowd", "DNS:kvstowd.example"}, File("crt"), File("key"));
  StartDaemon();
  const Diagnosis diagnosis = Tcp();
  EXPECT_EQ(diagnosis.code, 2);
  EXPECT_THAT(diagnosis.of("handshake"),
              AllOf(StartsWith("FAIL"), HasSubstr("is for kvstowd.example, not for 127.0.0.1"),
                    HasSubstr("--tls_server_name")));
  EXPECT_EQ(Tcp({"--tls_server_name=kvstowd.example"}).code, 0);
}

TEST_F(TlsDoctorTest, AnExpiredDaemon) {
  authority_.Issue({"kvstowd", "IP:127.0.0.1", -absl::Hours(2), -absl::Hours(1)}, File("crt"),
                   File("key"));
  StartDaemon();
  EXPECT_THAT(Tcp().of("handshake"), AllOf(StartsWith("FAIL"), HasSubstr("has expired"),
                                           HasSubstr("renew the file of tls.certificate")));
}

TEST_F(TlsDoctorTest, AnotherAuthority) {
  StartDaemon();
  EXPECT_THAT(Tcp({"--tls_ca=" + File("other-ca")}).of("handshake"),
              AllOf(StartsWith("FAIL"), HasSubstr("test authority"), HasSubstr("--tls_ca")));
}

TEST_F(TlsDoctorTest, AClientThatIsExpiredOrForeignOrNone) {
  authority_.Issue({"worker", "URI:spiffe://test/a", -absl::Hours(2), -absl::Hours(1)},
                   File("late"), File("late.key"));
  stranger_.Issue({"worker", "URI:spiffe://test/a"}, File("fake"), File("fake.key"));
  config_.rpc.tls.require_client_certificate = true;
  StartDaemon();
  const Diagnosis late =
      Tcp({"--tls_certificate=" + File("late"), "--tls_key=" + File("late.key")});
  EXPECT_THAT(late.of("certificate"), AllOf(StartsWith("FAIL"), HasSubstr("expired on")));
  EXPECT_THAT(late.of("handshake"), StartsWith("FAIL"));
  const Diagnosis fake =
      Tcp({"--tls_certificate=" + File("fake"), "--tls_key=" + File("fake.key")});
  EXPECT_THAT(fake.of("handshake"), AllOf(StartsWith("FAIL"), HasSubstr("tls.client_ca")));
  const Diagnosis mixed = Tcp({"--tls_key=" + File("fake.key")});
  EXPECT_THAT(mixed.of("certificate"), AllOf(StartsWith("FAIL"), HasSubstr("is not the key of")));
  const Diagnosis none = DoctorOf(daemon_->listeners()[1], {"--tls_ca=" + File("ca")});
  EXPECT_THAT(none.of("handshake"),
              AllOf(StartsWith("FAIL"), HasSubstr("wants a client certificate")));
}

TEST_F(TlsDoctorTest, OneInClearAndOneNot) {
  StartDaemon();
  const Diagnosis clear = DoctorOf(daemon_->listeners()[1]);
  EXPECT_EQ(clear.code, 2);
  EXPECT_THAT(clear.of("handshake"),
              AllOf(StartsWith("FAIL"), HasSubstr("speaks TLS"), HasSubstr("--tls_ca")));
  daemon_.reset();
  config_.rpc.tls = {};
  config_.tenants.clear();
  StartDaemon();
  EXPECT_THAT(Tcp().of("handshake"), AllOf(StartsWith("FAIL"), HasSubstr("leave --tls_ca out")));
  const Diagnosis both = DoctorOf(daemon_->listeners()[1]);
  EXPECT_EQ(both.code, 0) << both.output;
  EXPECT_THAT(both.of("handshake"), AllOf(StartsWith("warn"), HasSubstr("in clear")));
}

TEST_F(TlsDoctorTest, FilesThatDoNotFitTheTarget) {
  StartDaemon();
  const Diagnosis local = DoctorOf(target(), {"--tls_ca=" + File("ca")});
  EXPECT_THAT(local.of("files"), AllOf(StartsWith("FAIL"), HasSubstr("has no TLS")));
  const Diagnosis half = Tcp({"--tls_key="});
  EXPECT_THAT(half.of("files"), AllOf(StartsWith("FAIL"), HasSubstr("go together")));
  std::ofstream(File("garbage")) << "garbage";
  EXPECT_THAT(Tcp({"--tls_ca=" + File("garbage")}).of("ca"),
              AllOf(StartsWith("FAIL"), HasSubstr("holds no PEM certificate")));
}

TEST_F(TlsDoctorTest, NobodyAtThatPort) {
  StartDaemon();
  const std::string target = daemon_->listeners()[1];
  daemon_.reset();
  const Diagnosis diagnosis = DoctorOf(target);
  EXPECT_EQ(diagnosis.code, 2);
  EXPECT_THAT(diagnosis.of("address"),
              AllOf(StartsWith("FAIL"), HasSubstr("refused"), HasSubstr("network policy")));
}

}  // namespace
}  // namespace kvstow::testing
