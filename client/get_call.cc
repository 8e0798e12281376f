#include "client/get_call.h"

#include <algorithm>
#include <memory>
#include <utility>

#include "client/bulk_stream.h"
#include "client/convert.h"
#include "client/device_landing.h"
#include "client/get_assembly.h"
#include "client/get_message.h"
#include "client/serialize.h"
#include "client/stopwatch.h"
#include "kvstow/v1/kvstow.pb.h"
#include "staging/slot_ring.h"

namespace kvstow::client {
namespace {

using Slot = std::optional<StagingLink::Slot>;

v1::GetRequest Open(const SpaceHandle& handle, const GetBlocksRequest& request, size_t blocks,
                    const Slot& slot, v1::Form form) {
  v1::GetRequest message;
  v1::GetRequest::Open& open = *message.mutable_open();
  open.set_session_id(handle.session_id);
  open.set_space(handle.space);
  open.set_keys(ToBytes(std::span(request.keys).first(blocks)));
  for (uint32_t layer : request.layers) open.add_layers(layer);
  open.set_form(form);
  open.set_layers_together(request.on_layer == nullptr);
  if (slot) *open.mutable_slot() = slot->Claim();
  return message;
}

// Tells the daemon what was read out of the slot, once it is worth a message. A stream that is
// broken, or over, shows in reading.
class ConsumedTeller {
 public:
  // What has not landed yet is held back, too: with device memory half as much more is.
  ConsumedTeller(BulkStream* stream, const Slot& slot)
      : stream_(stream), worth_(slot ? SlotRing(slot->bytes().size()).told_when_read() : 0) {
    if (slot && slot->on_device()) worth_ /= 2;
  }

  // From here on every Tell does. Room of planes that the daemon skips may lie between those that
  // were read and not told.
  void HoldNothingBack() { worth_ = 0; }

  void Tell(const StagedCount& read) {
    if (read.room - told_.room < worth_ || read.segments == told_.segments) return;
    told_ = read;
    v1::GetRequest message;
    message.mutable_consumed()->set_segments(read.segments);
    stream_->Write(Serialize(message));
  }

 private:
  BulkStream* const stream_;
  size_t worth_;
  StagedCount told_;
};

// Launched and not landed, at most: the device has its next batch while the thread reads another
// message. Fewer than a decoder has room for (gpu/plane_decoder.cc), which would wait for it.
constexpr size_t kMostFlying = 2;

// Reads a Get's messages, has their planes copied to the engine's device memory (`landing`; null
// where they go to the host's), and hears meanwhile which have been.
class Reading {
 public:
  Reading(BulkStream* stream, const Slot& slot, const Deadline& deadline, GetAssembly* assembly,
          DeviceLanding* landing)
      : stream_(*stream),
        staging_(slot ? slot->bytes() : std::span<std::byte>()),
        slot_on_device_(slot && slot->on_device()),
        deadline_(deadline),
        assembly_(*assembly),
        landing_(landing),
        teller_(stream, slot) {}

  // To the stream's end, or to the first problem, or to where nothing useful can come.
  absl::Status ReadAll() {
    if (landing_ != nullptr) {
      if (absl::Status s = landing_->Begin(); !s.ok()) return s;
    }
    grpc::ByteBuffer message;
    for (;;) {
      const auto more = Next(&message);
      if (!more.ok()) return more.status();
      if (!*more) return landing_ == nullptr ? absl::OkStatus() : AwaitAllBut(0);
      if (absl::Status s = Take(&message); !s.ok() || NothingToCome()) return s;
    }
  }

  // Once the assembly has everything: what it handed on at last.
  absl::Status LandRest() {
    if (landing_ == nullptr) return absl::OkStatus();
    if (absl::Status s = landing_->Launch(assembly_.handed_on(), read_); !s.ok()) return s;
    return AwaitAllBut(0);
  }

  // For which it only waited for the engine's stream.
  absl::Duration waited() const { return waited_; }

 private:
  absl::StatusOr<bool> Next(grpc::ByteBuffer* message) {
    if (landing_ == nullptr) return stream_.Read(message);
    return stream_.Read(message, [this]() -> absl::StatusOr<bool> {
      const auto flying = landing_->Look();
      if (!flying.ok()) return flying;
      if (absl::Status s = NoteLanded(); !s.ok()) return s;
      return flying;
    });
  }

  bool NothingToCome() const { return assembly_.hopeless() && !assembly_.found_nothing(); }

  absl::Status Take(grpc::ByteBuffer* message) {
    absl::Status taken = TakeGetResponse(message, staging_, &assembly_, &read_);
    if (!taken.ok() || NothingToCome()) return taken;
    // The transport may have buffered more than the caller still has time for.
    if (deadline_.expired()) return absl::DeadlineExceededError("Get ran out of time");
    if (!slot_on_device_) Tell(read_);  // nobody reads it there any more
    if (landing_ == nullptr) return absl::OkStatus();
    if (absl::Status s = AwaitAllBut(kMostFlying - 1); !s.ok()) return s;
    return landing_->Launch(assembly_.handed_on(), read_);
  }

  absl::Status AwaitAllBut(size_t flying) {
    {
      const Stopwatch stopwatch(&waited_);
      if (absl::Status s = landing_->AwaitAllBut(flying); !s.ok()) return s;
    }
    return NoteLanded();
  }

  absl::Status NoteLanded() {
    for (const DamagedArrival& damage : landing_->TakeDamage()) {
      if (absl::Status s = assembly_.OnLandedDamage(damage.block, *damage.plane); !s.ok()) return s;
    }
    assembly_.Landed(landing_->place());
    if (slot_on_device_) Tell(landing_->read());
    return absl::OkStatus();
  }

  void Tell(const StagedCount& read) {
    if (!assembly_.damage().ok()) teller_.HoldNothingBack();
    teller_.Tell(read);
  }

  BulkStream& stream_;
  const std::span<const std::byte> staging_;
  const bool slot_on_device_;
  const Deadline& deadline_;
  GetAssembly& assembly_;
  DeviceLanding* const landing_;
  ConsumedTeller teller_;
  StagedCount read_;
  absl::Duration waited_;
};

// Whether planes are to stay encoded until they are in the worker's own hands on the device: all of
// them must find room in the slot, since what is decoded there cannot come by another way.
bool DecodesOnDevice(const Slot& slot, const PlaneLayout& layout, const GetBlocksRequest& request) {
  if (!slot || !slot->on_device() || !request.device->decodes()) return false;
  const SlotRing ring(slot->bytes().size());
  return std::all_of(layout.planes().begin(), layout.planes().end(), [&](const PlaneSpec& plane) {
    return ring.fits(GetAssembly::MostEncodedBytes(plane));
  });
}

// Only the daemon's own word that the call is over tells that it writes the slot no more. What was
// enqueued may read it for longer.
bool IsDone(const StagingLink::Slot& slot, const grpc::Status& end,
            const std::optional<DeviceLanding>& landing) {
  return end.ok() && (!slot.on_device() || landing->idle());
}

// What the assembly and the transport say together.
absl::Status Conclude(absl::Status read, const grpc::Status& end, GetAssembly* assembly,
                      Reading* reading) {
  if (!read.ok()) return read;
  if (assembly->hopeless()) return assembly->damage();
  if (!end.ok()) return FromGrpc(end);
  if (absl::Status s = assembly->OnEnd(); !s.ok()) return s;
  if (absl::Status s = reading->LandRest(); !s.ok()) return s;
  return assembly->damage();
}

}  // namespace

Outcome RunGet(const BulkStream::Terms& terms, const SpaceHandle& handle,
               std::optional<StagingLink::Slot> slot, SpaceCoder* coder, const PlaneLayout& layout,
               const GetBlocksRequest& request, size_t blocks, GetBlocksResult* result) {
  result->path = PathOf(slot);
  if (result->path == DataPath::kDeviceMemory) coder = nullptr;  // of KV on the host
  absl::StatusOr<GetAssembly> assembly =
      GetAssembly::Create(layout, request, blocks, coder, terms.deadline);
  if (!assembly.ok()) return Judge(assembly.status());
  const absl::Duration budget = terms.deadline.remaining();
  std::optional<DeviceLanding> landing;
  const bool lands_encoded = DecodesOnDevice(slot, layout, request);
  if (request.device != nullptr) {
    landing.emplace(request.device.get(), terms);
    assembly->LandWith([&](const auto&... plane) { return landing->ScatterFromHost(plane...); });
    if (slot && slot->on_device()) {
      assembly->LandInPlaceWith([&](const auto& plane) { landing->Add(plane); }, lands_encoded);
    }
  }
  BulkStream stream(terms, "Get");
  // What may go wrong here shows in reading.
  const bool encoded = coder != nullptr || lands_encoded;
  const v1::Form form = encoded ? v1::FORM_ENCODED : v1::FORM_DECODED;
  if (stream.Write(Serialize(Open(handle, request, blocks, slot, form))) && !slot) {
    stream.WritesDone();
  }
  Reading reading(&stream, slot, terms.deadline, &*assembly, landing ? &*landing : nullptr);
  absl::Status read = reading.ReadAll();
  // For a call that was left early; harmless for one that ended by itself.
  if (!read.ok() || (assembly->hopeless() && !assembly->found_nothing())) stream.Cancel();
  const grpc::Status end = stream.Finish();
  if (slot && IsDone(*slot, end, landing)) slot->Return();
  absl::Status status = Conclude(std::move(read), end, &*assembly, &reading);
  result->usable = assembly->usable();
  result->received_bytes = assembly->received_bytes();
  if (landing && landing->failed()) return Unmade(std::move(status));
  if (absl::IsFailedPrecondition(status) && assembly->answered()) {
    status = absl::UnavailableError("the daemon lost the session in the middle of the Get");
  }
  return Excuse(Judge(std::move(status)), assembly->callback_time() + reading.waited(),
                budget - terms.deadline.remaining());
}

}  // namespace kvstow::client
