#include "staging/streaming_copy.h"

#include <cstdint>
#include <cstring>

#ifdef __SSE2__
#include <emmintrin.h>
#endif

namespace kvstow {

#ifdef __SSE2__

namespace {

constexpr size_t kLine = 64;
// Less is not worth the fence.
constexpr size_t kLeast = 4096;

}  // namespace

void StreamingCopy(std::span<const std::byte> from, std::span<std::byte> to) {
  if (from.size() < kLeast) {
    if (!from.empty()) std::memcpy(to.data(), from.data(), from.size());
    return;
  }
  const std::byte* in = from.data();
  std::byte* out = to.data();
  size_t left = from.size();
  const size_t head = -reinterpret_cast<uintptr_t>(out) % kLine;
  std::memcpy(out, in, head);
  in += head, out += head, left -= head;
  for (; left >= kLine; in += kLine, out += kLine, left -= kLine) {
    const auto* const line = reinterpret_cast<const __m128i*>(in);
    auto* const to_line = reinterpret_cast<__m128i*>(out);
    const __m128i a = _mm_loadu_si128(line), b = _mm_loadu_si128(line + 1);
    const __m128i c = _mm_loadu_si128(line + 2), d = _mm_loadu_si128(line + 3);
    _mm_stream_si128(to_line, a);
    _mm_stream_si128(to_line + 1, b);
    _mm_stream_si128(to_line + 2, c);
    _mm_stream_si128(to_line + 3, d);
  }
  std::memcpy(out, in, left);
  _mm_sfence();  // such stores are ordered by nothing else
}

#else

void StreamingCopy(std::span<const std::byte> from, std::span<std::byte> to) {
  if (!from.empty()) std::memcpy(to.data(), from.data(), from.size());
}

#endif

}  // namespace kvstow
