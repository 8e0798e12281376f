#include "codec/testing/trace.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <sstream>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "npy/npy.h"

namespace kvstow::testing {
namespace {

// KVSTOW_TESTDATA names the folder where the programs run far from their sources.
std::string CutFolder() {
  const char* const moved = std::getenv("KVSTOW_TESTDATA");
  return std::string(moved != nullptr ? moved : KVSTOW_SOURCE_DIR "/testdata") + "/kv-traces";
}

bool ReadInto(const std::string& path, std::vector<std::byte>* out, std::string* why) {
  auto array = ReadNpy(path);
  if (!array.ok()) {
    *why = std::string(array.status().message());
    return false;
  }
  *out = std::move(array->data);
  return true;
}

double Number(absl::string_view text) {
  double value = 0;
  if (!absl::SimpleAtod(text, &value)) std::abort();
  return value;
}

}  // namespace

bool Trace::Load(const std::string& folder, std::vector<uint32_t> layers, std::string* why) {
  std::vector<std::byte> frequencies;
  layers_ = std::move(layers);
  if (!ReadInto(folder + "/text_k.npy", &k_, why) || !ReadInto(folder + "/text_v.npy", &v_, why) ||
      !ReadInto(folder + "/inv_freq.npy", &frequencies, why)) {
    return false;
  }
  const auto* f = reinterpret_cast<const float*>(frequencies.data());
  inverse_frequencies_.assign(f, f + frequencies.size() / sizeof(float));
  const size_t bytes = layers_.size() * kHeads * kTokens * kDim * 2;
  if (k_.size() != bytes || v_.size() != bytes || inverse_frequencies_.size() != kDim / 2) {
    *why = absl::StrCat(folder, " holds arrays of other shapes");
    return false;
  }
  return true;
}

const Trace& Trace::Cut() {
  static const Trace* trace = [] {
    auto* t = new Trace;
    std::string why;
    if (!t->Load(CutFolder(), {0, 3, 6, 7}, &why)) {
      std::fprintf(stderr, "%s\n", why.c_str());
      std::abort();
    }
    return t;
  }();
  return *trace;
}

const Trace* Trace::Full(std::string* why) {
  const char* folder = std::getenv("KVSTOW_TRACES");
  if (folder == nullptr) {
    *why = "KVSTOW_TRACES does not name a folder with the full trace";
    return nullptr;
  }
  static Trace trace;
  if (trace.layers_.empty() && !trace.Load(folder, {0, 1, 2, 3, 4, 5, 6, 7}, why)) return nullptr;
  return &trace;
}

bool Trace::Has(uint32_t layer) const {
  return std::find(layers_.begin(), layers_.end(), layer) != layers_.end();
}

std::span<const std::byte> Trace::Rows(bool k, uint32_t layer, uint32_t head, uint32_t first_token,
                                       uint32_t tokens) const {
  const auto index =
      static_cast<size_t>(std::find(layers_.begin(), layers_.end(), layer) - layers_.begin());
  constexpr size_t kRowBytes = size_t{kDim} * 2;
  const size_t at = ((index * kHeads + head) * kTokens + first_token) * kRowBytes;
  return std::span(k ? k_ : v_).subspan(at, tokens * kRowBytes);
}

RotaryEmbedding Trace::rotary() const {
  RotaryEmbedding rotary;
  rotary.inverse_frequencies = inverse_frequencies_;
  return rotary;
}

std::vector<OracleTile> ReadOracle() {
  std::ifstream in(CutFolder() + "/oracle.csv");
  std::vector<OracleTile> tiles;
  for (std::string line; std::getline(in, line);) {
    const std::vector<std::string> f = absl::StrSplit(line, ',');
    OracleTile t;
    t.plane = f[0];
    const auto integer = [&](size_t i) { return static_cast<uint32_t>(Number(f[i])); };
    t.layer = integer(1);
    t.head = integer(2);
    t.heads = integer(3);
    t.first_token = integer(4);
    t.tokens = integer(5);
    t.k = integer(6);
    t.edge = Number(f[7]);
    t.rank = integer(8);
    t.margin = Number(f[9]);
    t.energy = Number(f[10]);
    t.energy_left = Number(f[11]);
    size_t at = 13;
    const uint32_t singular = integer(12);
    for (uint32_t i = 0; i < singular; ++i) t.singular.push_back(Number(f[at++]));
    for (uint32_t i = 0; i < t.rank; ++i) t.shrunk.push_back(Number(f[at++]));
    while (at < f.size()) t.overlaps.push_back(Number(f[at++]));
    tiles.push_back(std::move(t));
  }
  return tiles;
}

}  // namespace kvstow::testing
