#include "gpu/cuda_device.h"

#include <cstdlib>
#include <cstring>
#include <utility>
#include <vector>

#include "gpu/cuda_codec.h"
#include "gpu/cuda_plane_reader.h"
#include "gpu/cuda_plane_writer.h"
#include "gpu/cuda_status.h"
#include "gpu/shared_memory.h"

namespace kvstow::gpu {
namespace {

bool IsUsable(cudaError_t answer) { return answer == cudaSuccess || answer == cudaErrorNotReady; }

// Encodes and decodes tiles of the most common shape, so that buffers and kernels are there before
// the first worker is.
absl::Status WarmUp(Codec& codec) {
  constexpr size_t kTiles = 512;
  constexpr TileShape kShape = {128, 128, DType::kFp16};
  std::vector<uint16_t> values(kShape.entries());
  for (size_t i = 0; i < values.size(); ++i) {
    values[i] = static_cast<uint16_t>(0x3c00 + i * 2654435761u % 1024);  // from 1 to 2
  }
  std::vector<std::byte> bodies(kTiles * MaxTileBodyBytes(kShape)), decoded(kShape.bytes());
  std::vector<TileEncodeJob> encode(kTiles);
  for (size_t i = 0; i < kTiles; ++i) {
    encode[i].shape = kShape;
    encode[i].values = reinterpret_cast<const std::byte*>(values.data());
    encode[i].row_stride = kShape.dim * sizeof(uint16_t);
    encode[i].options.key_like = i % 2 == 0;
    encode[i].body = bodies.data() + i * MaxTileBodyBytes(kShape);
  }
  if (auto s = codec.Encode(encode); !s.ok()) return s;
  TileDecodeJob decode;
  decode.shape = kShape;
  decode.head = encode[0].head;
  decode.body = encode[0].body;
  decode.values = decoded.data();
  decode.row_stride = encode[0].row_stride;
  return codec.Decode({&decode, 1});
}

}  // namespace

absl::StatusOr<std::unique_ptr<Device>> CudaDevice::Open(int index) {
  // Kernels are loaded now rather than in the middle of the first Put that needs them.
  setenv("CUDA_MODULE_LOADING", "EAGER", 0);
  // Finds out all that can be in the way: driver, device, kernels for it.
  auto codec = CudaCodec::Create(index);
  if (!codec.ok()) return codec.status();
  cudaDeviceProp properties;
  KVSTOW_CUDA_RETURN_IF_ERROR(cudaGetDeviceProperties(&properties, index));
  DeviceUuid uuid;
  static_assert(sizeof(properties.uuid) == uuid.size());
  std::memcpy(uuid.data(), &properties.uuid, uuid.size());
  return std::unique_ptr<Device>(new CudaDevice(index, std::string((*codec)->description()), uuid));
}

CudaDevice::~CudaDevice() {
  absl::MutexLock lock(&mu_);
  for (cudaStream_t stream : idle_streams_) (void)cudaStreamDestroy(stream);
}

absl::Status CudaDevice::Note(cudaError_t error, absl::string_view what) const {
  return Note(ToStatus(error, what));
}

absl::Status CudaDevice::Note(absl::Status status) const {
  if (status.ok()) return status;
  errors_.fetch_add(1, std::memory_order_relaxed);
  // What is for good is said by every call from now on; other errors have been told once.
  if (absl::IsInternal(status) && !IsUsable(cudaStreamQuery(cudaStreamPerThread))) {
    absl::MutexLock lock(&mu_);
    lost_.Update(status);
  }
  return status;
}

absl::StatusOr<std::unique_ptr<Codec>> CudaDevice::NewCodec() {
  auto codec = CudaCodec::Create(index_);
  if (!codec.ok()) return codec.status();
  if (auto s = WarmUp(**codec); !s.ok()) return s;
  return std::unique_ptr<Codec>(*std::move(codec));
}

absl::StatusOr<std::byte*> CudaDevice::Allocate(size_t bytes) {
  if (auto s = Note(cudaSetDevice(index_), "cudaSetDevice"); !s.ok()) return s;
  void* memory = nullptr;
  if (auto s = Note(cudaMalloc(&memory, bytes), "cudaMalloc"); !s.ok()) return s;
  return static_cast<std::byte*>(memory);
}

void CudaDevice::Free(std::byte* memory) {
  (void)Note(cudaSetDevice(index_), "cudaSetDevice");
  (void)Note(cudaFree(memory), "cudaFree");
}

absl::Status CudaDevice::Pin(std::byte* memory, size_t bytes) {
  if (auto s = Note(cudaSetDevice(index_), "cudaSetDevice"); !s.ok()) return s;
  return Note(cudaHostRegister(memory, bytes, cudaHostRegisterPortable), "cudaHostRegister");
}

void CudaDevice::Unpin(std::byte* memory) {
  (void)Note(cudaSetDevice(index_), "cudaSetDevice");
  (void)Note(cudaHostUnregister(memory), "cudaHostUnregister");
}

absl::StatusOr<cudaStream_t> CudaDevice::BorrowStream() {
  if (auto s = Note(cudaSetDevice(index_), "cudaSetDevice"); !s.ok()) return s;
  {
    absl::MutexLock lock(&mu_);
    if (!idle_streams_.empty()) {
      const cudaStream_t stream = idle_streams_.back();
      idle_streams_.pop_back();
      return stream;
    }
  }
  cudaStream_t stream = nullptr;
  auto status = Note(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "cudaStreamCreate");
  if (!status.ok()) return status;
  return stream;
}

absl::Status CudaDevice::CopyAll(std::span<const Copy> copies) {
  auto stream = BorrowStream();
  if (!stream.ok()) return stream.status();
  absl::Status status;
  for (const Copy& copy : copies) {
    status.Update(
        Note(cudaMemcpyAsync(copy.to, copy.from, copy.bytes, cudaMemcpyDefault, *stream), "copy"));
  }
  return ReturnStream(*stream, std::move(status));
}

absl::Status CudaDevice::FetchAll(std::span<const Copy> copies) {
  auto stream = BorrowStream();
  if (!stream.ok()) return stream.status();
  absl::MutexLock lock(&fetch_mu_);
  fetches_.Clear();
  for (const Copy& copy : copies) fetches_.AddOnDevice(copy.from, copy.to, copy.bytes);
  return ReturnStream(*stream, Note(fetches_.Enqueue(*stream)));
}

absl::Status CudaDevice::ReturnStream(cudaStream_t stream, absl::Status status) {
  status.Update(Note(cudaStreamSynchronize(stream), "copy"));
  absl::MutexLock lock(&mu_);
  idle_streams_.push_back(stream);
  return status;
}

namespace {

class SharedDeviceMemory final : public SharedMemory {
 public:
  explicit SharedDeviceMemory(SharedMapping mapping) : mapping_(std::move(mapping)) {}
  std::span<std::byte> bytes() const override { return mapping_.bytes(); }
  int descriptor() const override { return mapping_.descriptor(); }
  void CloseDescriptor() override { mapping_.CloseDescriptor(); }

 private:
  SharedMapping mapping_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<SharedMemory>> CudaDevice::Share(size_t bytes) {
  auto mapping = SharedMapping::Create(index_, bytes);
  if (!mapping.ok()) return Note(mapping.status());
  return std::make_unique<SharedDeviceMemory>(*std::move(mapping));
}

absl::StatusOr<std::unique_ptr<SharedMemory>> CudaDevice::Import(int descriptor, size_t bytes) {
  auto mapping = SharedMapping::Import(index_, descriptor, bytes);
  if (!mapping.ok()) return mapping.status();  // the other side's fault, not the device's
  return std::make_unique<SharedDeviceMemory>(*std::move(mapping));
}

absl::StatusOr<std::unique_ptr<PlaneReader>> CudaDevice::NewPlaneReader(const PlaneLayout& layout,
                                                                        size_t max_records) {
  auto reader = CudaPlaneReader::Create(index_, layout, max_records);
  if (!reader.ok()) return Note(reader.status());
  return *std::move(reader);
}

absl::StatusOr<std::unique_ptr<PlaneWriter>> CudaDevice::NewPlaneWriter(const PlaneLayout& layout,
                                                                        size_t max_bytes,
                                                                        size_t max_blocks) {
  auto writer = CudaPlaneWriter::Create(index_, layout, max_bytes, max_blocks);
  if (!writer.ok()) return Note(writer.status());
  return *std::move(writer);
}

absl::Status CudaDevice::health() const {
  {
    absl::MutexLock lock(&mu_);
    if (!lost_.ok()) return lost_;
  }
  if (auto s = Note(cudaSetDevice(index_), "cudaSetDevice"); !s.ok()) return s;
  // Without work of its own the call still returns what is sticky.
  const cudaError_t error = cudaStreamQuery(cudaStreamPerThread);
  return IsUsable(error) ? absl::OkStatus() : Note(error, "health");
}

}  // namespace kvstow::gpu
