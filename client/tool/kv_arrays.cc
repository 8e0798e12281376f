#include "client/tool/kv_arrays.h"

#include <algorithm>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace kvstow::tool {
namespace {

DType TypeOf(const NpyArray& array) {
  switch (array.type) {
    case NpyType::kFp32:
      return DType::kFp32;
    case NpyType::kBf16:
    case NpyType::kUint16:
      return DType::kBf16;
    default:
      return DType::kFp16;
  }
}

NpyType TypeOf(DType dtype) {
  switch (dtype) {
    case DType::kFp32:
      return NpyType::kFp32;
    case DType::kBf16:
      return NpyType::kBf16;
    default:
      return NpyType::kFp16;
  }
}

absl::StatusOr<NpyArray> ReadOne(absl::string_view flag, const std::string& path) {
  absl::StatusOr<NpyArray> array = ReadNpy(path);
  if (!array.ok()) {
    return absl::InvalidArgumentError(absl::StrCat("--", flag, ": ", array.status().message()));
  }
  if (array->shape.size() != 4) {
    return absl::InvalidArgumentError(absl::StrCat("--", flag, " has shape [",
                                                   absl::StrJoin(array->shape, ", "),
                                                   "]; it must be [layers, heads, tokens, dim]"));
  }
  if (array->type == NpyType::kUint8 || array->type == NpyType::kUint32) {
    return absl::InvalidArgumentError(
        absl::StrCat("--", flag, " must be float16, bfloat16 or float32"));
  }
  return array;
}

NpyArray Zeros(DType dtype, std::vector<uint64_t> shape) {
  NpyArray array;
  array.type = TypeOf(dtype);
  array.shape = std::move(shape);
  array.data.resize(array.elements() * SizeOf(array.type));
  return array;
}

}  // namespace

absl::StatusOr<KvArrays> KvArrays::Read(const std::string& k_path, const std::string& v_path) {
  KvArrays arrays;
  absl::StatusOr<NpyArray> k = ReadOne("k", k_path), v = ReadOne("v", v_path);
  if (!k.ok()) return k.status();
  if (!v.ok()) return v.status();
  if (!std::equal(k->shape.begin(), k->shape.begin() + 3, v->shape.begin()) ||
      TypeOf(*k) != TypeOf(*v)) {
    return absl::InvalidArgumentError(
        "K and V must have the same layers, heads, tokens and element type");
  }
  arrays.k_ = *std::move(k);
  arrays.v_ = *std::move(v);
  return arrays;
}

absl::StatusOr<KvArrays> KvArrays::Make(const PlaneLayout& layout, size_t blocks) {
  const PlaneSpec& k = layout.planes().front();
  const PlaneSpec& v = layout.planes().back();
  const uint64_t tokens = blocks * layout.spec().block_tokens;
  KvArrays arrays;
  arrays.k_ = Zeros(k.dtype, {layout.layers().size(), k.heads, tokens, k.dim});
  arrays.v_ = Zeros(v.dtype, {layout.layers().size(), v.heads, tokens, v.dim});
  if (absl::Status s = arrays.Check(layout); !s.ok()) return s;
  return arrays;
}

absl::Status KvArrays::Check(const PlaneLayout& layout) const {
  for (const PlaneSpec& plane : layout.planes()) {
    if (plane.kind != PlaneKind::kK && plane.kind != PlaneKind::kV) {
      return absl::InvalidArgumentError("arrays of K and V cannot hold latent or opaque layers");
    }
    const NpyArray& array = plane.kind == PlaneKind::kK ? k_ : v_;
    if (array.shape[0] != layout.layers().size() || array.shape[1] != plane.heads ||
        array.shape[3] != plane.dim || TypeOf(array) != plane.dtype) {
      return absl::InvalidArgumentError(
          absl::StrCat("the arrays do not fit the space: ", Name(plane.kind), " is [",
                       absl::StrJoin(array.shape, ", "), "] of ", Name(TypeOf(array)), ", layer ",
                       plane.layer, " has ", plane.heads, " heads of ", plane.dim, " in ",
                       Name(plane.dtype), ", and there are ", layout.layers().size(), " layers"));
    }
  }
  return absl::OkStatus();
}

SpaceFlags::Known KvArrays::Shape() const {
  SpaceFlags::Known known;
  known.layers = k_.shape[0];
  known.shard_heads = k_.shape[1];
  known.k_dim = k_.shape[3];
  known.v_dim = v_.shape[3];
  known.dtype = TypeOf(k_);
  return known;
}

size_t KvArrays::Offset(const PlaneLayout& layout, const PlaneSpec& plane, size_t block,
                        uint32_t head) const {
  const auto& layers = layout.layers();
  const size_t layer = std::lower_bound(layers.begin(), layers.end(), plane.layer) - layers.begin();
  const size_t row = (layer * plane.heads + head) * tokens() + block * plane.tokens;
  return row * plane.dim * SizeOf(plane.dtype);
}

void KvArrays::CopyOut(const PlaneLayout& layout, const PlaneSpec& plane, size_t block,
                       std::span<std::byte> to) const {
  const NpyArray& array = plane.kind == PlaneKind::kK ? k_ : v_;
  for (uint32_t h = 0; h < plane.heads; ++h) {
    std::memcpy(to.data() + h * plane.tile_bytes(),
                array.data.data() + Offset(layout, plane, block, h), plane.tile_bytes());
  }
}

void KvArrays::CopyIn(const PlaneLayout& layout, const PlaneSpec& plane, size_t block,
                      std::span<const std::byte> from) {
  NpyArray& array = plane.kind == PlaneKind::kK ? k_ : v_;
  for (uint32_t h = 0; h < plane.heads; ++h) {
    std::memcpy(array.data.data() + Offset(layout, plane, block, h),
                from.data() + h * plane.tile_bytes(), plane.tile_bytes());
  }
}

absl::Status KvArrays::Write(const std::string& k_path, const std::string& v_path) const {
  if (!k_path.empty()) {
    if (absl::Status s = WriteNpy(k_path, k_); !s.ok()) return s;
  }
  return v_path.empty() ? absl::OkStatus() : WriteNpy(v_path, v_);
}

}  // namespace kvstow::tool
