// Reads and writes NumPy's .npy files, as far as KV caches need them: C order, versions 1 to 3, one
// of a few element types. Format: numpy.lib.format, NEP 1.
//
// All functions are thread-safe. A parser never trusts the bytes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace kvstow {

enum class NpyType {
  kFp16,    // '<f2'
  kBf16,    // NumPy has none: read from 'V2', written as '<V2'
  kFp32,    // '<f4'
  kUint8,   // '|u1'
  kUint16,  // '<u2'; some writers keep bfloat16 in it
  kUint32,  // '<u4'
};

size_t SizeOf(NpyType type);

struct NpyArray {
  NpyType type = NpyType::kFp32;
  std::vector<uint64_t> shape;
  std::vector<std::byte> data;  // C order, little-endian

  // Product of the shape; 1 for a scalar.
  uint64_t elements() const;
  // REQUIRES sizeof(T) == SizeOf(type).
  template <typename T>
  std::span<const T> As() const {
    return {reinterpret_cast<const T*>(data.data()), data.size() / sizeof(T)};
  }
};

// Arrays larger than this are refused.
inline constexpr uint64_t kMaxNpyBytes = uint64_t{16} << 30;

// INVALID_ARGUMENT when the bytes are no such array, and names what is wrong.
absl::StatusOr<NpyArray> ParseNpy(std::span<const std::byte> file);
// INVALID_ARGUMENT when data and shape disagree.
absl::StatusOr<std::vector<std::byte>> FormatNpy(const NpyArray& array);

// As above; NOT_FOUND or UNAVAILABLE with the path when the file cannot be read or written.
absl::StatusOr<NpyArray> ReadNpy(const std::string& path);
absl::Status WriteNpy(const std::string& path, const NpyArray& array);

}  // namespace kvstow
