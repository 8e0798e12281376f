// How KV gets from a worker to the daemon and back: tests of the whole run over every way.
#pragma once

#include <memory>
#include <ostream>
#include <string>

#include "gtest/gtest.h"
#include "kvstow/client.h"
#include "kvstow/coding.h"

namespace kvstow {

inline void PrintTo(DataPath path, std::ostream* out) { *out << std::string(Name(path)); }

namespace testing {

// A path, and who codes.
struct Way {
  DataPath path = DataPath::kAuto;
  bool worker_codes = false;
  bool device_encodes = false;  // of Puts: KV in the worker's device memory, encoded there

  void ApplyTo(ClientOptions* options) const {
    options->path = path;
    if (worker_codes) options->coder = MakeCpuCoder();
  }
};

inline void PrintTo(const Way& way, std::ostream* out) {
  *out << std::string(Name(way.path))
       << (way.worker_codes     ? "_coding"
           : way.device_encodes ? "_device_encoding"
                                : "");
}

inline auto AllWays() {
  return ::testing::Values(Way{DataPath::kGrpc}, Way{DataPath::kSharedMemory},
                           Way{DataPath::kGrpc, true}, Way{DataPath::kSharedMemory, true});
}

}  // namespace testing
}  // namespace kvstow
