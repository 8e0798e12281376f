#include "server/tiers/device_write_lanes.h"

#include <vector>

#include "absl/container/flat_hash_set.h"
#include "server/core/status_macros.h"

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

std::vector<gpu::PlaneWriter::Plane> Wanted(std::span<const DeviceWrites::Plane> planes) {
  std::vector<gpu::PlaneWriter::Plane> wanted(planes.size());
  for (size_t i = 0; i < planes.size(); ++i) {
    wanted[i].plane = planes[i].plane;
    wanted[i].first_position = planes[i].first_position;
    wanted[i].values = planes[i].values;
  }
  return wanted;
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
                                     absl::FunctionRef<std::span<Plane>()> next,
                                     absl::FunctionRef<void(size_t)> taken,
                                     absl::FunctionRef<void(std::span<const Plane>)> encoded) {
  const auto make = [this](const PlaneLayout& layout) { return Make(layout); };
  return writers_.With(space, make, [&](gpu::PlaneWriter& writer) -> absl::Status {
    std::span<Plane> done;  // and not handed on yet
    for (std::span<Plane> left = next(); !left.empty();) {
      const auto some = left.first(Fitting(writer, left));
      std::vector<gpu::PlaneWriter::Plane> wanted = Wanted(some);
      KVSTOW_RETURN_IF_ERROR(writer.Begin(wanted));
      taken(some.size());
      if (!done.empty()) encoded(done);
      KVSTOW_RETURN_IF_ERROR(writer.End(wanted));
      for (size_t i = 0; i < some.size(); ++i) {
        some[i].summary = wanted[i].summary;
        some[i].encoded = wanted[i].encoded;
      }
      done = some;
      left = left.subspan(some.size());
      if (left.empty()) left = next();
    }
    if (!done.empty()) encoded(done);
    return absl::OkStatus();
  });
}

}  // namespace kvstow
