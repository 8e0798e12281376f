#include "space/streaming_copy.h"

#include <cstdint>
#include <cstring>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace kvstow {
namespace {

#if defined(__x86_64__)

constexpr size_t kLine = 64;
// Below it the ends, which are copied as usual, and the fence weigh more.
constexpr size_t kLeastBytes = 4096;

// Whole lines to a line's beginning.
__attribute__((target("avx2"))) void StreamLinesAvx2(std::byte* to, const std::byte* from,
                                                     size_t lines) {
  for (; lines > 0; --lines, to += kLine, from += kLine) {
    const auto* in = reinterpret_cast<const __m256i*>(from);
    auto* out = reinterpret_cast<__m256i*>(to);
    const __m256i a = _mm256_loadu_si256(in), b = _mm256_loadu_si256(in + 1);
    _mm256_stream_si256(out, a);
    _mm256_stream_si256(out + 1, b);
  }
}

void StreamLinesSse2(std::byte* to, const std::byte* from, size_t lines) {
  for (; lines > 0; --lines, to += kLine, from += kLine) {
    const auto* in = reinterpret_cast<const __m128i*>(from);
    auto* out = reinterpret_cast<__m128i*>(to);
    const __m128i a = _mm_loadu_si128(in), b = _mm_loadu_si128(in + 1);
    const __m128i c = _mm_loadu_si128(in + 2), d = _mm_loadu_si128(in + 3);
    _mm_stream_si128(out, a);
    _mm_stream_si128(out + 1, b);
    _mm_stream_si128(out + 2, c);
    _mm_stream_si128(out + 3, d);
  }
}

void StreamLines(std::byte* to, const std::byte* from, size_t lines) {
  static const bool has_avx2 = __builtin_cpu_supports("avx2");
  (has_avx2 ? StreamLinesAvx2 : StreamLinesSse2)(to, from, lines);
  _mm_sfence();  // orders them before what publishes them
}

#endif

}  // namespace

void StreamingCopy(std::byte* to, const std::byte* from, size_t bytes) {
#if defined(__x86_64__)
  if (bytes >= kLeastBytes) {
    const size_t head = -reinterpret_cast<uintptr_t>(to) % kLine;
    std::memcpy(to, from, head);
    const size_t lines = (bytes - head) / kLine;
    StreamLines(to + head, from + head, lines);
    const size_t done = head + lines * kLine;
    to += done;
    from += done;
    bytes -= done;
  }
#endif
  if (bytes > 0) std::memcpy(to, from, bytes);
}

}  // namespace kvstow
