// The real KV that the repository carries (testdata/kv-traces): two prompts that share their first
// tokens, as a worker would hold them.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "npy/npy.h"
#include "space/plane_layout.h"
#include "space/space_spec.h"

namespace kvstow {

struct DemoTrace {
  static constexpr uint32_t kShared = 640;  // tokens that both prompts begin with

  SpaceSpec spec;
  std::vector<uint32_t> text_tokens, branch_tokens;  // 1024 each
  NpyArray text_k, text_v;                           // FP16 [layer, head, 1024, d], keys after RoPE
  NpyArray branch_tail_k, branch_tail_v;             // FP16 [layer, head, tokens after kShared, d]
  NpyArray branch_q;                                 // FP16 [layer, query head, last 64 tokens, d]

  size_t layers() const { return text_k.shape[0]; }
  size_t heads() const { return text_k.shape[1]; }
  size_t tokens() const { return text_k.shape[2]; }
  size_t dim() const { return text_k.shape[3]; }

  // One plane of one block of `text`, C order [heads, block tokens, d]. `layer` counts the trace's.
  std::vector<std::byte> TextPlane(size_t layer, PlaneKind kind, size_t block) const;
};

// NOT_FOUND and INVALID_ARGUMENT name the file.
absl::StatusOr<DemoTrace> LoadDemoTrace(const std::string& folder);

}  // namespace kvstow
