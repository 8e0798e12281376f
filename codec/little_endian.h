// Little-endian fields in byte buffers. The library supports little-endian machines only, so these
// are unaligned loads and stores.
#pragma once

#include <bit>
#include <cstddef>
#include <cstring>
#include <type_traits>

namespace kvstow {

static_assert(std::endian::native == std::endian::little);

template <typename T>
T LoadLe(const std::byte* from) {
  static_assert(std::is_trivially_copyable_v<T>);
  T value;
  std::memcpy(&value, from, sizeof(T));
  return value;
}

template <typename T>
void StoreLe(T value, std::byte* to) {
  static_assert(std::is_trivially_copyable_v<T>);
  std::memcpy(to, &value, sizeof(T));
}

}  // namespace kvstow
