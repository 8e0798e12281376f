// Decodes one tile on the CPU.
#pragma once

#include "codec/codec.h"
#include "codec/cpu/kernels.h"
#include "codec/scratch.h"

namespace kvstow::cpu {

// Not thread-safe; reuses its memory.
class TileDecoder {
 public:
  explicit TileDecoder(const Kernels& kernels) : kernels_(kernels) {}

  // REQUIRES a job that CheckDecodeJob accepts.
  void Decode(const TileDecodeJob& job);

 private:
  void ExpandLengths(const TileDecodeJob& job, const TileBodyLayout& at);
  void ExpandFactors(const TileDecodeJob& job, const TileBodyLayout& at);
  void ExpandMeans(const TileDecodeJob& job, const TileBodyLayout& at);

  const Kernels& kernels_;
  Scratch<float> lengths_, u_, v_, means_;
};

}  // namespace kvstow::cpu
