// A device made of host memory and the CPU codec, that fails when told to. Thread-safe.
#pragma once

#include <atomic>
#include <cstdlib>
#include <cstring>
#include <memory>

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

  absl::Status Count(absl::Status status) {
    ++errors_;
    return status;
  }
  absl::Status Check() {
    return lost_ ? Count(absl::InternalError("device lost")) : absl::OkStatus();
  }

  std::atomic<bool> lost_{false};
  std::atomic<size_t> memory_{size_t{1} << 40}, pinnable_{~size_t{0}}, pinned_{0};
  std::atomic<int> pins_{0};
  std::atomic<uint64_t> errors_{0};
};

}  // namespace kvstow::gpu
