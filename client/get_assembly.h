// Puts a Get call together: takes what the daemon sends in the order it comes, holds it against
// what the wire contract promises and writes planes to the caller's memory. Trusts nothing: a lie
// ends the call with INTERNAL, and no byte is ever written outside a destination.
//
// Not thread-safe; callbacks run on the calling thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "client/kvstow/client.h"
#include "kvstow/v1/kvstow.pb.h"
#include "space/plane_layout.h"

namespace kvstow::client {

class GetAssembly {
 public:
  // Reads the next `length` bytes of the chunk to `to`, or past them when `to` is null; false when
  // there are fewer.
  using Read = absl::FunctionRef<bool(std::byte* to, size_t length)>;

  // How far it has come: planes before this one are there, and of this one those of the found
  // blocks before `slot`.
  struct Position {
    size_t plane = 0;
    size_t slot = 0;
  };
  // Takes planes that lie in device memory, to where they are to go.
  using Land = std::function<void(const PlaneSpec& plane, size_t block, const std::byte* bytes)>;

  // Both outlive the assembly. INVALID_ARGUMENT when the request names layers that the shard does
  // not have, or not in ascending order, or has no destination.
  static absl::StatusOr<GetAssembly> Create(const PlaneLayout& layout,
                                            const GetBlocksRequest& request, size_t blocks);

  // Of these INTERNAL says that the daemon broke the contract, INVALID_ARGUMENT that the caller's
  // destination has the wrong size. After an error the assembly only answers usable().
  absl::Status OnAnswers(const v1::GetResponse::Answers& answers);
  absl::Status OnDamage(const v1::GetResponse::Damage& damage);
  // Segments that lie in place are in device memory: `land` takes them, and they are there only
  // when Landed says so. Before the first segment.
  void LandWith(Land land) { land_ = std::move(land); }
  Position received() const { return received_; }
  void Landed(const Position& position);

  // One segment, whose bytes are next in `read`, and lie at `in_place` if that is not null.
  absl::Status OnSegment(const v1::Segment& segment, Read read,
                         const std::byte* in_place = nullptr);
  // The daemon says that it sent everything.
  absl::Status OnEnd();

  // How many blocks of the prefix are complete by now.
  size_t usable() const;
  bool answered() const { return answered_; }
  // The daemon has none of the blocks, and ends the call by itself.
  bool found_nothing() const { return answered_ && found_.empty(); }
  // Nothing that may still come can make a block usable.
  bool hopeless() const { return answered_ && bound_ == 0; }
  // OK, or DATA_LOSS when the daemon found damage.
  const absl::Status& damage() const { return damage_; }
  uint64_t received_bytes() const { return received_bytes_; }
  // Time the caller's callbacks took.
  absl::Duration callback_time() const { return callback_time_; }

 private:
  GetAssembly(const GetBlocksRequest& request, size_t blocks)
      : request_(request), blocks_(blocks), damaged_(blocks, false) {}

  bool at_end() const { return received_.plane == planes_.size(); }
  const Position& there() const { return land_ ? landed_ : received_; }
  void NextPlane();
  void SkipDamaged();
  absl::Status Begin(const v1::Segment& segment);
  absl::Status CheckSegment(const v1::Segment& segment) const;
  absl::Status AskDestination(const PlaneSpec& plane, size_t block);
  // Who takes planes itself, instead of naming a destination.
  bool takes() const { return request_.take || request_.device; }
  absl::Status Take(const PlaneSpec& plane, size_t block, const std::byte* bytes, bool in_place);
  void ReportLayers();

  const GetBlocksRequest& request_;
  const size_t blocks_;
  std::vector<const PlaneSpec*> planes_;  // asked for, in the order of the wire
  std::vector<size_t> layer_end_;         // planes_ of the i-th layer end before layer_end_[i]

  bool answered_ = false;
  std::vector<uint32_t> found_;  // blocks that the daemon has
  std::vector<bool> damaged_;
  size_t bound_ = 0;  // blocks [0, bound_) are found and without known damage
  absl::Status damage_;

  // The plane being received: planes_[plane] of block found_[slot], `offset_` bytes of it.
  Position received_;
  size_t offset_ = 0;
  Land land_;
  Position landed_;                   // with land_
  std::span<std::byte> destination_;  // empty: skip
  std::vector<std::byte> scratch_;    // for `take`, where planes come in pieces

  size_t layers_reported_ = 0;
  uint64_t received_bytes_ = 0;
  absl::Duration callback_time_;
};

}  // namespace kvstow::client
