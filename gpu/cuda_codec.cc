#include "gpu/cuda_codec.h"

#include <algorithm>
#include <cstring>
#include <map>
#include <tuple>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "codec/job_checks.h"
#include "gpu/cuda_status.h"
#include "gpu/encode_result.h"
#include "gpu/tile_batch.h"

namespace kvstow::gpu {
namespace {

// Scratch of one batch; larger calls go in pieces.
constexpr size_t kMaxScratchBytes = size_t{1} << 30;

// Jobs with equal keys go in one batch.
using GroupKey = std::tuple<uint32_t, uint32_t, uint32_t, uint32_t, uint32_t, uint32_t, bool, bool,
                            double, uint32_t, uint32_t, uint32_t>;

RotaryShape ShapeOfRotary(const RotaryTable* table) {
  return table != nullptr ? gpu::ShapeOfRotary(*table) : RotaryShape{};
}

GroupKey KeyOf(const TileShape& shape, const TileEncodeOptions& o, const RotaryTable* table) {
  const RotaryShape r = ShapeOfRotary(table);
  return {shape.tokens,
          shape.dim,
          static_cast<uint32_t>(shape.dtype),
          static_cast<uint32_t>(o.codec),
          o.bits,
          static_cast<uint32_t>(o.shrinker),
          o.closed_loop,
          o.key_like,
          o.max_relative_error,
          r.pairs,
          r.offset,
          r.interleaved};
}

size_t Align(size_t bytes) { return (bytes + 255) / 256 * 256; }

// One upload: pieces appended on the host side, at the same offsets on the device.
class Upload {
 public:
  size_t Add(size_t bytes) {
    const size_t at = size_;
    size_ += Align(bytes);
    return at;
  }
  size_t size() const { return size_; }

 private:
  size_t size_ = 0;
};

// Offsets of the cosines and sines of each table in an upload, every table once.
class RotaryTables {
 public:
  void Add(const RotaryTable* table, uint32_t tokens, Upload* upload) {
    if (table == nullptr || at_.contains(table)) return;
    const size_t bytes = size_t{tokens} * table->pairs() * sizeof(float);
    at_[table] = {upload->Add(bytes), upload->Add(bytes), bytes};
  }
  void Write(std::byte* host) const {
    for (const auto& [table, at] : at_) {
      std::memcpy(host + at.cos, table->cos(), at.bytes);
      std::memcpy(host + at.sin, table->sin(), at.bytes);
    }
  }
  const float* Cos(const RotaryTable* t, const std::byte* device) const {
    return t == nullptr ? nullptr : reinterpret_cast<const float*>(device + at_.at(t).cos);
  }
  const float* Sin(const RotaryTable* t, const std::byte* device) const {
    return t == nullptr ? nullptr : reinterpret_cast<const float*>(device + at_.at(t).sin);
  }

 private:
  struct Place {
    size_t cos = 0, sin = 0, bytes = 0;
  };
  std::map<const RotaryTable*, Place> at_;
};

void CopyRows(const std::byte* from, size_t from_stride, std::byte* to, size_t to_stride,
              const TileShape& shape) {
  const size_t row_bytes = shape.dim * SizeOf(shape.dtype);
  for (size_t t = 0; t < shape.tokens; ++t) {
    std::memcpy(to + t * to_stride, from + t * from_stride, row_bytes);
  }
}

uint8_t* Bytes(std::byte* p) { return reinterpret_cast<uint8_t*>(p); }

void Finish(const EncodeResult& result, const std::byte* body, TileEncodeJob* job) {
  std::memcpy(job->body, body, result.body_bytes);
  job->head = HeadOf(result);
  job->report = ReportOf(result);
}

}  // namespace

absl::StatusOr<std::unique_ptr<CudaCodec>> CudaCodec::Create(int device) {
  int count = 0;
  KVSTOW_CUDA_RETURN_IF_ERROR(cudaGetDeviceCount(&count));
  if (device < 0 || device >= count) {
    return absl::UnavailableError(absl::StrCat("no CUDA device ", device, " of ", count));
  }
  KVSTOW_CUDA_RETURN_IF_ERROR(cudaSetDevice(device));
  cudaDeviceProp properties;
  KVSTOW_CUDA_RETURN_IF_ERROR(cudaGetDeviceProperties(&properties, device));
  cudaStream_t stream = nullptr;
  KVSTOW_CUDA_RETURN_IF_ERROR(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
  std::string description =
      absl::StrCat(properties.name, " (sm_", properties.major, properties.minor, ")");
  return std::unique_ptr<CudaCodec>(new CudaCodec(device, std::move(description), stream));
}

CudaCodec::CudaCodec(int device, std::string description, cudaStream_t stream)
    : device_(device), description_(std::move(description)), stream_(stream) {}

CudaCodec::~CudaCodec() { (void)cudaStreamDestroy(stream_); }

absl::Status CudaCodec::Settle(const absl::Status& status) const {
  // What was enqueued before the failure still reads buffers that the next call writes.
  if (!status.ok()) (void)cudaStreamSynchronize(stream_);
  return status;
}

template <typename Job>
absl::Status CudaCodec::PrepareFor(std::span<Job> jobs) {
  if (jobs.empty()) return absl::OkStatus();
  std::optional<uint32_t> owner = jobs.front().owner;
  for (const Job& job : jobs) {
    if (job.owner != *owner) {
      owner = std::nullopt;
      break;
    }
  }
  const bool same = owner && owner == owner_;
  owner_ = owner;
  if (same) return absl::OkStatus();
  for (PinnedBuffer* buffer : {&up_, &down_}) KVSTOW_RETURN_IF_ERROR(buffer->Overwrite(stream_));
  for (DeviceBuffer* buffer : {&in_, &out_, &scratch_}) {
    KVSTOW_RETURN_IF_ERROR(buffer->Overwrite(stream_));
  }
  // The host writes into some of them next.
  KVSTOW_CUDA_RETURN_IF_ERROR(cudaStreamSynchronize(stream_));
  return absl::OkStatus();
}

absl::Status CudaCodec::EncodeGroup(std::span<TileEncodeJob*> jobs) {
  const TileEncodeJob& first = *jobs.front();
  const TileShape& shape = first.shape;
  const EncodeSettings settings = {shape, first.options, ShapeOfRotary(first.rotary)};
  const size_t count = jobs.size();
  const size_t tile_bytes = shape.bytes(), body_bytes = MaxTileBodyBytes(shape);
  const size_t row_bytes = shape.dim * SizeOf(shape.dtype);
  Upload up;
  const size_t values_at = up.Add(count * tile_bytes);
  const size_t tiles_at = up.Add(count * sizeof(EncodeTile));
  RotaryTables tables;
  for (const TileEncodeJob* job : jobs) tables.Add(job->rotary, shape.tokens, &up);
  const size_t results_bytes = Align(count * sizeof(EncodeResult));
  const size_t down_bytes = results_bytes + count * body_bytes;
  const size_t scratch_bytes = EncodeScratchBytes(settings, static_cast<uint32_t>(count));
  KVSTOW_RETURN_IF_ERROR(up_.Reserve(up.size()));
  KVSTOW_RETURN_IF_ERROR(in_.Reserve(up.size()));
  KVSTOW_RETURN_IF_ERROR(down_.Reserve(down_bytes));
  KVSTOW_RETURN_IF_ERROR(out_.Reserve(down_bytes));
  KVSTOW_RETURN_IF_ERROR(scratch_.Reserve(scratch_bytes));

  tables.Write(up_.data());
  auto* tiles = reinterpret_cast<EncodeTile*>(up_.data() + tiles_at);
  for (size_t i = 0; i < count; ++i) {
    CopyRows(jobs[i]->values, jobs[i]->row_stride, up_.data() + values_at + i * tile_bytes,
             row_bytes, shape);
    tiles[i] = EncodeTile{};
    tiles[i].values = Bytes(in_.data() + values_at + i * tile_bytes);
    tiles[i].row_stride = row_bytes;
    tiles[i].cos = tables.Cos(jobs[i]->rotary, in_.data());
    tiles[i].sin = tables.Sin(jobs[i]->rotary, in_.data());
    tiles[i].body = Bytes(out_.data() + results_bytes + i * body_bytes);
  }
  KVSTOW_CUDA_RETURN_IF_ERROR(
      cudaMemcpyAsync(in_.data(), up_.data(), up.size(), cudaMemcpyHostToDevice, stream_));
  KVSTOW_RETURN_IF_ERROR(
      EncodeTiles(settings, reinterpret_cast<const EncodeTile*>(in_.data() + tiles_at),
                  static_cast<uint32_t>(count), reinterpret_cast<EncodeResult*>(out_.data()),
                  nullptr, scratch_.data(), scratch_.size(), stream_));
  KVSTOW_CUDA_RETURN_IF_ERROR(
      cudaMemcpyAsync(down_.data(), out_.data(), down_bytes, cudaMemcpyDeviceToHost, stream_));
  KVSTOW_CUDA_RETURN_IF_ERROR(cudaStreamSynchronize(stream_));
  const auto* results = reinterpret_cast<const EncodeResult*>(down_.data());
  for (size_t i = 0; i < count; ++i) {
    Finish(results[i], down_.data() + results_bytes + i * body_bytes, jobs[i]);
  }
  return absl::OkStatus();
}

absl::Status CudaCodec::Encode(std::span<TileEncodeJob> jobs) {
  for (const TileEncodeJob& job : jobs) KVSTOW_RETURN_IF_ERROR(CheckEncodeJob(job));
  std::map<GroupKey, std::vector<TileEncodeJob*>> groups;
  for (TileEncodeJob& job : jobs) {
    if (job.options.codec == CodecId::kRaw) {
      KVSTOW_RETURN_IF_ERROR(CpuCodec()->Encode({&job, 1}));
    } else {
      groups[KeyOf(job.shape, job.options, job.rotary)].push_back(&job);
    }
  }
  absl::MutexLock lock(&mu_);
  KVSTOW_CUDA_RETURN_IF_ERROR(cudaSetDevice(device_));
  KVSTOW_RETURN_IF_ERROR(Settle(PrepareFor(jobs)));
  for (auto& [key, group] : groups) {
    const TileEncodeJob& first = *group.front();
    const size_t each =
        EncodeScratchBytes({first.shape, first.options, ShapeOfRotary(first.rotary)}, 1);
    const size_t piece = std::max<size_t>(1, kMaxScratchBytes / each);
    for (size_t at = 0; at < group.size(); at += piece) {
      KVSTOW_RETURN_IF_ERROR(
          Settle(EncodeGroup(std::span(group).subspan(at, std::min(piece, group.size() - at)))));
    }
  }
  return absl::OkStatus();
}

absl::Status CudaCodec::DecodeGroup(std::span<const TileDecodeJob*> jobs) {
  const TileShape& shape = jobs.front()->shape;
  const size_t count = jobs.size(), tile_bytes = shape.bytes();
  const size_t row_bytes = shape.dim * SizeOf(shape.dtype);
  RotaryShape rotary;
  RotaryTables tables;
  Upload up;
  const size_t tiles_at = up.Add(count * sizeof(DecodeTile));
  std::vector<size_t> bodies_at;
  for (const TileDecodeJob* job : jobs) {
    bodies_at.push_back(up.Add(TileBodyBytes(shape, job->head)));
    if (!job->head.rotary_undone) continue;
    rotary = ShapeOfRotary(job->rotary);
    tables.Add(job->rotary, shape.tokens, &up);
  }
  const size_t down_bytes = count * tile_bytes;
  KVSTOW_RETURN_IF_ERROR(up_.Reserve(up.size()));
  KVSTOW_RETURN_IF_ERROR(in_.Reserve(up.size()));
  KVSTOW_RETURN_IF_ERROR(down_.Reserve(down_bytes));
  KVSTOW_RETURN_IF_ERROR(out_.Reserve(down_bytes));
  tables.Write(up_.data());
  auto* tiles = reinterpret_cast<DecodeTile*>(up_.data() + tiles_at);
  for (size_t i = 0; i < count; ++i) {
    const TileDecodeJob& job = *jobs[i];
    const RotaryTable* table = job.head.rotary_undone ? job.rotary : nullptr;
    std::memcpy(up_.data() + bodies_at[i], job.body, TileBodyBytes(shape, job.head));
    tiles[i] = DecodeTile{};
    tiles[i].body = Bytes(in_.data() + bodies_at[i]);
    tiles[i].values = Bytes(out_.data() + i * tile_bytes);
    tiles[i].row_stride = row_bytes;
    tiles[i].cos = tables.Cos(table, in_.data());
    tiles[i].sin = tables.Sin(table, in_.data());
    std::byte packed[kTileHeadBytes];
    PackTileHead(job.head, packed);
    std::memcpy(&tiles[i].head, packed, sizeof(packed));
  }
  KVSTOW_CUDA_RETURN_IF_ERROR(
      cudaMemcpyAsync(in_.data(), up_.data(), up.size(), cudaMemcpyHostToDevice, stream_));
  KVSTOW_RETURN_IF_ERROR(DecodeTiles(shape, rotary,
                                     reinterpret_cast<const DecodeTile*>(in_.data() + tiles_at),
                                     static_cast<uint32_t>(count), stream_));
  KVSTOW_CUDA_RETURN_IF_ERROR(
      cudaMemcpyAsync(down_.data(), out_.data(), down_bytes, cudaMemcpyDeviceToHost, stream_));
  KVSTOW_CUDA_RETURN_IF_ERROR(cudaStreamSynchronize(stream_));
  for (size_t i = 0; i < count; ++i) {
    CopyRows(down_.data() + i * tile_bytes, row_bytes, jobs[i]->values, jobs[i]->row_stride, shape);
  }
  return absl::OkStatus();
}

absl::Status CudaCodec::Decode(std::span<const TileDecodeJob> jobs) {
  for (const TileDecodeJob& job : jobs) KVSTOW_RETURN_IF_ERROR(CheckDecodeJob(job));
  std::map<GroupKey, std::vector<const TileDecodeJob*>> groups;
  for (const TileDecodeJob& job : jobs) {
    if (job.head.mode == TileMode::kRaw) {
      CopyRows(job.body, job.shape.dim * SizeOf(job.shape.dtype), job.values, job.row_stride,
               job.shape);
    } else {
      const RotaryTable* table = job.head.rotary_undone ? job.rotary : nullptr;
      groups[KeyOf(job.shape, {}, table)].push_back(&job);
    }
  }
  absl::MutexLock lock(&mu_);
  KVSTOW_CUDA_RETURN_IF_ERROR(cudaSetDevice(device_));
  KVSTOW_RETURN_IF_ERROR(Settle(PrepareFor(jobs)));
  for (auto& [key, group] : groups) {
    const size_t piece = std::max<size_t>(1, kMaxScratchBytes / group.front()->shape.bytes());
    for (size_t at = 0; at < group.size(); at += piece) {
      KVSTOW_RETURN_IF_ERROR(
          Settle(DecodeGroup(std::span(group).subspan(at, std::min(piece, group.size() - at)))));
    }
  }
  return absl::OkStatus();
}

}  // namespace kvstow::gpu
