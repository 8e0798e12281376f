#include "server/tiers/device_read_lanes.h"

#include <algorithm>
#include <cstring>
#include <new>
#include <utility>

#include "codec/scratch.h"
#include "server/core/get_call.h"

namespace kvstow {

namespace {

std::span<std::byte> PinnedPages(gpu::Device& device, size_t bytes) {
  constexpr std::align_val_t kPage{4096};
  auto* const pages = static_cast<std::byte*>(::operator new(bytes, kPage));
  // Without it everything works, more slowly.
  if (!device.Pin(pages, bytes).ok()) {
    ::operator delete(pages, kPage);
    return {};
  }
  return {pages, bytes};
}

}  // namespace

DeviceReadLanes::DeviceReadLanes(gpu::Device* device, Executor* executor, size_t max_records)
    : device_(*device),
      executor_(*executor),
      max_records_(max_records),
      bounce_(PinnedPages(*device, kBounceBytes)),
      readers_(kLanes) {}

DeviceReadLanes::~DeviceReadLanes() {
  if (bounce_.empty()) return;
  device_.Unpin(bounce_.data());
  ::operator delete (bounce_.data(), std::align_val_t{4096});
}

void DeviceReadLanes::Schedule(absl::AnyInvocable<void()> turn) {
  {
    absl::MutexLock lock(&mu_);
    waiting_.push_back(std::move(turn));
    if (running_ == kLanes) return;
    ++running_;
    ++coming_;
  }
  executor_.Schedule(WorkPriority::kGet, [this] { RunNext(); });
}

void DeviceReadLanes::RunNext() {
  absl::AnyInvocable<void()> turn;
  {
    absl::MutexLock lock(&mu_);
    --coming_;
    turn = std::move(waiting_.front());
    waiting_.pop_front();
  }
  turn();
  turn = nullptr;  // before the lane is free: it may hold the last reference to its call
  {
    absl::MutexLock lock(&mu_);
    // Each that is coming has its turn.
    if (waiting_.size() == coming_) {
      --running_;
      return;
    }
    ++coming_;
  }
  executor_.Schedule(WorkPriority::kGet, [this] { RunNext(); });
}

DeviceReadLanes::Reader* DeviceReadLanes::Take(const SpaceContext& space) {
  absl::MutexLock lock(&mu_);
  const auto find = [this](auto suits) {
    return std::find_if(readers_.begin(), readers_.end(),
                        [&](const Reader& reader) { return !reader.in_use && suits(reader); });
  };
  auto best = find([&](const Reader& reader) {
    return reader.reader != nullptr && reader.space.get() == &space;
  });
  if (best == readers_.end()) best = find([](const Reader& r) { return r.reader == nullptr; });
  // There is one: no more turns run than there are readers.
  if (best == readers_.end()) best = find([](const Reader&) { return true; });
  best->in_use = true;
  return &*best;
}

absl::Status DeviceReadLanes::Read(const std::shared_ptr<const SpaceContext>& space,
                                   std::span<const StoredRecord> records, PlaneForm form,
                                   std::span<Plane> planes) {
  Reader& lane = *Take(*space);
  absl::Status status;
  if (lane.reader == nullptr || lane.space != space) {
    lane.reader = nullptr;  // first: its memory may be what the next one needs
    lane.space = space;
    auto made = device_.NewPlaneReader(space->layout(), max_records_);
    status = made.status();
    if (made.ok()) lane.reader = *std::move(made);
  }
  if (status.ok()) {
    using Form = gpu::PlaneReader::Form;
    std::vector<gpu::PlaneReader::Plane> wanted;
    wanted.reserve(planes.size());
    for (const Plane& plane : planes) wanted.push_back({plane.record, plane.plane, plane.to});
    status = lane.reader->Read(
        records, form == PlaneForm::kEncoded ? Form::kEncoded : Form::kDecoded, wanted);
    for (size_t i = 0; i < planes.size(); ++i) planes[i].damaged = wanted[i].damaged;
  }
  absl::MutexLock lock(&mu_);
  lane.in_use = false;
  return status;
}

absl::Status DeviceReadLanes::Fetch(std::span<const Fetched> pieces) {
  size_t bytes = 0;
  for (const Fetched& piece : pieces) bytes += piece.bytes;
  absl::MutexLock lock(&bounce_mu_);
  const bool bounced = bytes <= bounce_.size();
  std::vector<gpu::Copy> copies;
  copies.reserve(pieces.size());
  size_t at = 0;
  for (const Fetched& piece : pieces) {
    copies.push_back({bounced ? bounce_.data() + at : piece.to, piece.from, piece.bytes});
    at += piece.bytes;
  }
  const absl::Status status = device_.CopyAll(copies);
  if (!status.ok() || !bounced) return status;
  for (size_t i = 0; i < pieces.size(); ++i) {
    std::memcpy(pieces[i].to, copies[i].to, pieces[i].bytes);
  }
  Overwrite(bounce_.first(bytes));
  return absl::OkStatus();
}

}  // namespace kvstow
