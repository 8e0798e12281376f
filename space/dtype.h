// Element types of KV planes.
#pragma once

#include <cstddef>
#include <cstdint>

#include "absl/strings/string_view.h"

namespace kvstow {

// Values are part of the record format (docs/format.md) and of the fingerprint; never renumber.
enum class DType : uint8_t {
  kFp16 = 1,  // IEEE 754 binary16
  kBf16 = 2,  // bfloat16
  kFp32 = 3,  // IEEE 754 binary32
};

constexpr bool IsValid(DType dtype) {
  return dtype == DType::kFp16 || dtype == DType::kBf16 || dtype == DType::kFp32;
}

// Bytes of one element.
constexpr size_t SizeOf(DType dtype) { return dtype == DType::kFp32 ? 4 : 2; }

constexpr absl::string_view Name(DType dtype) {
  switch (dtype) {
    case DType::kFp16:
      return "fp16";
    case DType::kBf16:
      return "bf16";
    case DType::kFp32:
      return "fp32";
  }
  return "unknown";
}

}  // namespace kvstow
