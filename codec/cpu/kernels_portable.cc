#include "codec/cpu/kernels.h"

#define KVSTOW_KERNELS_NAME "portable"

namespace kvstow::cpu {
namespace portable {
#include "codec/cpu/kernels/all.inc"
}  // namespace portable

const Kernels& PortableKernels() { return portable::kKernels; }

}  // namespace kvstow::cpu
