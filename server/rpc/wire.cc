#include "server/rpc/wire.h"

#include <algorithm>
#include <string>
#include <utility>

#include "codec/scratch.h"
#include "google/protobuf/io/coded_stream.h"
#include "google/protobuf/io/zero_copy_stream_impl_lite.h"
#include "google/protobuf/wire_format_lite.h"
#include "server/core/status_macros.h"
#include "server/rpc/convert.h"

namespace kvstow {
namespace {

using google::protobuf::io::CodedInputStream;
using google::protobuf::io::CodedOutputStream;
using google::protobuf::io::StringOutputStream;
using Wire = google::protobuf::internal::WireFormatLite;

constexpr uint32_t Tag(int field) { return Wire::MakeTag(field, Wire::WIRETYPE_LENGTH_DELIMITED); }
constexpr uint32_t kPutChunkTag = Tag(v1::PutRequest::kChunkFieldNumber);
constexpr uint32_t kGetChunkTag = Tag(v1::GetResponse::kChunkFieldNumber);
constexpr uint32_t kSegmentTag = Tag(v1::Chunk::kSegmentsFieldNumber);
constexpr uint32_t kDataTag = Tag(v1::Chunk::kDataFieldNumber);

// Presents gRPC's slices to protobuf's reader.
class SliceStream final : public google::protobuf::io::ZeroCopyInputStream {
 public:
  explicit SliceStream(const std::vector<grpc::Slice>& slices) : slices_(slices) {}

  bool Next(const void** data, int* size) override {
    while (at_ < slices_.size() && offset_ == slices_[at_].size()) {
      ++at_;
      offset_ = 0;
    }
    if (at_ == slices_.size()) return false;
    *data = slices_[at_].begin() + offset_;
    *size = static_cast<int>(slices_[at_].size() - offset_);
    offset_ = slices_[at_].size();
    read_ += *size;
    return true;
  }
  void BackUp(int count) override {
    offset_ -= count;
    read_ -= count;
  }
  bool Skip(int count) override {
    const void* data;
    int size;
    while (count > 0) {
      if (!Next(&data, &size)) return false;
      if (size > count) BackUp(size - count);
      count -= std::min(size, count);
    }
    return true;
  }
  int64_t ByteCount() const override { return read_; }

 private:
  const std::vector<grpc::Slice>& slices_;
  size_t at_ = 0;
  size_t offset_ = 0;
  int64_t read_ = 0;
};

// The bytes of `slices` from `begin` on.
std::vector<std::span<const std::byte>> Tail(const std::vector<grpc::Slice>& slices, size_t begin) {
  std::vector<std::span<const std::byte>> tail;
  for (const grpc::Slice& slice : slices) {
    const size_t skip = std::min(begin, slice.size());
    begin -= skip;
    if (skip == slice.size()) continue;
    tail.emplace_back(reinterpret_cast<const std::byte*>(slice.begin()) + skip,
                      slice.size() - skip);
  }
  return tail;
}

enum class ChunkParse { kOk, kNotPlain, kBad };

// Reads a message that is one chunk whose data comes last, as every protobuf library writes it.
// kNotPlain leaves anything else to the general parser.
ChunkParse ParsePlainChunk(size_t size, IncomingPut* out, absl::Status* error) {
  SliceStream stream(out->slices);
  CodedInputStream in(&stream);
  uint32_t length = 0;
  if (in.ReadTag() != kPutChunkTag || !in.ReadVarint32(&length)) return ChunkParse::kNotPlain;
  if (length != size - in.CurrentPosition()) return ChunkParse::kNotPlain;
  for (;;) {
    const uint32_t tag = in.ReadTag();
    if ((tag != kSegmentTag && tag != kDataTag) || !in.ReadVarint32(&length)) {
      return ChunkParse::kNotPlain;
    }
    const size_t left = size - in.CurrentPosition();
    if (tag == kDataTag) {
      if (length != left) return ChunkParse::kNotPlain;
      out->data = Tail(out->slices, in.CurrentPosition());
      return ChunkParse::kOk;
    }
    std::string bytes;
    v1::Segment segment;
    if (length > left || !in.ReadString(&bytes, static_cast<int>(length)) ||
        !segment.ParseFromString(bytes)) {
      return ChunkParse::kNotPlain;
    }
    auto converted = FromProto(segment);
    if (!converted.ok()) {
      *error = converted.status();
      return ChunkParse::kBad;
    }
    out->segments.push_back(*converted);
  }
}

// A chunk that came through the general parser.
absl::Status TakeChunk(IncomingPut* out) {
  out->segments.clear();
  for (const v1::Segment& segment : out->request.chunk().segments()) {
    KVSTOW_ASSIGN_OR_RETURN(PlaneSegment converted, FromProto(segment));
    out->segments.push_back(converted);
  }
  out->is_chunk = true;
  out->data = {std::as_bytes(std::span(out->request.chunk().data()))};
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::unique_ptr<IncomingPut>> ParsePutRequest(const grpc::ByteBuffer& message) {
  auto out = std::make_unique<IncomingPut>();
  if (!message.Dump(&out->slices).ok()) {
    return absl::InvalidArgumentError("a Put message that cannot be read");
  }
  absl::Status error;
  switch (ParsePlainChunk(message.Length(), out.get(), &error)) {
    case ChunkParse::kOk:
      out->is_chunk = true;
      return out;
    case ChunkParse::kBad:
      return error;
    case ChunkParse::kNotPlain:
      break;
  }
  SliceStream stream(out->slices);
  if (!out->request.ParseFromZeroCopyStream(&stream)) {
    return absl::InvalidArgumentError("a Put message that is no kvstow.v1.PutRequest");
  }
  if (out->request.what_case() == v1::PutRequest::kChunk) {
    KVSTOW_RETURN_IF_ERROR(TakeChunk(out.get()));
  }
  return out;
}

void OverwriteChunk(IncomingPut& chunk) {
  for (const grpc::Slice& slice : chunk.slices) {
    // gRPC hands out what it received as const because slices may be shared; these are not.
    auto* const bytes = const_cast<uint8_t*>(slice.begin());
    Overwrite(std::as_writable_bytes(std::span(bytes, slice.size())));
  }
  if (!chunk.request.has_chunk()) return;
  std::string& parsed = *chunk.request.mutable_chunk()->mutable_data();
  Overwrite(std::as_writable_bytes(std::span(parsed)));
}

grpc::ByteBuffer ChunkResponse(std::span<const OutgoingPiece> pieces) {
  std::string segments;
  size_t data_bytes = 0;
  {
    StringOutputStream stream(&segments);
    CodedOutputStream out(&stream);
    for (const OutgoingPiece& piece : pieces) {
      v1::Segment segment;
      ToProto(piece.segment, &segment);
      out.WriteTag(kSegmentTag);
      out.WriteVarint32(static_cast<uint32_t>(segment.ByteSizeLong()));
      segment.SerializeWithCachedSizes(&out);
      data_bytes += piece.bytes.size();
    }
    out.WriteTag(kDataTag);
    out.WriteVarint32(static_cast<uint32_t>(data_bytes));
  }
  std::string head;
  {
    StringOutputStream stream(&head);
    CodedOutputStream out(&stream);
    out.WriteTag(kGetChunkTag);
    out.WriteVarint32(static_cast<uint32_t>(segments.size() + data_bytes));
    out.WriteString(segments);
  }
  std::vector<grpc::Slice> slices;
  slices.reserve(pieces.size() + 1);
  slices.emplace_back(head);
  for (const OutgoingPiece& piece : pieces) {
    // gRPC never writes through the pointer; its slice type just is not const.
    slices.emplace_back(
        const_cast<std::byte*>(piece.bytes.data()), piece.bytes.size(),
        [](void* owner) { delete static_cast<std::shared_ptr<const void>*>(owner); },
        new std::shared_ptr<const void>(piece.owner));
  }
  return grpc::ByteBuffer(slices.data(), slices.size());
}

grpc::ByteBuffer Serialize(const google::protobuf::MessageLite& message) {
  grpc::Slice slice(message.SerializeAsString());
  return grpc::ByteBuffer(&slice, 1);
}

bool Parse(const grpc::ByteBuffer& buffer, google::protobuf::MessageLite* message) {
  std::vector<grpc::Slice> slices;
  if (!buffer.Dump(&slices).ok()) return false;
  SliceStream stream(slices);
  return message->ParseFromZeroCopyStream(&stream);
}

}  // namespace kvstow
