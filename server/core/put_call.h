// One Put, free of any transport: announced blocks, their planes as they arrive, the commit.
//
// Planes arrive layer by layer across the call's blocks (proto: Segment), are copied out of the
// transport's memory, and encoded as soon as each is whole; those that the client encoded are
// checked instead (client_plane.h). Blocks that no codec touches are written to their place in the
// tier at once, where the host can (codec/verbatim_record.h). Nothing is visible before the commit;
// a call that goes away leaves nothing behind.
//
// Thread safety: the transport calls Add and Commit from one thread at a time, Cancel from any.
// Callbacks come on executor threads.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/functional/any_invocable.h"
#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "codec/placed_record.h"
#include "codec/record.h"
#include "codec/report.h"
#include "codec/verbatim_record.h"
#include "server/core/call_context.h"
#include "server/core/call_phases.h"
#include "server/core/client_plane.h"
#include "server/core/plane_segment.h"
#include "server/core/sessions.h"
#include "server/core/space_context.h"
#include "staging/slot_ring.h"

namespace kvstow {

struct PutAnswer {
  Store::ReserveAnswer::Kind kind = Store::ReserveAnswer::Kind::kDeclined;
  Refusal refusal = Refusal::kNoParent;
};

struct PutResult {
  bool stored = false;
  Refusal refusal = Refusal::kNoParent;  // when it was wanted and not stored
  uint64_t record_bytes = 0;
  QualityReport k, v;
};

struct PutResults {
  std::vector<PutResult> blocks;  // one an announced block
  QualityReport k, v;             // pooled over the stored ones
  LeaseId lease = kNoLease;
};

// How the planes of a Put come.
struct PutForm {
  PlaneForm form = PlaneForm::kDecoded;
  // Of encoded ones: chooses the tiles that are decoded; the client must not know it.
  uint64_t sample_seed = 0;
};

class PutCall : public std::enable_shared_from_this<PutCall> {
 public:
  // Reserves and answers. INVALID_ARGUMENT as Store::Reserve, and for too many blocks.
  static absl::StatusOr<std::shared_ptr<PutCall>> Create(CallContext& context,
                                                         std::shared_ptr<Session> session,
                                                         std::shared_ptr<const SpaceContext> space,
                                                         std::vector<BlockIntent> intents,
                                                         absl::Duration ttl, StagingSlot slot,
                                                         PutForm form);
  ~PutCall();

  const std::vector<PutAnswer>& answers() const { return answers_; }
  // The data path, as metrics name it.
  const char* path() const {
    return slot_.on_device() ? "cuda" : slot_.bytes.empty() ? "grpc" : "shm";
  }

  // Whether planes of a slot are copied as they are added: megabytes, not for a thread that others
  // need.
  bool copies() const { return !slot_.on_device(); }

  // Takes the next bytes, `data` cut in any pieces. INVALID_ARGUMENT for bytes out of order, past
  // the end of a plane or of the call, of the wrong plane, or of an encoded plane that cannot be
  // what it says; FAILED_PRECONDITION once the session ended. An earlier plane that failed gives
  // its own status. The call is over then.
  absl::Status Add(std::span<const PlaneSegment> segments,
                   std::span<const std::span<const std::byte>> data);
  // The same for bytes that lie in the call's staging slot.
  absl::Status AddStaged(std::span<const PlaneSegment> segments);
  // How many of those segments have been read, from the first on: told each time there are more, on
  // any thread. Set before the first of them comes.
  using Consumed = std::function<void(uint64_t segments)>;
  void SetOnConsumed(Consumed on_consumed) { on_consumed_ = std::move(on_consumed); }
  // Whether a part of a plane has arrived, and the rest has not. By whoever adds planes.
  bool is_amid_plane() const { return next_offset_ > 0; }
  // True once every plane of every wanted block has arrived.
  bool complete() const { return next_block_ >= wanted_.size() || next_plane_ >= plane_count(); }

  // Stores what was received, when its encoding is done. `done` is called exactly once, unless
  // Cancel comes first. INVALID_ARGUMENT, at once, when planes are missing.
  using Done = absl::AnyInvocable<void(absl::StatusOr<PutResults>)>;
  absl::Status Commit(Done done);

  // Gives everything back; work under way finishes unseen.
  void Cancel();

  // Bytes received, in the form that travelled.
  uint64_t received_bytes() const { return received_bytes_.load(std::memory_order_relaxed); }
  // Where its time goes, from Create on; the transport enters kAdmission.
  CallPhases& phases() { return phases_; }

 private:
  // A wanted block on its way to a record.
  struct WantedBlock {
    uint32_t index = 0;                 // into intents
    std::optional<BlockRotary> rotary;  // made for the first plane that is coded on the host
    std::unique_ptr<PlacedRecord> record;
    bool asked_for_room = false;  // guarded by mu_
    // Instead: the record is written in place. The transport's thread only, until the commit.
    std::unique_ptr<VerbatimRecordWriter> in_place;
  };
  // One plane being received, then encoded or checked.
  struct PlaneWork;
  // One in a slot on a device.
  struct StagedPlane {
    uint64_t number = 0;  // of its segment
    size_t plane = 0;
    size_t block = 0;  // into wanted_
    size_t staged_at = 0;
  };

  PutCall(CallContext& context, std::shared_ptr<Session> session,
          std::shared_ptr<const SpaceContext> space, absl::Duration ttl, StagingSlot slot,
          PutForm form)
      : context_(context),
        session_(std::move(session)),
        space_(std::move(space)),
        ttl_(ttl),
        slot_(std::move(slot)),
        form_(form),
        phases_(context.clock) {}

  size_t plane_count() const { return space_->layout().planes().size(); }
  const PlaneSpec& plane(size_t i) const { return space_->layout().planes()[i]; }
  absl::Status Admit(std::vector<BlockIntent> intents);
  const CodecSettings& settings() const { return space_->layout().spec().codec; }
  bool is_encoded() const { return form_.form == PlaneForm::kEncoded; }
  absl::Status CheckSegment(const PlaneSegment& segment) const;
  absl::Status CheckSize(const PlaneSegment& segment) const;
  absl::Status CheckGoesOn() const ABSL_LOCKS_EXCLUDED(mu_);
  absl::Status CheckInSlot(const PlaneSegment& segment) const;
  using Source = VerbatimRecordWriter::Source;
  // As Add, of what lies in memory of the daemon's own or of the slot.
  absl::Status AddFrom(Source source, std::span<const PlaneSegment> segments,
                       std::span<const std::span<const std::byte>> data);
  absl::Status CopyInto(const PlaneSegment& segment, Source source,
                        std::span<const std::span<const std::byte>>& data, size_t& skip);
  // Has the wanted block that is next written in place, if it can be.
  void PlaceRecord(WantedBlock& block) ABSL_LOCKS_EXCLUDED(mu_);
  // CANCELLED when its room has been given back.
  absl::Status CopyInPlace(VerbatimRecordWriter& record, const PlaneSegment& segment, Source source,
                           std::span<const std::span<const std::byte>>& data, size_t& skip)
      ABSL_LOCKS_EXCLUDED(in_place_mu_);
  void GoToNextPlane();
  std::shared_ptr<PlaneWork> BeginPlane(const PlaneSegment& segment);
  void StartEncoding(std::shared_ptr<PlaneWork> work);
  void StartChecking(std::shared_ptr<PlaneWork> work);
  absl::Status CheckEncoded(PlaneWork& work);
  // Counts the fault and says where it is.
  absl::Status Refuse(size_t plane, size_t block, const PlaneFinding& finding) const;
  void OnEncoded(std::shared_ptr<PlaneWork> work, const absl::Status& status)
      ABSL_LOCKS_EXCLUDED(mu_);
  // Sets a plane of a block's record, unless nobody wants it any more.
  void SetPlane(size_t block, absl::FunctionRef<void(PlacedRecord&)> set)
      ABSL_LOCKS_EXCLUDED(in_place_mu_, mu_);
  void OnPlanesDone(size_t planes) ABSL_LOCKS_EXCLUDED(mu_);
  // put_commit.cc
  struct Committing;
  void Store();
  void StoreSome(const std::shared_ptr<Committing>& commit);
  void FinishStore(Committing& commit);
  void GiveStaged();
  PutResult StoreBlock(WantedBlock& block, kvstow::Store::Reservation reservation);
  // `Record` is PlacedRecord or VerbatimRecordWriter.
  template <typename Record>
  PutResult StoreRecord(Record& record, kvstow::Store::Reservation reservation);
  // device_put.cc
  absl::Status CheckStagedOnDevice(std::span<const PlaneSegment> segments);
  absl::Status AddOnDevice(std::span<const PlaneSegment> segments);
  void PrepareTurns() ABSL_LOCKS_EXCLUDED(mu_);
  void RunTurn() ABSL_LOCKS_EXCLUDED(mu_);
  class Turn;
  void NextBatch(Turn* turn) ABSL_LOCKS_EXCLUDED(mu_);
  // Counts in `taken` how many planes the slot need not hold any more.
  absl::Status EncodeTurn(Turn* turn, size_t* taken) ABSL_LOCKS_EXCLUDED(mu_);
  void NoteTaken(const Turn& turn, size_t first, size_t count) ABSL_LOCKS_EXCLUDED(mu_);
  void Keep(const StagedPlane& staged, const DeviceWrites::Plane& plane) ABSL_LOCKS_EXCLUDED(mu_);

  CallContext& context_;
  const std::shared_ptr<Session> session_;
  const std::shared_ptr<const SpaceContext> space_;
  const absl::Duration ttl_;
  const StagingSlot slot_;  // empty: none
  const PutForm form_;
  CallPhases phases_;
  std::vector<BlockIntent> intents_;
  std::vector<PutAnswer> answers_;
  std::vector<WantedBlock> wanted_;
  uint64_t in_place_bytes_ = 0;  // of a record that is written in place; 0: none is

  // Where the next byte belongs; the transport's thread only.
  size_t next_plane_ = 0;
  size_t next_block_ = 0;  // into wanted_
  size_t next_offset_ = 0;
  std::shared_ptr<PlaneWork> filling_;
  uint64_t planes_received_ = 0;
  std::atomic<uint64_t> received_bytes_{0};
  uint64_t staged_bytes_ = 0;          // given back before the results are told
  std::atomic<bool> unwanted_{false};  // what is still to be encoded or checked

  // Held, shared, while a record is written in place: its room is not given back meanwhile. Before
  // mu_.
  absl::Mutex in_place_mu_ ABSL_ACQUIRED_BEFORE(mu_);
  mutable absl::Mutex mu_;
  size_t encoding_ ABSL_GUARDED_BY(mu_) = 0;  // planes scheduled and not done
  bool cancelled_ ABSL_GUARDED_BY(mu_) = false;
  // One a wanted block; given back at once when the call is cancelled, so that who tries again is
  // not told that the block is pending. Not while in_place_mu_ is held by others.
  std::vector<kvstow::Store::Reservation> reservations_ ABSL_GUARDED_BY(mu_);
  bool committing_ ABSL_GUARDED_BY(mu_) = false;
  absl::Status failure_ ABSL_GUARDED_BY(mu_);
  Done done_ ABSL_GUARDED_BY(mu_);

  Consumed on_consumed_;
  // Of a slot on a device.
  std::deque<StagedPlane> waiting_ ABSL_GUARDED_BY(mu_);  // for a turn
  size_t waiting_bytes_ ABSL_GUARDED_BY(mu_) = 0;
  size_t turns_ ABSL_GUARDED_BY(mu_) = 0;         // scheduled or running
  size_t turns_coming_ ABSL_GUARDED_BY(mu_) = 0;  // of them those that do not run yet
  size_t unread_bytes_ ABSL_GUARDED_BY(mu_) = 0;
  uint64_t segments_staged_ = 0;  // the transport's thread only
  uint64_t room_untold_ = 0;      // that segments took since the client was told last; the same
  uint64_t segments_read_ ABSL_GUARDED_BY(mu_) = 0;  // from the first on, without a gap
  std::deque<bool> read_ ABSL_GUARDED_BY(mu_);       // of those behind them
};

}  // namespace kvstow
