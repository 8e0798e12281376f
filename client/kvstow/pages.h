// Between an engine's paged KV cache and kvstow's planes: gathers a plane out of pages, scatters
// one into pages. For PutBlocksRequest::fill and GetBlocksRequest::take, so that each byte is
// copied once between the pages and the data path.
//
// Pure functions on host memory, thread-safe.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "absl/status/status.h"
#include "space/plane_layout.h"

namespace kvstow {

// Where the K (or V) of one layer lies: page p begins at base + p * page_stride bytes, the row of
// (head, token) within it at head * head_stride + token * token_stride. A row, dim values of one
// head and token, is contiguous.
struct PagedKv {
  std::byte* base = nullptr;
  size_t page_stride = 0;
  size_t head_stride = 0;
  size_t token_stride = 0;
  uint32_t page_tokens = 0;

  // [page][token][head][dim]: FlashInfer's NHD, vLLM's FlashAttention cache. `page_stride` in
  // bytes; 0 when pages follow each other closely.
  static PagedKv Nhd(std::byte* base, const PlaneSpec& plane, uint32_t page_tokens,
                     size_t page_stride = 0);
  // [page][head][token][dim]: FlashInfer's HND, TensorRT-LLM.
  static PagedKv Hnd(std::byte* base, const PlaneSpec& plane, uint32_t page_tokens,
                     size_t page_stride = 0);
};

// `pages` are the block's pages in the order of its tokens: plane.tokens / page_tokens of them.
// INVALID_ARGUMENT when they are not so many, when a page does not divide the block, or when
// `plane_bytes` is not plane.raw_bytes long; nothing was copied then. Opaque planes have no rows.
absl::Status GatherPlane(const PlaneSpec& plane, const PagedKv& from,
                         std::span<const uint32_t> pages, std::span<std::byte> plane_bytes);
absl::Status ScatterPlane(const PlaneSpec& plane, std::span<const std::byte> plane_bytes,
                          const PagedKv& to, std::span<const uint32_t> pages);

}  // namespace kvstow
