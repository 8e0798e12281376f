#include "client/get_message.h"

#include <google/protobuf/io/coded_stream.h>
#include <google/protobuf/wire_format_lite.h>
#include <grpcpp/support/proto_buffer_reader.h>

#include <algorithm>
#include <climits>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "kvstow/v1/kvstow.pb.h"
#include "space/streaming_copy.h"
#include "staging/slot_ring.h"

namespace kvstow::client {
namespace {

using google::protobuf::internal::WireFormatLite;
using google::protobuf::io::CodedInputStream;

constexpr uint32_t Tag(int field) { return (field << 3) | 2; }  // length-delimited

absl::Status Garbage(absl::string_view what) {
  return absl::InternalError(absl::StrCat("the daemon sent what is no GetResponse: ", what));
}

// Enters a length-delimited field; false when its length is not sane.
bool Enter(CodedInputStream* in, CodedInputStream::Limit* limit) {
  uint32_t length = 0;
  if (!in->ReadVarint32(&length) || length > INT_MAX) return false;
  *limit = in->PushLimit(static_cast<int>(length));
  // A length beyond what encloses it is cut by PushLimit; the caller sees bytes missing.
  return in->BytesUntilLimit() == static_cast<int>(length);
}

template <typename Message>
bool ReadMessage(CodedInputStream* in, Message* message) {
  CodedInputStream::Limit limit;
  if (!Enter(in, &limit)) return false;
  if (!message->ParseFromCodedStream(in) || in->BytesUntilLimit() != 0) return false;
  in->PopLimit(limit);
  return true;
}

// To memory of the caller's, out of the slices that the message lies in.
bool Deliver(CodedInputStream* in, std::byte* to, size_t length) {
  while (length > 0) {
    const void* piece = nullptr;
    int size = 0;
    if (!in->GetDirectBufferPointer(&piece, &size)) return false;
    const size_t n = std::min(length, static_cast<size_t>(size));
    StreamingCopy(to, static_cast<const std::byte*>(piece), n);
    if (!in->Skip(static_cast<int>(n))) return false;
    to += n;
    length -= n;
  }
  return true;
}

absl::Status TakeData(CodedInputStream* in, const v1::Chunk& header, GetAssembly* assembly) {
  CodedInputStream::Limit limit;
  if (!Enter(in, &limit)) return Garbage("chunk data");
  const bool delivers = assembly->writes_destinations();
  const auto read = [in, delivers](std::byte* to, size_t length) {
    if (static_cast<size_t>(in->BytesUntilLimit()) < length) return false;
    if (to == nullptr) return in->Skip(static_cast<int>(length));
    return delivers ? Deliver(in, to, length) : in->ReadRaw(to, static_cast<int>(length));
  };
  for (const v1::Segment& segment : header.segments()) {
    if (absl::Status s = assembly->OnSegment(segment, read); !s.ok()) return s;
  }
  if (in->BytesUntilLimit() != 0) return Garbage("a chunk longer than its segments");
  in->PopLimit(limit);
  return absl::OkStatus();
}

absl::Status TakeChunk(CodedInputStream* in, GetAssembly* assembly) {
  CodedInputStream::Limit limit;
  if (!Enter(in, &limit)) return Garbage("chunk");
  v1::Chunk header;
  bool taken = false;
  while (const uint32_t tag = in->ReadTag()) {
    if (tag == Tag(v1::Chunk::kSegmentsFieldNumber)) {
      if (taken || !ReadMessage(in, header.add_segments())) return Garbage("segment");
    } else if (tag == Tag(v1::Chunk::kDataFieldNumber)) {
      if (taken) return Garbage("a chunk with two data");
      if (absl::Status s = TakeData(in, header, assembly); !s.ok()) return s;
      taken = true;
    } else if (!WireFormatLite::SkipField(in, tag)) {
      return Garbage("field of a chunk");
    }
  }
  if (!taken || in->BytesUntilLimit() != 0) return Garbage("a chunk without its data");
  in->PopLimit(limit);
  return absl::OkStatus();
}

bool ListsMatch(const v1::StagedPlanes& planes) {
  const int count = planes.blocks_size();
  const auto missing_or_whole = [count](int size) { return size == 0 || size == count; };
  return planes.kinds_size() == count && planes.staged_at_size() == count &&
         planes.plane_bytes_size() == count && missing_or_whole(planes.layers_size()) &&
         missing_or_whole(planes.crc32c_size());
}

absl::Status TakeStaged(CodedInputStream* in, std::span<const std::byte> slot,
                        GetAssembly* assembly, StagedCount* staged) {
  v1::StagedPlanes planes;
  if (!ReadMessage(in, &planes) || !ListsMatch(planes)) return Garbage("staged planes");
  v1::Segment segment;
  segment.set_layer(planes.layer());
  for (int i = 0; i < planes.blocks_size(); ++i) {
    const size_t at = planes.staged_at(i), bytes = planes.plane_bytes(i);
    if (planes.layers_size() > 0) segment.set_layer(planes.layers(i));
    segment.set_kind(planes.kinds(i));
    segment.set_block(planes.blocks(i));
    segment.set_length(planes.plane_bytes(i));
    segment.set_plane_bytes(planes.plane_bytes(i));
    if (planes.crc32c_size() > 0) segment.mutable_declared()->set_crc32c(planes.crc32c(i));
    const auto read = [&](std::byte* to, size_t length) {
      if (at > slot.size() || length > slot.size() - at) return false;
      if (to == nullptr) return true;
      if (assembly->writes_destinations()) {
        StreamingCopy(to, slot.data() + at, length);
      } else {
        std::memcpy(to, slot.data() + at, length);  // read again at once, by the decoder
      }
      return true;
    };
    // Only looked at once `read` has found it in the slot.
    const std::byte* const in_place = slot.data() + std::min(at, slot.size());
    if (absl::Status s = assembly->OnSegment(segment, read, in_place); !s.ok()) return s;
    ++staged->segments;
    staged->room += SlotRing::Rounded(bytes);
  }
  return absl::OkStatus();
}

absl::Status TakeField(CodedInputStream* in, uint32_t tag, std::span<const std::byte> slot,
                       GetAssembly* assembly, StagedCount* staged) {
  if (tag == Tag(v1::GetResponse::kStagedFieldNumber)) {
    return TakeStaged(in, slot, assembly, staged);
  }
  if (tag == Tag(v1::GetResponse::kChunkFieldNumber)) return TakeChunk(in, assembly);
  if (tag == Tag(v1::GetResponse::kAnswersFieldNumber)) {
    v1::GetResponse::Answers answers;
    return ReadMessage(in, &answers) ? assembly->OnAnswers(answers) : Garbage("answers");
  }
  if (tag == Tag(v1::GetResponse::kDamageFieldNumber)) {
    v1::GetResponse::Damage damage;
    return ReadMessage(in, &damage) ? assembly->OnDamage(damage) : Garbage("damage");
  }
  return WireFormatLite::SkipField(in, tag) ? absl::OkStatus() : Garbage("unknown field");
}

}  // namespace

absl::Status TakeGetResponse(grpc::ByteBuffer* message, std::span<const std::byte> slot,
                             GetAssembly* assembly, StagedCount* staged) {
  grpc::ProtoBufferReader reader(message);
  if (!reader.status().ok()) return Garbage("unreadable message");
  CodedInputStream in(&reader);
  while (const uint32_t tag = in.ReadTag()) {
    if (absl::Status s = TakeField(&in, tag, slot, assembly, staged); !s.ok()) return s;
  }
  return in.ConsumedEntireMessage() ? absl::OkStatus() : Garbage("a message cut short");
}

}  // namespace kvstow::client
