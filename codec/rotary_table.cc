#include "codec/rotary_table.h"

#include <cmath>

namespace kvstow {

RotaryOffsets::RotaryOffsets(const RotaryEmbedding& rotary, uint32_t tokens)
    : rotary_(rotary),
      tokens_(tokens),
      pairs_(static_cast<uint32_t>(rotary.inverse_frequencies.size())),
      cos_(size_t{tokens} * pairs_),
      sin_(size_t{tokens} * pairs_) {
  for (size_t t = 0; t < tokens_; ++t) {
    for (size_t i = 0; i < pairs_; ++i) {
      const double angle = static_cast<double>(t) * rotary_.inverse_frequencies[i];
      cos_[t * pairs_ + i] = std::cos(angle);
      sin_[t * pairs_ + i] = std::sin(angle);
    }
  }
}

RotaryTable::RotaryTable(const RotaryOffsets& offsets, uint64_t first_position)
    : pairing_(offsets.rotary_.pairing),
      offset_(offsets.rotary_.offset),
      pairs_(offsets.pairs_),
      cos_(offsets.cos_.size()),
      sin_(offsets.sin_.size()) {
  for (size_t i = 0; i < pairs_; ++i) {
    const double angle =
        static_cast<double>(first_position) * offsets.rotary_.inverse_frequencies[i];
    const double cos = std::cos(angle);
    const double sin = std::sin(angle);
    for (size_t at = i; at < cos_.size(); at += pairs_) {
      cos_[at] = static_cast<float>(cos * offsets.cos_[at] - sin * offsets.sin_[at]);
      sin_[at] = static_cast<float>(sin * offsets.cos_[at] + cos * offsets.sin_[at]);
    }
  }
}

}  // namespace kvstow
