#include "server/tiers/device_write_lanes.h"

#include <vector>

#include "absl/container/flat_hash_set.h"

namespace kvstow {
namespace {

// How many of the planes fit into one call.
size_t Fitting(const gpu::PlaneWriter& writer, std::span<const DeviceWrites::Plane> planes) {
  size_t load = 0;
  absl::flat_hash_set<uint64_t> blocks;
  for (size_t i = 0; i < planes.size(); ++i) {
    load += writer.LoadOf(planes[i].plane);
    blocks.insert(planes[i].first_position);
    if (load > writer.max_load() || blocks.size() > DeviceWriteLanes::kBatchBlocks) return i;
  }
  return planes.size();
}

absl::Status WriteSome(gpu::PlaneWriter& writer, std::span<DeviceWrites::Plane> planes,
                       absl::FunctionRef<void(size_t)> taken) {
  std::vector<gpu::PlaneWriter::Plane> wanted(planes.size());
  for (size_t i = 0; i < planes.size(); ++i) {
    wanted[i].plane = planes[i].plane;
    wanted[i].first_position = planes[i].first_position;
    wanted[i].values = planes[i].values;
  }
  const absl::Status status = writer.Write(wanted, [&] { taken(wanted.size()); });
  for (size_t i = 0; i < planes.size(); ++i) {
    planes[i].summary = wanted[i].summary;
    planes[i].encoded = wanted[i].encoded;
  }
  return status;
}

}  // namespace

DeviceWriteLanes::DeviceWriteLanes(gpu::Device* device, Executor* executor)
    : device_(*device), lanes_(executor, WorkPriority::kPut, kLanes), writers_(kLanes) {}

absl::StatusOr<std::unique_ptr<gpu::PlaneWriter>> DeviceWriteLanes::Make(
    const PlaneLayout& layout) const {
  size_t bytes = kBatchBytes;
  auto made = device_.NewPlaneWriter(layout, bytes, kBatchBlocks);
  while (absl::IsResourceExhausted(made.status()) && bytes > kLeastBatchBytes) {
    bytes /= 2;
    made = device_.NewPlaneWriter(layout, bytes, kBatchBlocks);
  }
  return made;
}

absl::Status DeviceWriteLanes::Write(const std::shared_ptr<const SpaceContext>& space,
                                     std::span<Plane> planes, absl::FunctionRef<void(size_t)> taken,
                                     absl::FunctionRef<void(std::span<const Plane>)> encoded) {
  const auto make = [this](const PlaneLayout& layout) { return Make(layout); };
  return writers_.With(space, make, [&](gpu::PlaneWriter& writer) -> absl::Status {
    while (!planes.empty()) {
      const auto some = planes.first(Fitting(writer, planes));
      if (absl::Status s = WriteSome(writer, some, taken); !s.ok()) return s;
      encoded(some);
      planes = planes.subspan(some.size());
    }
    return absl::OkStatus();
  });
}

}  // namespace kvstow
