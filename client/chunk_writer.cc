#include "client/chunk_writer.h"

#include <google/protobuf/io/coded_stream.h>
#include <google/protobuf/io/zero_copy_stream_impl_lite.h>
#include <grpcpp/support/slice.h>

#include <algorithm>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"

namespace kvstow::client {

class ChunkPool {
 public:
  explicit ChunkPool(size_t bytes) : bytes_(bytes) {}

  std::unique_ptr<std::byte[]> Take() {
    absl::MutexLock lock(&mu_);
    if (free_.empty()) return std::unique_ptr<std::byte[]>(new std::byte[bytes_]);
    auto buffer = std::move(free_.back());
    free_.pop_back();
    return buffer;
  }

  void Put(std::unique_ptr<std::byte[]> buffer) {
    absl::MutexLock lock(&mu_);
    free_.push_back(std::move(buffer));
  }

 private:
  const size_t bytes_;
  absl::Mutex mu_;
  std::vector<std::unique_ptr<std::byte[]>> free_ ABSL_GUARDED_BY(mu_);
};

namespace {

// Segments cost header bytes; this many keep a message within the receive limit.
constexpr int kMaxSegments = 8192;
// Field 15, length-delimited: both PutRequest.chunk and Chunk.data.
constexpr uint32_t kTag15 = (15 << 3) | 2;

// What a slice that the transport holds keeps alive.
struct Lent {
  std::shared_ptr<ChunkPool> pool;
  std::unique_ptr<std::byte[]> buffer;
};

void GiveBack(void* user_data) {
  auto* lent = static_cast<Lent*>(user_data);
  lent->pool->Put(std::move(lent->buffer));
  delete lent;
}

// Everything of PutRequest{chunk} up to the bytes of Chunk.data.
std::string WireHeader(const v1::Chunk& segments, size_t data_bytes) {
  using google::protobuf::io::CodedOutputStream;
  const size_t chunk_bytes = segments.ByteSizeLong() + CodedOutputStream::VarintSize32(kTag15) +
                             CodedOutputStream::VarintSize32(data_bytes) + data_bytes;
  std::string header;
  google::protobuf::io::StringOutputStream stream(&header);
  CodedOutputStream out(&stream);
  out.WriteTag(kTag15);
  out.WriteVarint32(chunk_bytes);
  segments.SerializeToCodedStream(&out);
  out.WriteTag(kTag15);
  out.WriteVarint32(data_bytes);
  out.Trim();
  return header;
}

}  // namespace

ChunkWriter::ChunkWriter(size_t max_chunk_bytes, Send send)
    : max_chunk_bytes_(max_chunk_bytes),
      send_(std::move(send)),
      pool_(std::make_shared<ChunkPool>(max_chunk_bytes)) {}

ChunkWriter::~ChunkWriter() = default;

bool ChunkWriter::EnsureBuffer() {
  const bool full = used_ == max_chunk_bytes_ || header_.segments_size() == kMaxSegments;
  if (full && !Flush()) return false;
  if (!data_) data_ = pool_->Take();
  return true;
}

bool ChunkWriter::Append(const PlaneSpec& plane, uint32_t block, std::span<const std::byte> bytes,
                         const v1::PlaneDeclaration* declared) {
  for (size_t offset = 0; offset < bytes.size();) {
    if (!EnsureBuffer()) return false;
    const size_t length = std::min(bytes.size() - offset, max_chunk_bytes_ - used_);
    std::memcpy(data_.get() + used_, bytes.data() + offset, length);
    v1::Segment* segment = AddSegment(plane, block, length);
    segment->set_offset(offset);
    segment->set_plane_bytes(bytes.size());
    if (offset == 0 && declared != nullptr) *segment->mutable_declared() = *declared;
    offset += length;
  }
  return true;
}

bool ChunkWriter::Fill(const PlaneSpec& plane, uint32_t block, FillPlane fill) {
  // In pieces it cannot be filled, nor where values of any type may not lie.
  const bool aligned = used_ % alignof(std::max_align_t) == 0;
  if (plane.raw_bytes > max_chunk_bytes_ || !aligned) return PlaneWriter::Fill(plane, block, fill);
  if (plane.raw_bytes > max_chunk_bytes_ - used_ && !Flush()) return false;
  if (!EnsureBuffer() || !fill({data_.get() + used_, plane.raw_bytes})) return false;
  AddSegment(plane, block, plane.raw_bytes)->set_plane_bytes(plane.raw_bytes);
  return true;
}

v1::Segment* ChunkWriter::AddSegment(const PlaneSpec& plane, uint32_t block, size_t length) {
  v1::Segment* segment = header_.add_segments();
  segment->set_layer(plane.layer);
  segment->set_kind(static_cast<v1::PlaneKind>(plane.kind));
  segment->set_block(block);
  segment->set_length(length);
  used_ += length;
  return segment;
}

bool ChunkWriter::Flush() {
  if (used_ == 0) return true;
  void* data = data_.get();
  const grpc::Slice slices[] = {
      grpc::Slice(WireHeader(header_, used_)),
      grpc::Slice(data, used_, GiveBack, new Lent{pool_, std::move(data_)})};
  bytes_sent_ += used_;
  used_ = 0;
  header_.Clear();
  return send_(grpc::ByteBuffer(slices, 2));
}

}  // namespace kvstow::client
