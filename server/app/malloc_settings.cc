#include "server/app/malloc_settings.h"

#include <malloc.h>

namespace kvstow {

void TuneMalloc() {
  mallopt(M_TRIM_THRESHOLD, 256 << 20);
  mallopt(M_TOP_PAD, 64 << 20);
  mallopt(M_MMAP_THRESHOLD, 32 << 20);
}

}  // namespace kvstow
