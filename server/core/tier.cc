#include "server/core/tier.h"

namespace kvstow {

absl::string_view Name(TierKind kind) {
  switch (kind) {
    case TierKind::kGpu:
      return "gpu";
    case TierKind::kHost:
      return "host";
  }
  return "unknown";
}

}  // namespace kvstow
