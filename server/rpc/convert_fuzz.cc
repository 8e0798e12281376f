// Fuzz target: no client's bytes may crash what stands between the wire and core. The first byte
// chooses the message, the second how a Put is cut into slices.
#include <cstdlib>
#include <string>
#include <vector>

#include "server/rpc/convert.h"
#include "server/rpc/wire.h"

namespace kvstow {
namespace {

std::string Join(const std::vector<std::span<const std::byte>>& pieces) {
  std::string joined;
  for (const auto& piece : pieces) {
    joined.append(reinterpret_cast<const char*>(piece.data()), piece.size());
  }
  return joined;
}

// Of what travels as it is; sums may be NaN.
bool Same(const PlaneSegment& a, const v1::Segment& b) {
  if (a.layer != b.layer() || a.block != b.block() || a.offset != b.offset() ||
      a.length != b.length() || a.plane_bytes != b.plane_bytes() ||
      a.declared.has_value() != b.has_declared()) {
    return false;
  }
  return !a.declared ||
         (a.declared->crc32c == b.declared().crc32c() &&
          5 * a.declared->tiles.size() == static_cast<size_t>(b.declared().tile_sums_size()));
}

// A Put message reads the same however the transport cut it, and as protobuf itself reads it.
void FuzzPut(const std::string& bytes, size_t cut) {
  std::vector<grpc::Slice> slices;
  for (size_t at = 0; at < bytes.size(); at += cut) slices.emplace_back(bytes.substr(at, cut));
  const auto message = ParsePutRequest(grpc::ByteBuffer(slices.data(), slices.size()));
  v1::PutRequest reference;
  const bool is_message = reference.ParseFromString(bytes);
  if (message.ok() && !is_message) abort();
  if (!message.ok()) return;
  if ((*message)->is_chunk != reference.has_chunk()) abort();
  if (reference.has_announce()) (void)FromProto(reference.announce().blocks());
  if (reference.has_announce()) (void)FromProto(reference.announce().form());
  if (reference.has_staged()) (void)FromProto(reference.staged());
  if (!reference.has_chunk()) return;
  if (Join((*message)->data) != reference.chunk().data()) abort();
  if ((*message)->segments.size() != static_cast<size_t>(reference.chunk().segments_size()))
    abort();
  for (int i = 0; i < reference.chunk().segments_size(); ++i) {
    if (!Same((*message)->segments[static_cast<size_t>(i)], reference.chunk().segments(i))) abort();
  }
}

void FuzzOpenSpace(const std::string& bytes) {
  v1::OpenSpaceRequest request;
  if (!request.ParseFromString(bytes)) return;
  (void)SessionIdFromBytes(request.session_id());
  auto spec = FromProto(request.spec());
  auto shard = FromProto(request.shard());
  if (!spec.ok() || !shard.ok()) return;
  auto layout = PlaneLayout::Create(*std::move(spec), *std::move(shard));
  if (layout.ok() && (layout->planes().empty() || layout->raw_bytes() == 0)) abort();
}

void FuzzKeys(const std::string& bytes) {
  v1::LookupRequest lookup;
  if (lookup.ParseFromString(bytes)) {
    (void)KeysFromBytes(lookup.keys());
    if (TtlFromMillis(lookup.ttl_ms()) < absl::ZeroDuration()) abort();
  }
  v1::GetRequest get;
  if (get.ParseFromString(bytes)) (void)KeysFromBytes(get.open().keys());
}

}  // namespace
}  // namespace kvstow

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < 2) return 0;
  const std::string bytes(reinterpret_cast<const char*>(data) + 2, size - 2);
  switch (data[0] % 3) {
    case 0:
      kvstow::FuzzPut(bytes, 1 + data[1]);
      break;
    case 1:
      kvstow::FuzzOpenSpace(bytes);
      break;
    case 2:
      kvstow::FuzzKeys(bytes);
      break;
  }
  return 0;
}
