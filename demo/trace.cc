#include "demo/trace.h"

#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"

namespace kvstow {
namespace {

// The model layers that the cut keeps (testdata/kv-traces/README.md).
const std::vector<uint32_t> kLayers = {0, 3, 6, 7};

absl::Status Load(const std::string& folder, const char* name, size_t rank, NpyArray* out) {
  auto array = ReadNpy(absl::StrCat(folder, "/", name));
  if (!array.ok()) return array.status();
  if (array->shape.size() != rank) {
    return absl::InvalidArgumentError(
        absl::StrCat(folder, "/", name, " has ", array->shape.size(), " dimensions, not ", rank));
  }
  *out = *std::move(array);
  return absl::OkStatus();
}

absl::Status LoadTokens(const std::string& folder, const char* name, std::vector<uint32_t>* out) {
  NpyArray array;
  if (auto s = Load(folder, name, 1, &array); !s.ok()) return s;
  const auto tokens = array.As<uint32_t>();
  out->assign(tokens.begin(), tokens.end());
  return absl::OkStatus();
}

SpaceSpec SpecOf(const DemoTrace& trace, const NpyArray& inv_freq) {
  SpaceSpec spec;
  spec.model = {"kvstow/demo-llama-28m", "1", ""};
  LayerGroup group;
  group.layers = kLayers;
  group.kv_heads = static_cast<uint32_t>(trace.heads());
  group.k_dim = group.v_dim = static_cast<uint32_t>(trace.dim());
  const auto frequencies = inv_freq.As<float>();
  group.rotary =
      RotaryEmbedding{{frequencies.begin(), frequencies.end()}, RotaryEmbedding::Pairing::kHalf, 0};
  spec.groups = {group};
  return spec;
}

}  // namespace

std::vector<std::byte> DemoTrace::TextPlane(size_t layer, PlaneKind kind, size_t block) const {
  const NpyArray& from = kind == PlaneKind::kK ? text_k : text_v;
  const size_t tile = spec.block_tokens * dim() * SizeOf(DType::kFp16);
  std::vector<std::byte> plane(heads() * tile);
  for (size_t h = 0; h < heads(); ++h) {
    const size_t head_begin = (layer * heads() + h) * tokens() * dim() * SizeOf(DType::kFp16);
    std::memcpy(plane.data() + h * tile, from.data.data() + head_begin + block * tile, tile);
  }
  return plane;
}

absl::StatusOr<DemoTrace> LoadDemoTrace(const std::string& folder) {
  DemoTrace trace;
  NpyArray inv_freq;
  absl::Status status;
  status.Update(Load(folder, "text_k.npy", 4, &trace.text_k));
  status.Update(Load(folder, "text_v.npy", 4, &trace.text_v));
  status.Update(Load(folder, "branch_tail_k.npy", 4, &trace.branch_tail_k));
  status.Update(Load(folder, "branch_tail_v.npy", 4, &trace.branch_tail_v));
  status.Update(Load(folder, "branch_q.npy", 4, &trace.branch_q));
  status.Update(Load(folder, "inv_freq.npy", 1, &inv_freq));
  status.Update(LoadTokens(folder, "text_tokens.npy", &trace.text_tokens));
  status.Update(LoadTokens(folder, "branch_tokens.npy", &trace.branch_tokens));
  if (!status.ok()) return status;
  if (trace.layers() != kLayers.size()) {
    return absl::InvalidArgumentError(
        absl::StrCat(folder, "/text_k.npy has ", trace.layers(), " layers, not ", kLayers.size()));
  }
  trace.spec = SpecOf(trace, inv_freq);
  return trace;
}

}  // namespace kvstow
