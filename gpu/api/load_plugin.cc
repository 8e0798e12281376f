#include "gpu/api/load_plugin.h"

#include <dlfcn.h>

#include <filesystem>
#include <system_error>

#include "absl/strings/str_cat.h"
#include "gpu/api/check_plugin.h"

namespace kvstow::gpu {
namespace {

namespace fs = std::filesystem;

constexpr char kFileName[] = "libkvstow_gpu.so";

absl::StatusOr<std::string> FindPlugin() {
  std::error_code error;
  const fs::path here = fs::read_symlink("/proc/self/exe", error).parent_path();
  for (const fs::path& folder :
       {here, here / "../lib/kvstow", here / "../lib/x86_64-linux-gnu/kvstow", here / "../../gpu",
        here / "../gpu"}) {
    if (fs::exists(folder / kFileName, error)) return (folder / kFileName).lexically_normal();
  }
  return absl::UnavailableError(absl::StrCat("no ", kFileName, " beside the program"));
}

}  // namespace

absl::StatusOr<std::unique_ptr<Device>> OpenDevice(const std::string& path, int index) {
  std::string file = path;
  if (file.empty()) {
    auto found = FindPlugin();
    if (!found.ok()) return found.status();
    file = *std::move(found);
  }
  void* library = dlopen(file.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) {
    return absl::UnavailableError(absl::StrCat("cannot load the GPU plugin: ", dlerror()));
  }
  const auto* plugin = static_cast<const Plugin*>(dlsym(library, kPluginEntry));
  if (plugin == nullptr) {
    return absl::UnavailableError(absl::StrCat(file, " is no kvstow GPU plugin"));
  }
  if (absl::Status s = CheckPlugin(file, *plugin); !s.ok()) return s;
  return plugin->open(index);
}

}  // namespace kvstow::gpu
