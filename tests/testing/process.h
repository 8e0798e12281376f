// A child process of a test: started, fed, signalled, reaped; never left behind.
#pragma once

#include <signal.h>
#include <sys/types.h>

#include <optional>
#include <string>
#include <vector>

namespace kvstow::testing {

class Process {
 public:
  // argv[0] is looked up in PATH. Standard output and error go to `output_file`, input comes from
  // `input_file`; /dev/null where empty.
  explicit Process(const std::vector<std::string>& argv, const std::string& output_file = "",
                   const std::string& input_file = "");
  // Kills what still runs.
  ~Process();
  Process(const Process&) = delete;

  pid_t pid() const { return pid_; }
  // SIGSTOP returns once every thread has stopped: until then a busy one answers still.
  void Signal(int signal) const;
  // Exit status, or 128 + the signal that ended it. Blocks.
  int Wait();
  bool running() const { return pid_ > 0 && !status_; }

 private:
  pid_t pid_ = -1;
  std::optional<int> status_;
};

// The same command, ended by the kernel when the thread that starts it ends, however that comes
// about: for a benchmark, which a closed pipe kills before it can clean up. (util-linux' setpriv)
std::vector<std::string> EndingWithThisThread(const std::vector<std::string>& argv);
// This test program with that disabled test alone: a process to be killed.
std::vector<std::string> OnlyThisTest(const std::string& test);
// Whether a process has written `word` there; waits until it has, a minute at most.
bool Says(const std::string& output_file, const std::string& word);
// The program of the same name in this one's folder, as in a bundle; `built` where there is none.
std::string BesideThisProgram(const std::string& built);
// True when `program` is in PATH.
bool IsInPath(const std::string& program);
std::string ReadFile(const std::string& path);
// TCP ports that a process listens at, from /proc.
std::vector<int> ListeningPorts(pid_t pid);

}  // namespace kvstow::testing
