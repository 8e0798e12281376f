// The real KV trace in testdata/kv-traces, or the full one in the folder that KVSTOW_TRACES names.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "space/space_spec.h"

namespace kvstow::testing {

// The `text` prompt. K and V are FP16 [layers, 2, 1024, 128].
class Trace {
 public:
  static constexpr uint32_t kHeads = 2;
  static constexpr uint32_t kTokens = 1024;
  static constexpr uint32_t kDim = 128;

  // The cut in the repository. Ends the program with a message when it cannot be read.
  static const Trace& Cut();
  // Null, with the reason in `why`, unless KVSTOW_TRACES names a full trace.
  static const Trace* Full(std::string* why);

  // Model layer numbers held, ascending.
  const std::vector<uint32_t>& layers() const { return layers_; }
  bool Has(uint32_t layer) const;
  // Rows first_token.. of one head, kDim FP16 values each.
  std::span<const std::byte> Rows(bool k, uint32_t layer, uint32_t head, uint32_t first_token,
                                  uint32_t tokens) const;
  RotaryEmbedding rotary() const;

 private:
  bool Load(const std::string& folder, std::vector<uint32_t> layers, std::string* why);

  std::vector<uint32_t> layers_;
  std::vector<std::byte> k_, v_;
  std::vector<float> inverse_frequencies_;
};

struct OracleTile {
  std::string plane;
  uint32_t layer = 0, head = 0, heads = 0, first_token = 0, tokens = 0;
  uint32_t k = 0, rank = 0;
  double edge = 0, margin = 0, energy = 0, energy_left = 0;
  std::vector<double> singular, shrunk, overlaps;
};
std::vector<OracleTile> ReadOracle();

}  // namespace kvstow::testing
