#include "client/tool/doctor/machine.h"

#include <dlfcn.h>
#include <sys/resource.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "client/tool/format.h"
#include "staging/shared_region.h"

namespace kvstow::tool {
namespace {

namespace fs = std::filesystem;

constexpr uint64_t kMiB = uint64_t{1} << 20;
// Of the client library: gRPC's buffers and what a Put has under way.
constexpr uint64_t kClientHeadroom = 256 * kMiB;
// Beside the host tier: limits.inflight, limits.staged, staging.total and everything else, with the
// default limits (docs/operations.md, Memory); and with a GPU.
constexpr uint64_t kDaemonBeside = (256 + 512 + 1024 + 1024) * kMiB;
constexpr uint64_t kDaemonGpuBeside = 2048 * kMiB;

std::string ReadLine(const fs::path& file) {
  std::ifstream in(file);
  std::string line;
  std::getline(in, line);
  return line;
}

std::optional<uint64_t> ReadNumber(const fs::path& file) {
  uint64_t number = 0;
  if (absl::SimpleAtoi(ReadLine(file), &number)) return number;
  return std::nullopt;
}

// The line of cgroup v2 in /proc/PID/cgroup is "0::/its/group".
std::optional<std::string> GroupOf(const std::string& process, const std::string& root) {
  std::ifstream in(root + "/proc/" + process + "/cgroup");
  for (std::string line; std::getline(in, line);) {
    absl::string_view group = line;
    if (absl::ConsumePrefix(&group, "0::")) return std::string(group);
  }
  return std::nullopt;
}

uint64_t MachineMemory(const std::string& root) {
  std::ifstream in(root + "/proc/meminfo");
  std::string label;
  uint64_t kib = 0;
  in >> label >> kib;  // the first line is MemTotal
  return kib << 10;
}

void CheckOwnMemory(const MemoryBound& bound, Checkup* checkup) {
  if (!bound.limit) {
    checkup->Ok("memory", "this container has no memory limit");
    return;
  }
  const uint64_t left = *bound.limit - std::min(*bound.limit, bound.used);
  const std::string found = absl::StrCat(Bytes(bound.used), " of this container's limit of ",
                                         Bytes(*bound.limit), " in use");
  if (left < kClientHeadroom) {
    checkup->Warn("memory", found,
                  absl::StrCat("raise the memory limit: the client library wants ",
                               Bytes(kClientHeadroom), " beside the engine"));
  } else {
    checkup->Ok("memory", found);
  }
}

void CheckDaemonMemory(const DaemonNeeds& daemon, const MemoryBound& own, const std::string& root,
                       Checkup* checkup) {
  if (!daemon.reached) {
    checkup->Skip("daemon memory", "no daemon was reached");
    return;
  }
  if (daemon.process == 0 ||
      GroupOf(std::to_string(daemon.process), root).value_or("?") != own.group) {
    checkup->Skip("daemon memory",
                  "the daemon is not of this container: kubectl exec POD -c kvstowd -- kvstow "
                  "doctor looks at its limit");
    return;
  }
  if (daemon.host_tier == 0) {
    checkup->Skip("daemon memory", "its tiers are for admins to see");
    return;
  }
  const uint64_t need = daemon.host_tier + kDaemonBeside + (daemon.uses_gpu ? kDaemonGpuBeside : 0);
  const uint64_t limit = own.limit.value_or(MachineMemory(root));
  const std::string found = absl::StrCat(own.limit ? "limit " : "memory of the machine ",
                                         Bytes(limit), "; a host tier of ", Bytes(daemon.host_tier),
                                         " with default limits needs ", Bytes(need));
  if (limit < need) {
    checkup->Fail("daemon memory", found,
                  "raise the memory limit, or lower host_tier: a daemon above it is killed and "
                  "begins empty (docs/operations.md, Memory)");
  } else {
    checkup->Ok("daemon memory", found);
  }
}

// ---- The driver, without CUDA's headers ----

struct Driver {
  int devices = 0;
  std::string name;     // of the first
  std::string problem;  // why there is none
};

template <typename Function>
Function Symbol(void* library, const char* name) {
  return reinterpret_cast<Function>(dlsym(library, name));
}

// The library stays loaded: CUDA's driver is not made to be unloaded.
Driver LookForDriver() {
  void* const library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) return {0, "", "no driver library libcuda.so.1 in this container"};
  const auto init = Symbol<int (*)(unsigned)>(library, "cuInit");
  const auto count = Symbol<int (*)(int*)>(library, "cuDeviceGetCount");
  const auto name = Symbol<int (*)(char*, int, int)>(library, "cuDeviceGetName");
  if (init == nullptr || count == nullptr || name == nullptr) {
    return {0, "", "libcuda.so.1 is no CUDA driver"};
  }
  Driver driver;
  if (const int error = init(0); error != 0) {
    driver.problem = absl::StrCat("the driver does not start (CUDA error ", error, ")");
  } else if (count(&driver.devices) != 0 || driver.devices == 0) {
    driver.problem = "the driver sees no device";
  } else {
    char text[256] = "";
    if (name(text, sizeof(text), 0) == 0) driver.name = text;
  }
  return driver;
}

}  // namespace

std::optional<MemoryBound> ReadMemoryBound(const std::string& process, const std::string& root) {
  const auto group = GroupOf(process, root);
  const fs::path top = root + "/sys/fs/cgroup";
  if (!group || !fs::exists(top)) return std::nullopt;
  MemoryBound bound;
  bound.group = *group;
  // In a container the group's path may be the host's, while only its own group is mounted.
  fs::path folder = top / fs::path(*group).relative_path();
  if (!fs::exists(folder)) folder = top;
  bound.used = ReadNumber(folder / "memory.current").value_or(0);
  for (;; folder = folder.parent_path()) {
    const auto limit = ReadNumber(folder / "memory.max");  // "max" is no number
    if (limit && (!bound.limit || *limit < *bound.limit)) {
      bound.limit = limit;
      bound.used = ReadNumber(folder / "memory.current").value_or(0);
    }
    if (folder == top || !folder.has_relative_path()) return bound;
  }
}

void CheckMemory(const DaemonNeeds& daemon, Checkup* checkup, const std::string& root) {
  const auto bound = ReadMemoryBound("self", root);
  if (!bound) {
    for (const char* check : {"memory", "daemon memory"}) {
      checkup->Skip(check, daemon.reached ? "no cgroup v2 here, so no limit can be read"
                                          : "no cgroup v2 here, and no daemon was reached");
    }
    return;
  }
  CheckOwnMemory(*bound, checkup);
  CheckDaemonMemory(daemon, *bound, root, checkup);
}

void CheckSharing(Checkup* checkup) {
  const auto region = SharedRegion::Create(kMiB);
  if (region.ok()) {
    checkup->Ok("memfd", "this container can map sealed memory; /dev/shm is not used");
  } else {
    checkup->Warn("memfd", absl::StrCat("no shared memory: ", region.status().message()),
                  "let the seccomp profile allow memfd_create (RuntimeDefault does), or leave more "
                  "memory");
  }
  rlimit locked{};
  getrlimit(RLIMIT_MEMLOCK, &locked);
  checkup->Ok("memlock",
              locked.rlim_cur == RLIM_INFINITY
                  ? "as much as there is"
                  : absl::StrCat(Bytes(locked.rlim_cur),
                                 "; pinning for CUDA is the driver's and not counted, mlock and "
                                 "RDMA of an engine are"));
}

void CheckGpu(const DaemonNeeds& daemon, bool local, Checkup* checkup) {
  const Driver driver = LookForDriver();
  if (driver.devices == 0) {
    if (daemon.uses_gpu) {
      checkup->Warn("gpu", absl::StrCat("no GPU here: ", driver.problem, "; the daemon has one"),
                    "give both containers one claim (deploy/kubernetes/overlays/gpu)");
    } else {
      checkup->Skip("gpu", absl::StrCat("no GPU here: ", driver.problem));
    }
    return;
  }
  const std::string found = absl::StrCat(driver.devices, " here, the first is ", driver.name);
  if (!daemon.uses_gpu) {
    checkup->Warn("gpu", absl::StrCat(found, "; the daemon codes on the CPU"),
                  "its log says why (\"uses no GPU\"): device, plugin, the container's claim");
  } else if (!local) {
    checkup->Ok("gpu", absl::StrCat(found, "; device memory is not shared over TCP"));
  } else {
    checkup->Ok("gpu", absl::StrCat(found, "; the daemon has one, too"));
  }
}

}  // namespace kvstow::tool
