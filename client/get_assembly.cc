#include "client/get_assembly.h"

#include <algorithm>
#include <functional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "client/stopwatch.h"

namespace kvstow::client {
namespace {

absl::Status Broken(absl::string_view what) {
  return absl::InternalError(absl::StrCat("the daemon broke the protocol of Get: ", what));
}

std::string Describe(const v1::Segment& s) {
  return absl::StrCat("layer ", s.layer(), " kind ", static_cast<int>(s.kind()), " block ",
                      s.block(), " offset ", s.offset(), " length ", s.length());
}

bool Names(const v1::Segment& segment, const PlaneSpec& plane, uint32_t block) {
  return segment.layer() == plane.layer &&
         static_cast<int>(segment.kind()) == static_cast<int>(plane.kind) &&
         segment.block() == block;
}

absl::Status CheckLayers(const std::vector<uint32_t>& asked, const std::vector<uint32_t>& have) {
  if (!std::is_sorted(asked.begin(), asked.end(), std::less_equal<>())) {
    return absl::InvalidArgumentError("layers must ascend without duplicates");
  }
  for (uint32_t layer : asked) {
    if (!std::binary_search(have.begin(), have.end(), layer)) {
      return absl::InvalidArgumentError(absl::StrCat("layer ", layer, " is not in this shard"));
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<GetAssembly> GetAssembly::Create(const PlaneLayout& layout,
                                                const GetBlocksRequest& request, size_t blocks,
                                                SpaceCoder* coder, const Deadline& deadline) {
  const int targets =
      (request.destination ? 1 : 0) + (request.take ? 1 : 0) + (request.device != nullptr ? 1 : 0);
  if (targets != 1) {
    return absl::InvalidArgumentError(
        "GetBlocks needs a destination, a take or a device, one of them");
  }
  if (absl::Status s = CheckLayers(request.layers, layout.layers()); !s.ok()) return s;
  GetAssembly assembly(layout, request, blocks, deadline);
  if (coder != nullptr) assembly.line_ = std::make_unique<DecodeLine>(coder);
  for (size_t i = 0; i < layout.layers().size(); ++i) {
    const bool wanted =
        request.layers.empty() ||
        std::binary_search(request.layers.begin(), request.layers.end(), layout.layers()[i]);
    if (!wanted) continue;
    for (size_t p = layout.first_plane(i); p < layout.first_plane(i + 1); ++p) {
      assembly.planes_.push_back(&layout.planes()[p]);
    }
    assembly.layer_end_.push_back(assembly.planes_.size());
  }
  return assembly;
}

absl::Status GetAssembly::OnAnswers(const v1::GetResponse::Answers& answers) {
  if (answered_) return Broken("it answered twice");
  if (static_cast<size_t>(answers.answers_size()) != blocks_) {
    return Broken(absl::StrCat(answers.answers_size(), " answers to ", blocks_, " keys"));
  }
  answered_ = true;
  first_positions_.resize(blocks_);
  positions_.resize(blocks_);
  for (size_t b = 0; b < blocks_; ++b) {
    if (!answers.answers(b).found()) continue;
    if (bound_ == b) ++bound_;
    first_positions_[b] = answers.answers(b).first_position();
    found_.push_back(b);
  }
  if (found_.empty()) received_.plane = planes_.size();
  return absl::OkStatus();
}

absl::Status GetAssembly::OnDamage(const v1::GetResponse::Damage& damage) {
  if (!answered_) return Broken("damage before the answers");
  if (!std::binary_search(found_.begin(), found_.end(), damage.block())) {
    return Broken(absl::StrCat("damage in block ", damage.block(), ", which it does not have"));
  }
  NoteDamage(damage.block(),
             absl::DataLossError(absl::StrCat("block ", damage.block(), " was damaged in layer ",
                                              damage.layer(), "; the daemon dropped it")));
  ReportLayers();
  return absl::OkStatus();
}

void GetAssembly::NoteDamage(size_t block, absl::Status damage) {
  damaged_[block] = true;
  bound_ = std::min(bound_, block);
  if (damage_.ok()) damage_ = std::move(damage);
}

GetAssembly::Place GetAssembly::handed_on() const {
  if (line_ != nullptr && !line_->empty()) return {line_->front().index, line_->front().slot};
  return received_;
}

GetAssembly::Place GetAssembly::written() const { return lands() ? landed_ : handed_on(); }

void GetAssembly::LandInPlaceWith(Land land, bool encoded) {
  land_ = std::move(land);
  land_encoded_ = encoded;
}

void GetAssembly::Landed(const Place& place) {
  landed_ = place;
  ReportLayers();
}

absl::Status GetAssembly::OnLandedDamage(size_t block, const PlaneSpec& plane) {
  if (!std::binary_search(found_.begin(), found_.end(), block)) {
    return absl::InternalError(
        absl::StrCat("the DeviceKv found damage in block ", block, ", which was not given to it"));
  }
  NoteDamage(block, absl::DataLossError(
                        absl::StrCat("block ", block, " arrived damaged in layer ", plane.layer)));
  return absl::OkStatus();
}

void GetAssembly::NextPlane() {
  offset_ = 0;
  if (++received_.slot == found_.size()) {
    received_.slot = 0;
    ++received_.plane;
  }
}

// The planes of a damaged block may be missing from then on, even in the middle of one.
void GetAssembly::SkipDamaged() {
  while (!at_end() && damaged_[found_[received_.slot]]) NextPlane();
}

absl::Status GetAssembly::CheckSegment(const v1::Segment& segment) const {
  const PlaneSpec& plane = *planes_[received_.plane];
  if (!Names(segment, plane, found_[received_.slot]) || segment.offset() != offset_) {
    return Broken(absl::StrCat("out of order: ", Describe(segment)));
  }
  if (absl::Status s = CheckPlaneBytes(segment); !s.ok()) return s;
  if (segment.length() == 0 || segment.length() > segment.plane_bytes() - offset_) {
    return Broken(absl::StrCat("beyond the plane: ", Describe(segment)));
  }
  return absl::OkStatus();
}

absl::Status GetAssembly::CheckPlaneBytes(const v1::Segment& segment) const {
  const PlaneSpec& plane = *planes_[received_.plane];
  if (segment.has_declared() != (encoded() && offset_ == 0)) {
    return Broken(absl::StrCat(
        encoded() ? "an encoded plane without its checksum: " : "encoded, and not asked for so: ",
        Describe(segment)));
  }
  size_t least = plane.raw_bytes, most = plane.raw_bytes;
  if (land_encoded_) {
    least = 1;
    most = MostEncodedBytes(plane);
  } else if (encoded() && offset_ == 0) {
    least = 1;
    most = line_->coder().MaxEncodedBytes(static_cast<size_t>(&plane - layout_.planes().data()));
  } else if (encoded()) {
    least = most = plane_bytes_;
  }
  if (segment.plane_bytes() >= least && segment.plane_bytes() <= most) return absl::OkStatus();
  return Broken(absl::StrCat("a plane of ", segment.plane_bytes(), " bytes instead of ", most, ": ",
                             Describe(segment)));
}

absl::Status GetAssembly::Begin(const v1::Segment& segment) {
  while (!at_end() && damaged_[found_[received_.slot]] &&
         (offset_ != 0 || !Names(segment, *planes_[received_.plane], found_[received_.slot]))) {
    NextPlane();
  }
  if (at_end()) return Broken(absl::StrCat("more than was asked for: ", Describe(segment)));
  if (absl::Status s = CheckSegment(segment); !s.ok()) return s;
  destination_ = {};
  arriving_ = nullptr;
  plane_bytes_ = segment.plane_bytes();
  // Blocks behind a gap cannot be used; their bytes go nowhere.
  if (segment.block() >= bound_) return absl::OkStatus();
  return line_ != nullptr ? BeginEncoded(segment)
                          : AskDestination(*planes_[received_.plane], segment.block());
}

absl::Status GetAssembly::BeginEncoded(const v1::Segment& segment) {
  const PlaneSpec& plane = *planes_[received_.plane];
  const size_t block = segment.block();
  auto arriving = std::make_unique<DecodeLine::Plane>();
  SpaceCoder::DecodeJob& job = arriving->job;
  if (takes()) {
    arriving->scratch = std::make_unique_for_overwrite<std::byte[]>(plane.raw_bytes);
    job.values = {arriving->scratch.get(), plane.raw_bytes};
  } else {
    absl::Status asked = AskDestination(plane, block);
    if (destination_.empty()) return asked;
    job.values = destination_;
  }
  if (positions_[block] == nullptr) {
    positions_[block] = line_->coder().At(first_positions_[block]);
  }
  arriving->index = received_.plane;
  arriving->slot = received_.slot;
  arriving->bytes = std::make_unique_for_overwrite<std::byte[]>(segment.plane_bytes());
  job.bytes = {arriving->bytes.get(), segment.plane_bytes()};
  job.plane = static_cast<size_t>(&plane - layout_.planes().data());
  job.positions = positions_[block];
  job.crc32c = segment.declared().crc32c();
  arriving_ = std::move(arriving);
  return absl::OkStatus();
}

absl::Status GetAssembly::Take(const PlaneSpec& plane, size_t block, const std::byte* bytes) {
  const Stopwatch stopwatch(&callback_time_);
  const std::span<const std::byte> values(bytes, plane.raw_bytes);
  if (lands()) return from_host_(plane, block, values);
  request_.take(plane, block, values);
  return absl::OkStatus();
}

absl::Status GetAssembly::LandPlane(const v1::Segment& segment, const std::byte* in_place) {
  if (segment.length() != plane_bytes_) {
    return Broken(absl::StrCat("part of a plane in device memory: ", Describe(segment)));
  }
  if (destination_.empty()) return absl::OkStatus();  // not wanted
  ArrivedPlane arrived;
  arrived.plane = planes_[received_.plane];
  arrived.index = static_cast<size_t>(arrived.plane - layout_.planes().data());
  arrived.block = segment.block();
  arrived.bytes = in_place;
  if (land_encoded_) {
    arrived.encoded_bytes = plane_bytes_;
    arrived.crc32c = segment.declared().crc32c();
    arrived.first_position = first_positions_[segment.block()];
  }
  land_(arrived);
  return absl::OkStatus();
}

absl::Status GetAssembly::AskDestination(const PlaneSpec& plane, size_t block) {
  if (takes()) {
    scratch_.resize(plane.raw_bytes);
    destination_ = scratch_;
    return absl::OkStatus();
  }
  {
    const Stopwatch stopwatch(&callback_time_);
    destination_ = request_.destination(plane, block);
  }
  if (destination_.empty() || destination_.size() == plane.raw_bytes) return absl::OkStatus();
  const size_t size = destination_.size();
  destination_ = {};
  return absl::InvalidArgumentError(absl::StrCat("the destination of layer ", plane.layer, " has ",
                                                 size, " bytes, the plane ", plane.raw_bytes));
}

absl::Status GetAssembly::OnSegment(const v1::Segment& segment, Read read,
                                    const std::byte* in_place) {
  if (!answered_) return Broken("planes before the answers");
  if (at_end()) return Broken(absl::StrCat("more than was asked for: ", Describe(segment)));
  absl::Status s = segment.offset() == 0 ? Begin(segment) : CheckSegment(segment);
  if (!s.ok()) return s;
  const bool lands = land_ && in_place != nullptr;
  const bool whole = in_place != nullptr && segment.length() == plane_bytes_;
  if (land_encoded_ && !lands) return Broken("an encoded plane outside of device memory");
  std::byte* to = nullptr;
  if (arriving_ != nullptr) {
    to = arriving_->bytes.get() + offset_;
  } else if (line_ == nullptr && !lands && !destination_.empty() && !(takes() && whole)) {
    to = destination_.data() + offset_;
  }
  if (!read(to, segment.length())) return Broken("a chunk shorter than its segments");
  received_bytes_ += segment.length();
  offset_ += segment.length();
  if (lands) {
    s = LandPlane(segment, in_place);
  } else if (offset_ < plane_bytes_) {
    return absl::OkStatus();
  } else if (line_ == nullptr && takes() && !destination_.empty()) {
    s = Take(*planes_[received_.plane], found_[received_.slot], whole ? in_place : scratch_.data());
  }
  if (!s.ok()) return s;
  if (arriving_ != nullptr) line_->Add(std::move(arriving_));
  NextPlane();
  if (line_ != nullptr) return TakeDecoded(Wait::kForRoom);
  ReportLayers();
  return absl::OkStatus();
}

absl::Status GetAssembly::TakeDecoded(Wait wait) {
  while (!line_->empty() && (wait == Wait::kForAll || line_->front_ready() || line_->full())) {
    // Out of time what is decoded counts still.
    if (!line_->front_ready() && !AwaitDecoded() && !line_->front_ready()) {
      return absl::DeadlineExceededError("Get ran out of time for decoding");
    }
    const std::unique_ptr<DecodeLine::Plane> decoded = line_->TakeFront();
    if (!decoded->status.ok() && !absl::IsDataLoss(decoded->status)) return decoded->status;
    if (absl::Status s = OnDecoded(*decoded); !s.ok()) return s;
    ReportLayers();
  }
  ReportLayers();  // of planes that went nowhere, too
  return absl::OkStatus();
}

bool GetAssembly::AwaitDecoded() {
  const Stopwatch stopwatch(&callback_time_);  // nobody's time but the worker's own
  // No further than the layer that the worker hears of next.
  const size_t end = *std::upper_bound(layer_end_.begin(), layer_end_.end(), line_->front().index);
  return line_->AwaitFront(end - 1, deadline_);
}

absl::Status GetAssembly::OnDecoded(const DecodeLine::Plane& decoded) {
  const size_t block = found_[decoded.slot];
  if (!decoded.status.ok()) {
    NoteDamage(block, absl::DataLossError(absl::StrCat(
                          "block ", block, " arrived damaged: ", decoded.status.message())));
  } else if (takes() && block < bound_) {
    return Take(*planes_[decoded.index], block, decoded.scratch.get());
  }
  return absl::OkStatus();
}

absl::Status GetAssembly::OnEnd() {
  if (!answered_) return Broken("it ended before the answers");
  SkipDamaged();
  if (!at_end()) return Broken("it ended before the last plane");
  return line_ == nullptr ? absl::OkStatus() : TakeDecoded(Wait::kForAll);
}

size_t GetAssembly::usable() const {
  if (!answered_) return 0;
  const Place at = written();
  if (at.plane == planes_.size()) return bound_;
  // Layer-major order: blocks become complete in the last plane only. Up to bound_ slots and blocks
  // are the same thing.
  return at.plane + 1 == planes_.size() ? std::min(at.slot, bound_) : 0;
}

void GetAssembly::ReportLayers() {
  while (bound_ > 0 && layers_reported_ < layer_end_.size()) {
    const size_t last_plane = layer_end_[layers_reported_] - 1;
    const Place at = written();
    if (at.plane < last_plane || (at.plane == last_plane && at.slot < bound_)) return;
    ++layers_reported_;
    if (!request_.on_layer) continue;
    const Stopwatch stopwatch(&callback_time_);
    request_.on_layer(planes_[last_plane]->layer, bound_);
  }
}

}  // namespace kvstow::client
