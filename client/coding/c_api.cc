// The CPU codec behind the C ABI.
#include <exception>

#include "client/kvstow/c_coder.h"

extern "C" kvstow_coder* kvstow_cpu_coder_create(uint32_t threads) {
  kvstow::CpuCoderOptions options;
  if (threads != 0) options.threads = threads;
  try {  // out of memory or threads
    return new kvstow_coder{kvstow::MakeCpuCoder(options)};
  } catch (const std::exception&) {
    return nullptr;
  }
}
