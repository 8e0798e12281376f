#include "codec/codec.h"

namespace kvstow {

TileEncodeOptions EncodeOptionsFor(const CodecSettings& settings, const PlaneSpec& plane) {
  TileEncodeOptions options;
  options.codec = settings.codec;
  options.key_like = plane.is_key_like();
  options.bits = options.key_like ? settings.k_bits : settings.v_bits;
  options.shrinker = settings.shrinker;
  options.closed_loop = settings.closed_loop;
  options.max_relative_error = settings.max_relative_error;
  return options;
}

}  // namespace kvstow
