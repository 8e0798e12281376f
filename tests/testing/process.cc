#include "tests/testing/process.h"

#include <fcntl.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <set>
#include <sstream>
#include <system_error>

#include "gtest/gtest.h"
#include "tests/testing/eventually.h"

extern char** environ;

namespace kvstow::testing {

Process::Process(const std::vector<std::string>& argv, const std::string& output_file,
                 const std::string& input_file) {
  std::vector<char*> args;
  for (const std::string& arg : argv) args.push_back(const_cast<char*>(arg.c_str()));
  args.push_back(nullptr);
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  const std::string out = output_file.empty() ? "/dev/null" : output_file;
  const std::string in = input_file.empty() ? "/dev/null" : input_file;
  posix_spawn_file_actions_addopen(&actions, 0, in.c_str(), O_RDONLY, 0);
  posix_spawn_file_actions_addopen(&actions, 1, out.c_str(), O_WRONLY | O_CREAT | O_APPEND, 0600);
  posix_spawn_file_actions_adddup2(&actions, 1, 2);
  const int error = posix_spawnp(&pid_, args[0], &actions, nullptr, args.data(), environ);
  posix_spawn_file_actions_destroy(&actions);
  EXPECT_EQ(error, 0) << "cannot start " << argv[0];
  if (error != 0) pid_ = -1;
}

Process::~Process() {
  if (!running()) return;
  Signal(SIGKILL);
  Wait();
}

void Process::Signal(int signal) const {
  kill(pid_, signal);
  if (signal != SIGSTOP) return;
  siginfo_t info = {};
  EXPECT_EQ(waitid(P_PID, pid_, &info, WSTOPPED | WEXITED | WNOWAIT), 0);
  EXPECT_EQ(info.si_code, CLD_STOPPED) << "it ended before it could be stopped";
}

int Process::Wait() {
  if (!status_) {
    int status = 0;
    waitpid(pid_, &status, 0);
    status_ = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  }
  return *status_;
}

std::vector<std::string> EndingWithThisThread(const std::vector<std::string>& argv) {
  std::vector<std::string> command = {"setpriv", "--pdeathsig", "KILL", "--"};
  command.insert(command.end(), argv.begin(), argv.end());
  return command;
}

std::vector<std::string> OnlyThisTest(const std::string& test) {
  return {"/proc/self/exe", "--gtest_filter=" + test, "--gtest_also_run_disabled_tests"};
}

bool Says(const std::string& output_file, const std::string& word) {
  return Eventually([&] { return ReadFile(output_file).find(word) != std::string::npos; });
}

std::string BesideThisProgram(const std::string& built) {
  std::error_code unreadable;
  const std::string beside = std::filesystem::read_symlink("/proc/self/exe", unreadable)
                                 .replace_filename(std::filesystem::path(built).filename());
  return access(beside.c_str(), X_OK) == 0 ? beside : built;
}

bool IsInPath(const std::string& program) {
  std::stringstream path(getenv("PATH") ? getenv("PATH") : "");
  for (std::string folder; std::getline(path, folder, ':');) {
    if (access((folder + "/" + program).c_str(), X_OK) == 0) return true;
  }
  return false;
}

std::string ReadFile(const std::string& path) {
  std::ifstream in(path);
  std::stringstream text;
  text << in.rdbuf();
  return text.str();
}

std::vector<int> ListeningPorts(pid_t pid) {
  std::set<std::string> inodes;
  std::error_code ignored;
  for (const auto& fd :
       std::filesystem::directory_iterator("/proc/" + std::to_string(pid) + "/fd", ignored)) {
    const std::string link = std::filesystem::read_symlink(fd.path(), ignored);
    if (link.rfind("socket:[", 0) == 0) inodes.insert(link.substr(8, link.size() - 9));
  }
  std::vector<int> ports;
  for (const char* table : {"/proc/net/tcp", "/proc/net/tcp6"}) {
    std::ifstream in(table);
    for (std::string line; std::getline(in, line);) {
      std::stringstream fields(line);
      std::string slot, local, remote, state, skip, inode;
      fields >> slot >> local >> remote >> state >> skip >> skip >> skip >> skip >> skip >> inode;
      constexpr char kListen[] = "0A";
      if (state != kListen || !inodes.contains(inode)) continue;
      ports.push_back(std::stoi(local.substr(local.find(':') + 1), nullptr, 16));
    }
  }
  return ports;
}

}  // namespace kvstow::testing
