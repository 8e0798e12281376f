// Coding KV in the worker: with a PlaneCoder in ClientOptions, planes are encoded and decoded in
// this process, so that on every path they take what they take stored, a seventh of FP16 with the
// default codec. The daemon keeps, checks and returns them, and codes nothing.
//
// MakeCpuCoder is in the library kvstow::coding, apart from kvstow::client, which so links no
// codec. Other devices implement the same interface.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "space/space_spec.h"

namespace kvstow {

// Over one tile: its values x, and x^ what the encoded form decodes to, rounded and saturated.
struct TileSums {
  double energy = 0;          // x^2
  double error = 0;           // (x^ - x)^2
  double centred_energy = 0;  // the same two with each channel's mean over the tile taken off x
  double centred_error = 0;   // and off x^ - x
  double inner_product = 0;   // x^ x
};

// Codes the planes of one space and shard. Thread-safe.
//
// Jobs, and what they point to, stay where they are until `done` was called, which happens exactly
// once, on any thread or on the caller's stack, and is quick. A job may be finished after the
// SpaceCoder is gone.
class SpaceCoder {
 public:
  virtual ~SpaceCoder() = default;

  // What coding the planes of a block needs to know of its positions; made once a block.
  class Positions {
   public:
    virtual ~Positions() = default;
  };
  virtual std::shared_ptr<const Positions> At(uint64_t first_position) const = 0;

  // What an encoded plane can have at most; `plane` as in PlaneLayout::planes().
  virtual size_t MaxEncodedBytes(size_t plane) const = 0;

  using Done = std::function<void(absl::Status)>;

  struct EncodeJob {
    size_t plane = 0;
    std::shared_ptr<const Positions> positions = nullptr;
    std::span<const std::byte> values = {};  // the plane's raw_bytes
    // Not null: a job that is found to be unwanted is left undone, with CANCELLED.
    const std::atomic<bool>* unwanted = nullptr;

    // Out: the plane as docs/format.md has it, its CRC32C, and the sums of its tiles, in order of
    // heads. No sums of planes that no codec touches.
    std::vector<std::byte> bytes = {};
    uint32_t crc32c = 0;
    std::vector<TileSums> tiles = {};
  };
  virtual void Encode(EncodeJob* job, Done done) = 0;

  struct DecodeJob {
    size_t plane = 0;
    std::shared_ptr<const Positions> positions = nullptr;
    std::span<const std::byte> bytes = {};
    uint32_t crc32c = 0;
    const std::atomic<bool>* unwanted = nullptr;

    std::span<std::byte> values = {};  // out, the plane's raw_bytes
  };
  // DATA_LOSS, and nothing written, for bytes that have another checksum or are no such plane.
  virtual void Decode(DecodeJob* job, Done done) = 0;
};

// A device that codes, shared by any number of clients. Thread-safe.
class PlaneCoder {
 public:
  virtual ~PlaneCoder() = default;
  virtual absl::string_view device() const = 0;  // "cpu", "cuda"
  // INVALID_ARGUMENT as PlaneLayout::Create.
  virtual absl::StatusOr<std::shared_ptr<SpaceCoder>> ForSpace(const SpaceSpec& spec,
                                                               const Shard& shard) = 0;
};

struct CpuCoderOptions {
  size_t threads = 2;  // that code; what Gets wait for goes first. At least 1
};
std::shared_ptr<PlaneCoder> MakeCpuCoder(const CpuCoderOptions& options = {});

}  // namespace kvstow
