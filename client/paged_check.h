// Whether a plane fits the pages that are named for it; what kvstow/pages.h and its CUDA twin
// refuse.
#pragma once

#include <cstddef>

#include "absl/status/status.h"
#include "client/kvstow/pages.h"
#include "space/plane_layout.h"

namespace kvstow {

// Of a plane of `bytes` and so many pages. INVALID_ARGUMENT says what does not fit.
absl::Status CheckPaged(const PlaneSpec& plane, const PagedKv& paged, size_t pages, size_t bytes);

}  // namespace kvstow
