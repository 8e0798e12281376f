// Puts a Get call together: takes what the daemon sends in the order it comes, holds it against
// what the wire contract promises and writes planes to the caller's memory. Trusts nothing: a lie
// ends the call with INTERNAL, and no byte is ever written outside a destination. Planes that come
// encoded are checked and decoded on the way (decode_line.h). Planes in device memory are handed on
// to whoever copies them there (device_landing.h).
//
// Not thread-safe; callbacks run on the calling thread. When it is gone nothing is written any
// more.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
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
#include "client/kvstow/device_kv.h"
#include "kvstow/v1/kvstow.pb.h"
#include "space/plane_layout.h"

namespace kvstow::client {

class GetAssembly {
 public:
  // Reads the next `length` bytes of the chunk to `to`, or past them when `to` is null; false when
  // there are fewer.
  using Read = absl::FunctionRef<bool(std::byte* to, size_t length)>;

  // A place in the order of planes: planes before this one, and of this one those of the found
  // blocks before `slot`.
  struct Place {
    size_t plane = 0;
    size_t slot = 0;
  };
  // Takes planes that lie in device memory.
  using Land = std::function<void(const ArrivedPlane& plane)>;
  // Takes one in host memory that is gone when it returns.
  using LandFromHost = std::function<absl::Status(const PlaneSpec& plane, size_t block,
                                                  std::span<const std::byte> values)>;

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
  // Of a request with a device: `from_host` takes its planes, and they have been written only when
  // Landed says so. Before the answers, as the next.
  void LandWith(LandFromHost from_host) { from_host_ = std::move(from_host); }
  // And segments that lie in place are whole planes in device memory, in this form: `land` takes
  // those.
  void LandInPlaceWith(Land land, bool encoded);
  // Up to here planes were handed on, or passed over.
  Place handed_on() const;
  void Landed(const Place& place);
  // One of those was found damaged. INTERNAL when it is none that was asked for.
  absl::Status OnLandedDamage(size_t block, const PlaneSpec& plane);

  // One segment, whose bytes are next in `read`, and lie at `in_place` if that is not null.
  absl::Status OnSegment(const v1::Segment& segment, Read read,
                         const std::byte* in_place = nullptr);
  // The daemon says that it sent everything.
  absl::Status OnEnd();

  // What an encoded plane takes at most: its table, padding, at worst the values as they are.
  static size_t MostEncodedBytes(const PlaneSpec& plane) {
    return plane.raw_bytes + plane.heads * size_t{64} + 64;
  }

  // How many blocks of the prefix are complete by now.
  size_t usable() const;
  bool answered() const { return answered_; }
  size_t layers_reported() const { return layers_reported_; }
  // The daemon has none of the blocks, and ends the call by itself.
  bool found_nothing() const { return answered_ && found_.empty(); }
  // Nothing that may still come can make a block usable.
  bool hopeless() const { return answered_ && bound_ == 0; }
  // OK, or DATA_LOSS when the daemon found damage, or the coder did.
  const absl::Status& damage() const { return damage_; }
  // Whether what is read goes where the caller wants it, and not to be looked at here first.
  bool writes_destinations() const { return !takes() && line_ == nullptr; }
  uint64_t received_bytes() const { return received_bytes_; }
  // Time the caller's callbacks took.
  absl::Duration callback_time() const { return callback_time_; }

 private:
  static constexpr absl::Duration kForever = Deadline::kLongest;

  GetAssembly(const PlaneLayout& layout, const GetBlocksRequest& request, size_t blocks,
              const Deadline& deadline)
      : layout_(layout),
        request_(request),
        blocks_(blocks),
        deadline_(deadline),
        damaged_(blocks, false) {}

  bool at_end() const { return received_.plane == planes_.size(); }
  bool encoded() const { return line_ != nullptr || land_encoded_; }
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
  bool AwaitDecoded();
  absl::Status OnDecoded(const DecodeLine::Plane& decoded);
  void NoteDamage(size_t block, absl::Status damage);
  absl::Status AskDestination(const PlaneSpec& plane, size_t block);
  // Who takes planes itself, instead of naming a destination.
  bool takes() const { return request_.take || request_.device; }
  bool lands() const { return from_host_ != nullptr; }
  absl::Status Take(const PlaneSpec& plane, size_t block, const std::byte* bytes);
  absl::Status LandPlane(const v1::Segment& segment, const std::byte* in_place);
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

  // The plane being received: planes_[plane] of block found_[slot], `offset_` bytes of it.
  Place received_;
  size_t offset_ = 0;
  size_t plane_bytes_ = 0;            // as it travels
  std::span<std::byte> destination_;  // empty: skip
  std::vector<std::byte> scratch_;    // for `take`, where planes come in pieces

  // Where planes are handed on, to be written later.
  LandFromHost from_host_;
  Land land_;  // of those that lie in device memory
  bool land_encoded_ = false;
  Place landed_;
  std::vector<uint64_t> first_positions_;  // by block

  // Where planes come encoded, to be decoded on the host.
  std::unique_ptr<DecodeLine> line_;
  std::vector<std::shared_ptr<const SpaceCoder::Positions>> positions_;  // by block, once needed
  std::unique_ptr<DecodeLine::Plane> arriving_;                          // null: skip

  size_t layers_reported_ = 0;
  uint64_t received_bytes_ = 0;
  absl::Duration callback_time_;
};

}  // namespace kvstow::client
