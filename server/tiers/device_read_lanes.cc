#include "server/tiers/device_read_lanes.h"

#include <cstring>
#include <new>
#include <utility>
#include <vector>

#include "codec/scratch.h"
#include "codec/tile.h"
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
      max_records_(max_records),
      bounce_(PinnedPages(*device, kBounceBytes)),
      lanes_(executor, WorkPriority::kGet, kLanes),
      readers_(kLanes) {}

DeviceReadLanes::~DeviceReadLanes() {
  if (bounce_.empty()) return;
  device_.Unpin(bounce_.data());
  ::operator delete (bounce_.data(), std::align_val_t{4096});
}

absl::Status DeviceReadLanes::Read(const std::shared_ptr<const SpaceContext>& space,
                                   std::span<const StoredRecord> records, PlaneForm form,
                                   std::span<Plane> planes) {
  const auto make = [this](const PlaneLayout& layout) {
    return device_.NewPlaneReader(layout, max_records_);
  };
  return readers_.With(space, make, [&](gpu::PlaneReader& reader) {
    using Form = gpu::PlaneReader::Form;
    std::vector<gpu::PlaneReader::Plane> wanted;
    wanted.reserve(planes.size());
    for (const Plane& plane : planes) wanted.push_back({plane.record, plane.plane, plane.to});
    const absl::Status status =
        reader.Read(records, form == PlaneForm::kEncoded ? Form::kEncoded : Form::kDecoded, wanted);
    for (size_t i = 0; i < planes.size(); ++i) planes[i].damaged = wanted[i].damaged;
    return status;
  });
}

absl::Status DeviceReadLanes::Fetch(std::span<const Fetched> pieces) {
  size_t bytes = 0;
  for (const Fetched& piece : pieces) bytes += RoundUpToTile(piece.bytes);
  std::vector<gpu::Copy> copies;
  copies.reserve(pieces.size());
  absl::MutexLock lock(&bounce_mu_);
  if (bytes > bounce_.size()) {
    for (const Fetched& piece : pieces) copies.push_back({piece.to, piece.from, piece.bytes});
    return device_.CopyAll(copies);
  }
  std::byte* to = bounce_.data();
  for (const Fetched& piece : pieces) {
    copies.push_back({to, piece.from, RoundUpToTile(piece.bytes)});
    to += copies.back().bytes;
  }
  const absl::Status status = device_.FetchAll(copies);
  for (size_t i = 0; status.ok() && i < pieces.size(); ++i) {
    std::memcpy(pieces[i].to, copies[i].to, pieces[i].bytes);
  }
  Overwrite(bounce_.first(bytes));
  return status;
}

}  // namespace kvstow
