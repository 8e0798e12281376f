// KV of one prompt as two arrays [layers, heads, tokens, dim], and the planes of blocks within.
#pragma once

#include <span>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "client/tool/space_flags.h"
#include "npy/npy.h"
#include "space/plane_layout.h"

namespace kvstow::tool {

class KvArrays {
 public:
  // INVALID_ARGUMENT, written for people. uint16 arrays are taken for bfloat16.
  static absl::StatusOr<KvArrays> Read(const std::string& k_path, const std::string& v_path);
  // Zeros, for `blocks` blocks of the layout.
  static absl::StatusOr<KvArrays> Make(const PlaneLayout& layout, size_t blocks);

  // OK when the arrays hold what the layout asks for.
  absl::Status Check(const PlaneLayout& layout) const;
  SpaceFlags::Known Shape() const;
  size_t tokens() const { return k_.shape[2]; }

  // Copies one plane of block `block` out of the arrays into `to`, or from `from` into them.
  // REQUIRES Check(layout), tokens() >= (block + 1) * plane.tokens, plane.raw_bytes bytes.
  void CopyOut(const PlaneLayout& layout, const PlaneSpec& plane, size_t block,
               std::span<std::byte> to) const;
  void CopyIn(const PlaneLayout& layout, const PlaneSpec& plane, size_t block,
              std::span<const std::byte> from);

  absl::Status Write(const std::string& k_path, const std::string& v_path) const;

 private:
  KvArrays() = default;
  // Byte offset of the first row of a head in the array of its kind.
  size_t Offset(const PlaneLayout& layout, const PlaneSpec& plane, size_t block,
                uint32_t head) const;

  NpyArray k_, v_;
};

}  // namespace kvstow::tool
