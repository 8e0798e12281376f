// What this container gives a worker and its daemon: memory, shared memory, locked memory, a GPU.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <optional>
#include <string>

#include "client/tool/doctor/checkup.h"

namespace kvstow::tool {

// Memory as cgroup v2 counts it for a process.
struct MemoryBound {
  std::optional<uint64_t> limit;  // the tightest of its groups; none: unlimited
  uint64_t used = 0;              // in the group that has it, or its own
  std::string group;              // "/kubepods/.../x"; processes of one container have the same
};
// nullopt where there is no cgroup v2. `root` is what stands before /proc and /sys.
std::optional<MemoryBound> ReadMemoryBound(const std::string& process = "self",
                                           const std::string& root = "");

// What the daemon is known to hold; 0 where it does not say.
struct DaemonNeeds {
  bool reached = false;
  pid_t process = 0;  // 0 where it cannot be seen from here
  uint64_t host_tier = 0;
  bool uses_gpu = false;
};

// Adds findings "memory" (of this container) and "daemon memory".
void CheckMemory(const DaemonNeeds& daemon, Checkup* checkup, const std::string& root = "");
// Adds findings "memfd" and "memlock".
void CheckSharing(Checkup* checkup);
// Adds one finding, "gpu": is there one here, and has the daemon one? (Whether they share memory of
// it is tried by device_memory.h.)
void CheckGpu(const DaemonNeeds& daemon, bool local, Checkup* checkup);

}  // namespace kvstow::tool
