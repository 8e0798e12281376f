// Whether the GPU plugin and this program, which share C++ types, are of one build.
#pragma once

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "gpu/api/device.h"
#include "gpu/api/plugin_version.h"

namespace kvstow::gpu {

// UNAVAILABLE where it was built from other headers, or by another compiler. `file` names it in the
// message.
inline absl::Status CheckPlugin(absl::string_view file, const Plugin& plugin) {
  if (absl::string_view(plugin.version) == KVSTOW_PLUGIN_VERSION) return absl::OkStatus();
  return absl::UnavailableError(absl::StrCat(file, " is of version ", plugin.version,
                                             ", this program of ", KVSTOW_PLUGIN_VERSION,
                                             ": install both from one build"));
}

}  // namespace kvstow::gpu
