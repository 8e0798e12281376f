#include "client_cuda/page_table.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "client/paged_check.h"
#include "gpu/cuda_status.h"

namespace kvstow {

absl::StatusOr<PagedPlane> DescribePaged(const PlaneSpec& plane, const PagedKv& paged,
                                         std::span<const uint32_t> pages,
                                         std::span<const std::byte> plane_bytes) {
  KVSTOW_RETURN_IF_ERROR(CheckPaged(plane, paged, pages.size(), plane_bytes.size()));
  PagedPlane out;
  // Which of the two is written is the launch's to say.
  out.plane = reinterpret_cast<uint8_t*>(const_cast<std::byte*>(plane_bytes.data()));
  out.base = reinterpret_cast<uint8_t*>(paged.base);
  out.page_stride = paged.page_stride;
  out.head_stride = paged.head_stride;
  out.token_stride = paged.token_stride;
  out.pages = pages.data();
  out.page_tokens = paged.page_tokens;
  out.tokens = plane.tokens;
  out.rows = plane.heads * plane.tokens;
  out.row_bytes = static_cast<uint32_t>(plane.dim * SizeOf(plane.dtype));
  return out;
}

std::span<PagedPlane> Descriptions(LentMemory::Buffers* lent, size_t planes) {
  return std::span(reinterpret_cast<PagedPlane*>(lent->host.data()), planes);
}

absl::Status PageTable::Set(DevicePages pages) {
  pages_ = std::move(pages);
  first_page_.clear();
  std::vector<uint32_t> all;
  for (const auto& of_block : pages_.of_block) {
    first_page_.push_back(all.size());
    all.insert(all.end(), of_block.begin(), of_block.end());
  }
  const size_t bytes = all.size() * sizeof(uint32_t);
  KVSTOW_RETURN_IF_ERROR(table_.Reserve(bytes));
  if (stream_.get() == nullptr) {
    auto stream = gpu::MakeStream();
    if (!stream.ok()) return stream.status();
    stream_ = *std::move(stream);
  }
  KVSTOW_CUDA_RETURN_IF_ERROR(
      cudaMemcpyAsync(table_.data(), all.data(), bytes, cudaMemcpyHostToDevice, stream_.get()));
  KVSTOW_CUDA_RETURN_IF_ERROR(cudaStreamSynchronize(stream_.get()));
  return absl::OkStatus();
}

absl::StatusOr<PagedPlane> PageTable::Describe(const PlaneSpec& plane, size_t block,
                                               const std::byte* bytes) const {
  if (plane.is_opaque()) {
    return absl::InvalidArgumentError(
        absl::StrCat("layer ", plane.layer, " is opaque: it has no rows to lay into pages"));
  }
  if (block >= pages_.of_block.size()) {
    return absl::InvalidArgumentError(absl::StrCat("no pages of block ", block, " were named"));
  }
  const auto* const first = reinterpret_cast<const uint32_t*>(table_.data()) + first_page_[block];
  return DescribePaged(plane, pages_.of_plane(plane), {first, pages_.of_block[block].size()},
                       {bytes, plane.raw_bytes});
}

}  // namespace kvstow
