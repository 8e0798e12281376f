#include "client/device_writer.h"

#include <utility>

#include "client/device_wait.h"
#include "client/serialize.h"
#include "client/stopwatch.h"

namespace kvstow::client {
namespace {

constexpr int kMaxSegments = 1024;
// Gathered while the daemon is told of those before them: where its kernels and the engine's take
// turns on the device, each may wait for one.
constexpr size_t kFlyingBatches = 2;

}  // namespace

DeviceWriter::DeviceWriter(std::span<std::byte> slot, size_t max_chunk_bytes,
                           const PlaneLayout* layout, DeviceKv* kv, const BulkStream::Terms* terms,
                           ChunkWriter::Send send, StagedRoom::AwaitConsumed await)
    : slot_(slot),
      layout_(*layout),
      kv_(*kv),
      terms_(*terms),
      send_(send),
      chunks_(max_chunk_bytes, std::move(send)),
      room_(slot.size(), std::move(await)),
      pace_(TellingPace::OnDevice(slot.size())) {}

bool DeviceWriter::Append(const PlaneSpec& plane, uint32_t block, std::span<const std::byte> bytes,
                          const v1::PlaneDeclaration* declared) {
  return Flush() && chunks_.Append(plane, block, bytes, declared) && chunks_.Flush();
}

bool DeviceWriter::Gather(const PlaneSpec& plane, uint32_t block, GatherToHost to_host) {
  if (!room_.fits(plane.raw_bytes)) return PlaneWriter::Gather(plane, block, to_host);
  const auto offset = room_.Take(plane.raw_bytes, [this] { return Flush(); });
  if (!offset) return false;
  AddSegment(plane, block, plane.raw_bytes, *offset, batch_.message.mutable_staged());
  leaving_.push_back({&plane, static_cast<size_t>(&plane - layout_.planes().data()), block,
                      slot_.data() + *offset});
  batch_.bytes += plane.raw_bytes;
  batch_.room += SlotRing::Rounded(plane.raw_bytes);
  const bool full = pace_.worth_telling(batch_.room) || leaving_.size() == kMaxSegments;
  return !full || (Launch() && SendAllBut(kFlyingBatches));
}

bool DeviceWriter::Launch() {
  if (leaving_.empty()) return true;
  problem_ = kv_.Gather(leaving_);
  leaving_.clear();
  if (!problem_.ok()) return false;
  const auto mark = kv_.Mark();
  problem_ = mark.status();
  if (!problem_.ok()) return false;
  batch_.mark = *mark;
  flying_.push_back(std::exchange(batch_, {}));
  return true;
}

bool DeviceWriter::SendAllBut(size_t batches) {
  while (flying_.size() > batches) {
    {
      const Stopwatch stopwatch(&waited_);
      problem_ = AwaitMark(kv_, flying_.front().mark, terms_);
    }
    if (!problem_.ok()) return false;
    const Batch batch = std::move(flying_.front());
    flying_.pop_front();
    staged_bytes_ += batch.bytes;
    if (!send_(Serialize(batch.message))) return false;
  }
  return true;
}

bool DeviceWriter::Flush() { return Launch() && SendAllBut(0); }

}  // namespace kvstow::client
