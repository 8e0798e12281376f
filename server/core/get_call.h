// One Get, free of any transport: which blocks are there, then their planes in order, each checked
// against its checksum and, in decoded form, decoded ahead of the transport.
//
// Order: layers ascending, K before V, blocks in the order asked for. A plane that fails its
// checksum is told as damage, never delivered; its block is dropped from the store.
//
// With a staging slot, planes are decoded straight into it, or copied there in encoded form; one
// too large for it is delivered like those of a call without a slot. With a slot on a device planes
// go there many at a time (device_get.cc).
//
// Thread safety: the transport calls Next from one thread at a time, again only after its callback
// came; Consumed and Cancel from any. Callbacks come on executor
// threads or, when a plane is ready, on the caller's stack.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/functional/any_invocable.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "codec/record.h"
#include "codec/scratch.h"
#include "codec/stored_record.h"
#include "server/core/call_context.h"
#include "server/core/call_phases.h"
#include "server/core/plane_segment.h"
#include "server/core/sessions.h"
#include "server/core/space_context.h"
#include "staging/slot_ring.h"

namespace kvstow {

struct GetAnswer {
  bool found = false;
  TierKind tier = TierKind::kHost;
  uint64_t first_position = 0;
};

// A plane of one block, or the news that it is damaged, or the end. kNoRoom: nothing comes before
// the client has read what it was given in its slot, so what is held back must be told now.
struct PlaneDelivery {
  enum class Kind { kPlane, kDamage, kNoRoom, kEnd } kind = Kind::kEnd;
  uint32_t block = 0;
  uint32_t layer = 0;
  PlaneKind plane_kind = PlaneKind::kK;
  std::span<const std::byte> bytes;   // of kPlane
  std::optional<uint32_t> crc32c;     // of an encoded plane's bytes
  std::shared_ptr<const void> owner;  // keeps `bytes` where they are
  std::optional<uint32_t> staged_at;  // where in the call's slot they lie, if they do
};

class GetCall : public std::enable_shared_from_this<GetCall> {
 public:
  // INVALID_ARGUMENT for layers that are unknown, repeated or not ascending.
  static absl::StatusOr<std::shared_ptr<GetCall>> Create(CallContext& context,
                                                         std::shared_ptr<Session> session,
                                                         std::shared_ptr<const SpaceContext> space,
                                                         std::span<const BlockKey> keys,
                                                         std::span<const uint32_t> layers,
                                                         PlaneForm form, StagingSlot slot);

  const std::vector<GetAnswer>& answers() const { return answers_; }
  // How many there are of the blocks that were found.
  size_t planes() const { return planes_.size() * held_.size(); }
  bool staged_on_device() const { return staging_.on_device(); }
  // The data path, as metrics name it.
  const char* path() const {
    return staging_.on_device() ? "cuda" : staging_.bytes.empty() ? "grpc" : "shm";
  }
  // Where its time goes, from Create on; the transport enters kAdmission.
  CallPhases& phases() { return phases_; }

  // Begins to prepare planes before anybody asks for one; Next does it, too.
  void Start();
  // Gives the next plane. FAILED_PRECONDITION once the session ended. Nothing after Cancel.
  using OnPlane = absl::AnyInvocable<void(absl::StatusOr<PlaneDelivery>)>;
  void Next(OnPlane on_plane);
  // Appends the next planes, `most` of them, as far as they are ready; what else there is to tell
  // is left to Next. Not while a Next waits.
  void TakeReady(size_t most, std::deque<PlaneDelivery>* planes);
  // The client has read so many of the staged planes that it was given, from the first on; their
  // room is used again. INVALID_ARGUMENT for more than it was given.
  absl::Status Consumed(uint64_t planes);

  // No callback comes after it returns, but for one already running.
  void Cancel();

 private:
  // A block held for this call, and where its planes lie.
  struct HeldBlock {
    uint32_t index = 0;  // into the asked-for keys
    std::shared_ptr<const Store::Pin> pin;
    // Not Abseil's: it waits inside its own library, where TSan does not see it.
    std::once_flag opened;
    absl::StatusOr<RecordIndex> record;  // once opened
    std::once_flag rotary_made;          // only for planes that are decoded on the host
    BlockRotary rotary;
    // The layout's index of the plane that was found damaged first: no use in preparing more of the
    // block. Guarded by mu_.
    std::optional<size_t> damaged_plane;
    bool told = false;  // guarded by mu_: the client knows; the rest is skipped
    // With staging on a device: the head that `record` was read from, and the record's pieces.
    Scratch<std::byte> head;
    std::vector<RecordPiece> pieces;
    bool on_device = false;
    bool pinned = false;
    std::span<const std::byte> kept_head;  // by the tier, where the host cannot read the record
    uint32_t stored = 0;                   // which of stored_, if `record` is OK
    // Of the next plane, which lies behind the last one's in one piece. Guarded by mu_.
    std::optional<SlotRing::Piece> kept_place;
  };
  // Bytes of a record where they lie, or a copy when they lie in pieces.
  struct RecordBytes {
    std::span<const std::byte> bytes;
    std::shared_ptr<const void> owner;
  };
  // A plane on its way out: of the window's, from where it is placed until it is handed over.
  // Whoever prepares it has it for himself until it is marked as finished.
  struct Outgoing {
    PlaneDelivery delivery;
    std::optional<SlotRing::Piece> piece;  // where in the staging slot it goes
    bool keeps_piece = false;              // the next plane of the block gives it back
    size_t held = 0;                       // whose plane it is
    size_t plane = 0;                      // which of the layout's
    size_t bytes = 0;                      // that it counts in the window
    bool ready = false;
    bool failed = false;
  };

  GetCall(CallContext& context, std::shared_ptr<Session> session,
          std::shared_ptr<const SpaceContext> space, PlaneForm form, StagingSlot slot)
      : context_(context),
        session_(std::move(session)),
        space_(std::move(space)),
        form_(form),
        staging_(std::move(slot)),
        phases_(context.clock),
        records_(form == PlaneForm::kEncoded && !staging_.bytes.empty() ? Records::kUnopened
                                                                        : Records::kOpened),
        ring_(staging_.bytes.size()) {}

  absl::Status ChoosePlanes(std::span<const uint32_t> layers);
  void Hold(std::span<const BlockKey> keys);
  // Whether planes go out as they are stored in host memory, and are small: such a one is checked
  // when it is asked for, on the caller's thread, whose next step sends it out of that core's
  // cache. On other threads, ahead, its bytes would come out of memory twice.
  bool CanCheckInPlace() const;
  // Reads the record's header, the first time. On executor threads: it may be far away.
  void Open(HeldBlock& block) const;
  void ParseHead(HeldBlock& block, std::span<const std::byte> head) const;
  uint64_t HeadBytes(const HeldBlock& block) const;
  // UNAVAILABLE and the like when the tier could not be read.
  static absl::StatusOr<RecordBytes> BytesAt(const std::shared_ptr<const Store::Pin>& pin,
                                             uint64_t offset, uint64_t size);
  // Puts runners to work, a thread each at most, while there is something to prepare.
  void Prepare();
  void Schedule(Outgoing* plane);
  // One runner: prepares plane after plane as long as the window has room.
  void Run(Outgoing* plane);
  // The next plane, placed in the window; null when that is full or nothing is left. `runner` says
  // who asks: a new one that will begin with it, or one that ends without it.
  enum class Runner { kNew, kRunning };
  Outgoing* NextPlane(Runner runner) ABSL_LOCKS_EXCLUDED(mu_);
  // The plane somebody waits for, to be checked in place; null for calls that prepare ahead.
  Outgoing* NextInPlace() ABSL_LOCKS_EXCLUDED(mu_);
  Outgoing* NextPlaneLocked() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  bool WindowIsFull() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // The next plane, placed at the window's back however full that is; null when nothing is left or
  // the slot lacks room.
  Outgoing* PlaceNext() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // Finds a plane its place in the staging slot, where there is one that could hold it; false when
  // there is no room now.
  bool Place(Outgoing& plane) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  bool PlaceOnHost(Outgoing& plane) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // Encoded planes have their sizes in their records, so these are opened before any is placed.
  // False once they are.
  bool MustOpenFirst() ABSL_LOCKS_EXCLUDED(mu_);
  void OpenAll();
  // What the plane takes in the form that travels; its raw size where that is not known.
  size_t PlacedBytes(const Outgoing& plane) const;
  void DeliverEncoded(Outgoing& plane, RecordBytes encoded);
  std::span<std::byte> StagedBytes(const Outgoing& plane, size_t bytes) const;
  void Produce(Outgoing& plane);
  bool IsUnwanted(const HeldBlock& block) ABSL_LOCKS_EXCLUDED(mu_);
  bool IsUnwantedLocked(const HeldBlock& block) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // The plane's bytes, not checked. DATA_LOSS when they cannot be where the record says, else as
  // BytesAt.
  absl::StatusOr<RecordBytes> Fetch(HeldBlock& block, size_t plane) const;
  // DATA_LOSS when they are damaged.
  absl::Status Check(const HeldBlock& block, size_t plane, const RecordBytes& encoded);
  // Copies the values of a plane that no codec touched to its place in the slot, checking it on the
  // way; what is there of a damaged one is told to nobody. Nullopt when it is none, or has no
  // place.
  std::optional<absl::Status> StageVerbatim(Outgoing& plane, const RecordBytes& encoded);
  void Decode(Outgoing& plane, RecordBytes encoded);
  // Hands the values of a plane that no codec touched on where they are stored; false when it is
  // none, or has a place in the slot.
  bool DeliverVerbatim(Outgoing& plane, const RecordBytes& encoded) const;
  // With an error the block is told as damaged; DATA_LOSS takes it out of the store, too, CANCELLED
  // means that nobody wants it any more.
  void Finish(Outgoing& plane, const absl::Status& status) ABSL_LOCKS_EXCLUDED(mu_);
  // The first part of it; true when the block is to be reported as damaged.
  bool MarkFinished(Outgoing& plane, const absl::Status& status) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // Whether there is something to hand over; passes over what is skipped.
  bool FrontReady() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  bool AtEnd() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // Once each time that the slot is full; not on a device, where nothing is held back for long.
  bool MustTellNoRoom() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void GotRoom() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  PlaneDelivery TakeFront() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  Outgoing PopFront() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // Hands over what comes next if it is there and somebody waits for it.
  void Deliver();
  // The same; false when somebody waits and the window is empty.
  bool HandOver() ABSL_LOCKS_EXCLUDED(mu_);

  // ---- Staging on a device ----
  using Turn = std::vector<Outgoing*>;
  void PrepareTurns();
  void RunTurn();
  // Finds every record's pieces and reads its head, once; back when all are known.
  void LocateAll();
  // The next few of them; false when none is left.
  bool LocateSome();
  void Locate(HeldBlock& block) const;
  void ReadHead(HeldBlock& block) const;
  // The host cannot read it, and nobody kept it.
  static bool LacksHead(const HeldBlock& block) {
    return block.on_device && block.kept_head.empty();
  }
  void ListStored();
  void FetchHeads();
  // The next planes there is room for, placed in the window; empty when a runner is not needed.
  Turn NextTurn() ABSL_LOCKS_EXCLUDED(turn_mu_, mu_);
  // Some of them, of which there are `bytes` by now; false when the turn is complete.
  bool AddToTurn(size_t* bytes, Turn* turn) ABSL_LOCKS_EXCLUDED(mu_);
  bool PlaceOnDevice(Outgoing& plane) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  bool PlaceEncoded(Outgoing& plane) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  bool PairsFit(size_t plane) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // Its room is used again, unless the next plane has a part of it.
  void GiveBack(const Outgoing& plane) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void ReadTurn(const Turn& turn);
  void FinishTurn(std::span<Outgoing* const> staged, std::span<const DeviceReads::Plane> planes,
                  const absl::Status& read) ABSL_LOCKS_EXCLUDED(mu_);

  CallContext& context_;
  const std::shared_ptr<Session> session_;
  const std::shared_ptr<const SpaceContext> space_;
  const PlaneForm form_;
  const StagingSlot staging_;  // empty: none
  bool checks_in_place_ = false;
  std::vector<size_t> planes_;  // indices into the layout, those asked for
  std::vector<GetAnswer> answers_;
  std::vector<std::unique_ptr<HeldBlock>> held_;
  CallPhases phases_;
  // With staging on a device: how many of held_.
  std::atomic<size_t> next_to_locate_{0}, located_{0};
  std::once_flag all_stored_;
  std::vector<StoredRecord> stored_;  // intact ones of held_, once all are located

  absl::Mutex turn_mu_;  // held while a turn is made, so that turns do not mix

  absl::Mutex mu_ ABSL_ACQUIRED_AFTER(turn_mu_);
  // The next plane to prepare.
  size_t next_plane_ ABSL_GUARDED_BY(mu_) = 0;
  size_t next_block_ ABSL_GUARDED_BY(mu_) = 0;
  size_t runners_ ABSL_GUARDED_BY(mu_) = 0;
  bool pairs_planes_ ABSL_GUARDED_BY(mu_) = false;  // the plane at hand and the next share pieces
  bool lacks_room_ ABSL_GUARDED_BY(mu_) = false;    // of the slot, for the next plane
  bool told_no_room_ ABSL_GUARDED_BY(mu_) = false;
  enum class Records { kUnopened, kOpening, kOpened } records_ ABSL_GUARDED_BY(mu_);
  std::deque<Outgoing> window_ ABSL_GUARDED_BY(mu_);  // its ends move, what is in it does not
  size_t window_bytes_ ABSL_GUARDED_BY(mu_) = 0;
  SlotRing ring_ ABSL_GUARDED_BY(mu_);  // of staging_
  // Tickets of what the client was given; none of planes that give nothing back.
  std::deque<std::optional<uint64_t>> unread_ ABSL_GUARDED_BY(mu_);
  uint64_t consumed_ ABSL_GUARDED_BY(mu_) = 0;  // staged planes
  bool cancelled_ ABSL_GUARDED_BY(mu_) = false;
  OnPlane waiting_ ABSL_GUARDED_BY(mu_);
};

}  // namespace kvstow
