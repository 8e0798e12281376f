// A device made of host memory and the CPU codec, that fails when told to. Thread-safe.
#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "codec/crc32c.h"
#include "codec/plane.h"
#include "codec/rotary_table.h"
#include "gpu/api/device.h"

namespace kvstow::gpu {

class FakeDevice : public Device {
 public:
  // Everything fails from here on, or until Repair.
  void Lose() { lost_ = true; }
  void Repair() { lost_ = false; }
  // How many bytes may still be allocated, and pinned.
  void set_memory(size_t bytes) { memory_ = bytes; }
  void set_pinnable(size_t bytes) { pinnable_ = bytes; }
  size_t pinned() const { return pinned_; }
  // What shared memory comes in multiples of.
  void set_shared_page(size_t bytes) { shared_page_ = bytes; }

  absl::string_view description() const override { return "fake"; }
  absl::StatusOr<std::unique_ptr<Codec>> NewCodec() override {
    return std::unique_ptr<Codec>(new FakeCodec(this));
  }
  absl::StatusOr<std::byte*> Allocate(size_t bytes) override {
    if (auto s = Check(); !s.ok()) return s;
    void* const memory = bytes <= memory_ ? std::malloc(bytes) : nullptr;
    if (memory == nullptr) return Count(absl::ResourceExhaustedError("out of device memory"));
    return static_cast<std::byte*>(memory);
  }
  void Free(std::byte* memory) override { std::free(memory); }
  absl::Status Pin(std::byte*, size_t bytes) override {
    if (auto s = Check(); !s.ok()) return s;
    if (pinned_ + bytes > pinnable_) return Count(absl::ResourceExhaustedError("locked memory"));
    pinned_ += bytes;
    ++pins_;
    return absl::OkStatus();
  }
  void Unpin(std::byte*) override { --pins_; }
  int pins() const { return pins_; }
  absl::Status CopyAll(std::span<const Copy> copies) override {
    if (auto s = Check(); !s.ok()) return s;
    for (const Copy& copy : copies) std::memcpy(copy.to, copy.from, copy.bytes);
    return absl::OkStatus();
  }
  absl::Status FetchAll(std::span<const Copy> copies) override { return CopyAll(copies); }
  DeviceUuid uuid() const override { return {'f', 'a', 'k', 'e'}; }
  // A memfd, which a worker of the same kind maps.
  absl::StatusOr<std::unique_ptr<SharedMemory>> Share(size_t bytes) override {
    if (auto s = Check(); !s.ok()) return s;
    if (bytes > memory_) return Count(absl::ResourceExhaustedError("out of device memory"));
    return std::unique_ptr<SharedMemory>(
        new FakeSharedMemory((bytes + shared_page_ - 1) / shared_page_ * shared_page_));
  }
  absl::StatusOr<std::unique_ptr<SharedMemory>> Import(int descriptor, size_t bytes) override {
    if (auto s = Check(); !s.ok()) return s;
    return std::unique_ptr<SharedMemory>(new FakeSharedMemory(dup(descriptor), bytes));
  }
  absl::StatusOr<std::unique_ptr<PlaneReader>> NewPlaneReader(const PlaneLayout& layout,
                                                              size_t /*max_records*/) override {
    if (auto s = Check(); !s.ok()) return s;
    return std::unique_ptr<PlaneReader>(new FakePlaneReader(this, layout));
  }
  absl::StatusOr<std::unique_ptr<PlaneWriter>> NewPlaneWriter(const PlaneLayout& layout,
                                                              size_t max_bytes,
                                                              size_t /*max_blocks*/) override {
    if (auto s = Check(); !s.ok()) return s;
    if (4 * max_bytes > memory_) return Count(absl::ResourceExhaustedError("out of device memory"));
    return std::unique_ptr<PlaneWriter>(new FakePlaneWriter(this, layout, max_bytes));
  }
  absl::Status health() const override {
    return lost_ ? absl::InternalError("device lost") : absl::OkStatus();
  }
  uint64_t errors() const override { return errors_; }

 private:
  class FakeCodec final : public Codec {
   public:
    explicit FakeCodec(FakeDevice* device) : device_(*device) {}
    absl::string_view device() const override { return "cuda"; }
    absl::string_view description() const override { return "fake"; }
    absl::Status Encode(std::span<TileEncodeJob> jobs) override {
      if (auto s = device_.Check(); !s.ok()) return s;
      return CpuCodec()->Encode(jobs);
    }
    absl::Status Decode(std::span<const TileDecodeJob> jobs) override {
      if (auto s = device_.Check(); !s.ok()) return s;
      return CpuCodec()->Decode(jobs);
    }

   private:
    FakeDevice& device_;
  };

  class FakeSharedMemory final : public SharedMemory {
   public:
    explicit FakeSharedMemory(size_t bytes)
        : FakeSharedMemory(memfd_create("kvstow-fake-gpu", 0), bytes) {}
    // Grows the file where it has to.
    FakeSharedMemory(int descriptor, size_t bytes) : descriptor_(descriptor) {
      if (ftruncate(descriptor_, static_cast<off_t>(bytes)) != 0) std::abort();
      void* const at = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, descriptor_, 0);
      if (at == MAP_FAILED) std::abort();
      bytes_ = {static_cast<std::byte*>(at), bytes};
    }
    ~FakeSharedMemory() override {
      munmap(bytes_.data(), bytes_.size());
      CloseDescriptor();
    }
    std::span<std::byte> bytes() const override { return bytes_; }
    int descriptor() const override { return descriptor_; }
    void CloseDescriptor() override {
      if (descriptor_ >= 0) close(std::exchange(descriptor_, -1));
    }

   private:
    int descriptor_;
    std::span<std::byte> bytes_;
  };

  class FakePlaneReader final : public PlaneReader {
   public:
    FakePlaneReader(FakeDevice* device, const PlaneLayout& layout)
        : device_(*device), layout_(layout) {}
    absl::Status Read(std::span<const StoredRecord> records, Form form,
                      std::span<Plane> planes) override {
      if (auto s = device_.Check(); !s.ok()) return s;
      for (Plane& plane : planes) {
        if (auto s = ReadPlane(records[plane.record], form, &plane); !s.ok()) return s;
      }
      return absl::OkStatus();
    }

   private:
    absl::Status ReadPlane(const StoredRecord& record, Form form, Plane* plane) const {
      const DirectoryEntry& entry = record.index->planes()[plane->plane];
      std::vector<std::byte> whole;
      for (const RecordPiece& piece : record.pieces) {
        whole.insert(whole.end(), piece.data, piece.data + piece.size);
      }
      const auto stored = std::span(whole).subspan(entry.offset, entry.bytes);
      if (form == Form::kEncoded) {
        std::copy(stored.begin(), stored.end(), plane->to);
        return absl::OkStatus();
      }
      const PlaneSpec& spec = layout_.planes()[plane->plane];
      std::optional<RotaryTable> rotary;
      if (spec.rotary != nullptr) {
        rotary.emplace(RotaryOffsets(*spec.rotary, spec.tokens),
                       record.index->header().first_position);
      }
      plane->damaged = !CheckPlane(entry, stored).ok() ||
                       !DecodePlane(*CpuCodec(), spec, rotary ? &*rotary : nullptr, stored,
                                    {plane->to, spec.raw_bytes})
                            .ok();
      return absl::OkStatus();
    }

    FakeDevice& device_;
    const PlaneLayout& layout_;
  };

  class FakePlaneWriter final : public PlaneWriter {
   public:
    FakePlaneWriter(FakeDevice* device, const PlaneLayout& layout, size_t max_bytes)
        : device_(*device), layout_(layout), max_load_(max_bytes) {
      for (const PlaneSpec& plane : layout.planes()) {
        max_load_ = std::max(max_load_, plane.raw_bytes);
      }
    }
    size_t LoadOf(uint32_t plane) const override { return layout_.planes()[plane].raw_bytes; }
    size_t max_load() const override { return max_load_; }
    absl::Status Begin(std::span<const Plane> planes) override {
      if (auto s = device_.Check(); !s.ok()) return s;
      values_.clear();
      for (const Plane& plane : planes) {
        values_.emplace_back(plane.values, plane.values + layout_.planes()[plane.plane].raw_bytes);
      }
      return absl::OkStatus();
    }
    absl::Status End(std::span<Plane> planes) override {
      encoded_.clear();
      for (size_t i = 0; i < planes.size(); ++i) {
        if (auto s = EncodeOne(values_[i], &planes[i]); !s.ok()) return s;
      }
      return absl::OkStatus();
    }

   private:
    absl::Status EncodeOne(std::span<const std::byte> values, Plane* plane) {
      const PlaneSpec& spec = layout_.planes()[plane->plane];
      std::optional<RotaryTable> rotary;
      if (spec.rotary != nullptr) {
        rotary.emplace(RotaryOffsets(*spec.rotary, spec.tokens), plane->first_position);
      }
      auto encoded =
          EncodePlane(*CpuCodec(), spec, layout_.spec().codec, rotary ? &*rotary : nullptr, values);
      if (!encoded.ok()) return encoded.status();
      plane->summary = {static_cast<uint32_t>(encoded->bytes.size()), Crc32c(encoded->bytes),
                        encoded->report};
      plane->encoded = encoded_.emplace_back(std::move(encoded->bytes)).data();
      return absl::OkStatus();
    }

    FakeDevice& device_;
    const PlaneLayout& layout_;
    size_t max_load_;
    std::vector<std::vector<std::byte>> values_;
    std::vector<Scratch<std::byte>> encoded_;
  };

  absl::Status Count(absl::Status status) {
    ++errors_;
    return status;
  }
  absl::Status Check() {
    return lost_ ? Count(absl::InternalError("device lost")) : absl::OkStatus();
  }

  std::atomic<bool> lost_{false};
  std::atomic<size_t> memory_{size_t{1} << 40}, pinnable_{~size_t{0}}, pinned_{0};
  size_t shared_page_ = 1;
  std::atomic<int> pins_{0};
  std::atomic<uint64_t> errors_{0};
};

}  // namespace kvstow::gpu
