#include "client/kvstow/pages.h"

#include <cstring>

#include "absl/functional/function_ref.h"
#include "absl/strings/str_cat.h"
#include "client/paged_check.h"

namespace kvstow {
namespace {

size_t RowBytes(const PlaneSpec& plane) { return plane.dim * SizeOf(plane.dtype); }

// Calls copy(place in the plane, place in the pages, bytes) for runs that are contiguous in both.
void ForRuns(const PlaneSpec& plane, const PagedKv& paged, std::span<const uint32_t> pages,
             absl::FunctionRef<void(size_t, std::byte*, size_t)> copy) {
  const size_t row = RowBytes(plane);
  const uint32_t rows_a_run = paged.token_stride == row ? paged.page_tokens : 1;
  size_t at = 0;
  for (uint32_t head = 0; head < plane.heads; ++head) {
    for (const uint32_t page : pages) {
      std::byte* const first = paged.base + page * paged.page_stride + head * paged.head_stride;
      for (uint32_t token = 0; token < paged.page_tokens; token += rows_a_run) {
        copy(at, first + token * paged.token_stride, rows_a_run * row);
        at += rows_a_run * row;
      }
    }
  }
}

}  // namespace

absl::Status CheckPaged(const PlaneSpec& plane, const PagedKv& paged, size_t pages, size_t bytes) {
  if (plane.is_opaque()) return absl::InvalidArgumentError("an opaque plane has no rows to page");
  if (paged.page_tokens == 0 || plane.tokens % paged.page_tokens != 0) {
    return absl::InvalidArgumentError(absl::StrCat(
        "pages of ", paged.page_tokens, " tokens do not divide a block of ", plane.tokens));
  }
  if (pages != plane.tokens / paged.page_tokens) {
    return absl::InvalidArgumentError(
        absl::StrCat(pages, " pages; a block has ", plane.tokens / paged.page_tokens));
  }
  if (bytes != plane.raw_bytes) {
    return absl::InvalidArgumentError(
        absl::StrCat(bytes, " bytes; the plane has ", plane.raw_bytes));
  }
  return absl::OkStatus();
}

PagedKv PagedKv::Nhd(std::byte* base, const PlaneSpec& plane, uint32_t page_tokens,
                     size_t page_stride) {
  const size_t row = RowBytes(plane);
  const size_t token = plane.heads * row;
  return {base, page_stride != 0 ? page_stride : page_tokens * token, row, token, page_tokens};
}

PagedKv PagedKv::Hnd(std::byte* base, const PlaneSpec& plane, uint32_t page_tokens,
                     size_t page_stride) {
  const size_t row = RowBytes(plane);
  const size_t head = page_tokens * row;
  return {base, page_stride != 0 ? page_stride : plane.heads * head, head, row, page_tokens};
}

absl::Status GatherPlane(const PlaneSpec& plane, const PagedKv& from,
                         std::span<const uint32_t> pages, std::span<std::byte> plane_bytes) {
  if (absl::Status s = CheckPaged(plane, from, pages.size(), plane_bytes.size()); !s.ok()) return s;
  ForRuns(plane, from, pages, [&](size_t at, std::byte* paged, size_t bytes) {
    std::memcpy(plane_bytes.data() + at, paged, bytes);
  });
  return absl::OkStatus();
}

absl::Status ScatterPlane(const PlaneSpec& plane, std::span<const std::byte> plane_bytes,
                          const PagedKv& to, std::span<const uint32_t> pages) {
  if (absl::Status s = CheckPaged(plane, to, pages.size(), plane_bytes.size()); !s.ok()) return s;
  ForRuns(plane, to, pages, [&](size_t at, std::byte* paged, size_t bytes) {
    std::memcpy(paged, plane_bytes.data() + at, bytes);
  });
  return absl::OkStatus();
}

}  // namespace kvstow
