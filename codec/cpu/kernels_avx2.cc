// Compiled with -mavx2 -mfma -mf16c; nothing here may run before IsaSupported said yes.
#include <immintrin.h>

#include "codec/cpu/kernels.h"

#define KVSTOW_KERNELS_NAME "avx2"

namespace kvstow::cpu {
namespace avx2 {
#include "codec/cpu/kernels/all.inc"
}  // namespace avx2

const Kernels& Avx2Kernels() { return avx2::kKernels; }

}  // namespace kvstow::cpu
