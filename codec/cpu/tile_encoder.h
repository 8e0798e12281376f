// Encodes one tile on the CPU: scale, rotary embedding undone, channel means, spectrum and low-rank
// part (stage 1), residual codes (stage 2), and the measured error that decides what is kept.
//
// eOptShrinkQ, Su, arXiv 2605.02905, with the loop closed: factors are quantised first, their
// values refitted, and the residual is taken against what the decoder will see.
#pragma once

#include "codec/codec.h"
#include "codec/cpu/kernels.h"
#include "codec/cpu/spectrum.h"
#include "codec/cpu/tile_decoder.h"
#include "codec/factor_codebook.h"
#include "codec/scratch.h"

namespace kvstow::cpu {

// Not thread-safe; reuses its memory.
class TileEncoder {
 public:
  explicit TileEncoder(const Kernels& kernels)
      : kernels_(kernels), spectrum_(kernels), decoder_(kernels) {}

  // REQUIRES a job that CheckEncodeJob accepts.
  void Encode(TileEncodeJob* job);

 private:
  // One way to code the tile, and what came of it.
  struct Candidate {
    TileHead head;
    ErrorSums sums;
    Scratch<std::byte> body;
  };

  void KeepRaw(TileEncodeJob* job, bool asked_for);
  // Fills tile_ with the scaled values, rotary embedding undone.
  void LoadTile(const TileEncodeJob& job, float largest);
  bool MeansMayPay(const TileEncodeJob& job);
  // Codes tile_ at rising bits until the bound is met; false if it never is. tile_ survives only
  // where keep_tile says so.
  bool EncodeCandidate(const TileEncodeJob& job, bool with_means, bool keep_tile, Candidate* out);
  // Makes residual_ (rotated), and the low-rank part's codes.
  void PrepareMeans(const TileEncodeJob& job);
  void PrepareLowRank(const TileEncodeJob& job);
  void RefitPhi(const TileEncodeJob& job);
  void SubtractLowRank(const TileEncodeJob& job);
  void WriteBody(const TileEncodeJob& job, Candidate* out);
  void Measure(const TileEncodeJob& job, Candidate* candidate);

  const Kernels& kernels_;
  Spectrum spectrum_;
  TileDecoder decoder_;
  FactorQuantiser u_quantiser_, v_quantiser_;

  float scale_a_ = 1, scale_b_ = 1;
  int exponent_ = 0;
  uint32_t rank_ = 0;
  Scratch<float> tile_, residual_, rotated_, means_, lengths_;
  Scratch<uint16_t> half_means_, half_phi_;
  // Factors, component by component: exact and as decoded.
  Scratch<float> u_, v_, u_decoded_, v_decoded_, v_scaled_;
  Scratch<double> phi_, weights_, fitted_, normal_matrix_;
  Scratch<uint8_t> u_codes_, v_codes_, codes_;
  Scratch<ShrunkValue> shrunk_;
  Scratch<std::byte> decoded_;
  Candidate plain_, centred_;
};

}  // namespace kvstow::cpu
