// Puts a Get call together: takes what the daemon sends in the order it comes, holds it against
// what the wire contract promises and writes planes to the caller's memory. Trusts nothing: a lie
// ends the call with INTERNAL, and no byte is ever written outside a destination. Planes that come
// encoded are checked and decoded on the way (decode_line.h).
//
// Not thread-safe; callbacks run on the calling thread. When it is gone nothing is written any
// more.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "client/deadline.h"
#include "client/decode_line.h"
#include "client/kvstow/client.h"
#include "client/kvstow/coding.h"
#include "kvstow/v1/kvstow.pb.h"
#include "space/plane_layout.h"

namespace kvstow::client {

class GetAssembly {
 public:
  // Reads the next `length` bytes of the chunk to `to`, or past them when `to` is null; false when
  // there are fewer.
  using Read = absl::FunctionRef<bool(std::byte* to, size_t length)>;

  // All outlive the assembly. With a `coder` planes come encoded, and are waited for until the
  // deadline. INVALID_ARGUMENT when the request names layers that the shard does
  // not have, or not in ascending order, or has no destination.
  static absl::StatusOr<GetAssembly> Create(const PlaneLayout& layout,
                                            const GetBlocksRequest& request, size_t blocks,
                                            SpaceCoder* coder = nullptr,
                                            const Deadline& deadline = Deadline::In(kForever));

  // Of these INTERNAL says that the daemon broke the contract, INVALID_ARGUMENT that the caller's
  // destination has the wrong size. After an error the assembly only answers usable().
  absl::Status OnAnswers(const v1::GetResponse::Answers& answers);
  absl::Status OnDamage(const v1::GetResponse::Damage& damage);
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
  // OK, or DATA_LOSS when the daemon found damage, or the coder did.
  const absl::Status& damage() const { return damage_; }
  uint64_t received_bytes() const { return received_bytes_; }
  // Time the caller's callbacks took.
  absl::Duration callback_time() const { return callback_time_; }

 private:
  static constexpr absl::Duration kForever = Deadline::kLongest;

  // A place in the order of planes: planes_[plane] of block found_[slot].
  struct Place {
    size_t plane = 0;
    size_t slot = 0;
  };

  GetAssembly(const PlaneLayout& layout, const GetBlocksRequest& request, size_t blocks,
              const Deadline& deadline)
      : layout_(layout),
        request_(request),
        blocks_(blocks),
        deadline_(deadline),
        damaged_(blocks, false) {}

  bool at_end() const { return plane_ == planes_.size(); }
  // Up to here planes have been written, or passed over.
  Place written() const;
  void NextPlane();
  void SkipDamaged();
  absl::Status Begin(const v1::Segment& segment);
  absl::Status CheckSegment(const v1::Segment& segment) const;
  absl::Status CheckPlaneBytes(const v1::Segment& segment) const;
  absl::Status BeginEncoded(const v1::Segment& segment);
  // Takes planes that were decoded; waits for those beyond what may be under way, or for all.
  enum class Wait { kForRoom, kForAll };
  absl::Status TakeDecoded(Wait wait);
  void OnDecoded(const DecodeLine::Plane& decoded);
  void NoteDamage(size_t block, absl::Status damage);
  absl::Status AskDestination(const PlaneSpec& plane, size_t block);
  void Take(const PlaneSpec& plane, size_t block, const std::byte* bytes);
  void ReportLayers();

  const PlaneLayout& layout_;
  const GetBlocksRequest& request_;
  const size_t blocks_;
  const Deadline deadline_;
  std::vector<const PlaneSpec*> planes_;  // asked for, in the order of the wire
  std::vector<size_t> layer_end_;         // planes_ of the i-th layer end before layer_end_[i]

  bool answered_ = false;
  std::vector<uint32_t> found_;  // blocks that the daemon has
  std::vector<bool> damaged_;
  size_t bound_ = 0;  // blocks [0, bound_) are found and without known damage
  absl::Status damage_;

  // The plane being received: planes_[plane_] of block found_[slot_], `offset_` bytes of it.
  size_t plane_ = 0;
  size_t slot_ = 0;
  size_t offset_ = 0;
  size_t plane_bytes_ = 0;            // as it travels
  std::span<std::byte> destination_;  // empty: skip
  std::vector<std::byte> scratch_;    // for `take`, where planes come in pieces

  // Where planes come encoded.
  std::unique_ptr<DecodeLine> line_;
  std::vector<uint64_t> first_positions_;                                // by block
  std::vector<std::shared_ptr<const SpaceCoder::Positions>> positions_;  // by block, once needed
  std::unique_ptr<DecodeLine::Plane> arriving_;                          // null: skip

  size_t layers_reported_ = 0;
  uint64_t received_bytes_ = 0;
  absl::Duration callback_time_;
};

}  // namespace kvstow::client
