#include "client/get_assembly.h"

#include <algorithm>
#include <chrono>
#include <functional>

#include "absl/strings/str_cat.h"
#include "client/kvstow/device_kv.h"

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
                                                const GetBlocksRequest& request, size_t blocks) {
  const int targets =
      (request.destination ? 1 : 0) + (request.take ? 1 : 0) + (request.device != nullptr ? 1 : 0);
  if (targets != 1) {
    return absl::InvalidArgumentError(
        "GetBlocks needs a destination, a take or a device, one of them");
  }
  if (absl::Status s = CheckLayers(request.layers, layout.layers()); !s.ok()) return s;
  GetAssembly assembly(request, blocks);
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
  for (size_t b = 0; b < blocks_; ++b) {
    if (!answers.answers(b).found()) continue;
    if (bound_ == b) ++bound_;
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
  damaged_[damage.block()] = true;
  bound_ = std::min<size_t>(bound_, damage.block());
  if (damage_.ok()) {
    damage_ = absl::DataLossError(absl::StrCat("block ", damage.block(), " was damaged in layer ",
                                               damage.layer(), "; the daemon dropped it"));
  }
  ReportLayers();
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
  if (segment.plane_bytes() != plane.raw_bytes) {
    return Broken(absl::StrCat("a plane of ", segment.plane_bytes(), " bytes instead of ",
                               plane.raw_bytes, ": ", Describe(segment)));
  }
  if (segment.length() == 0 || segment.length() > plane.raw_bytes - offset_) {
    return Broken(absl::StrCat("beyond the plane: ", Describe(segment)));
  }
  return absl::OkStatus();
}

absl::Status GetAssembly::Begin(const v1::Segment& segment) {
  while (!at_end() && damaged_[found_[received_.slot]] &&
         (offset_ != 0 || !Names(segment, *planes_[received_.plane], found_[received_.slot]))) {
    NextPlane();
  }
  if (at_end()) return Broken(absl::StrCat("more than was asked for: ", Describe(segment)));
  if (absl::Status s = CheckSegment(segment); !s.ok()) return s;
  destination_ = {};
  // Blocks behind a gap cannot be used; their bytes go nowhere.
  if (segment.block() >= bound_) return absl::OkStatus();
  return AskDestination(*planes_[received_.plane], segment.block());
}

absl::Status GetAssembly::Take(const PlaneSpec& plane, size_t block, const std::byte* bytes,
                               bool in_place) {
  if (in_place && land_) {
    land_(plane, block, bytes);
    return absl::OkStatus();
  }
  const std::span<const std::byte> values(bytes, plane.raw_bytes);
  const auto start = std::chrono::steady_clock::now();
  absl::Status status;
  if (request_.device) {
    status = request_.device->ScatterFromHost(plane, block, values);
  } else {
    request_.take(plane, block, values);
  }
  callback_time_ += absl::FromChrono(std::chrono::steady_clock::now() - start);
  return status;
}

absl::Status GetAssembly::AskDestination(const PlaneSpec& plane, size_t block) {
  if (takes()) {
    scratch_.resize(plane.raw_bytes);
    destination_ = scratch_;
    return absl::OkStatus();
  }
  const auto start = std::chrono::steady_clock::now();
  destination_ = request_.destination(plane, block);
  callback_time_ += absl::FromChrono(std::chrono::steady_clock::now() - start);
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
  const PlaneSpec& plane = *planes_[received_.plane];
  const bool taken = takes() && !destination_.empty();
  const bool whole = in_place != nullptr && segment.length() == plane.raw_bytes;
  if (land_ && in_place != nullptr && !whole) {
    return Broken(absl::StrCat("part of a plane in device memory: ", Describe(segment)));
  }
  std::byte* to = nullptr;
  if (!destination_.empty() && !(taken && whole)) to = destination_.data() + offset_;
  if (!read(to, segment.length())) return Broken("a chunk shorter than its segments");
  received_bytes_ += segment.length();
  offset_ += segment.length();
  if (offset_ < plane.raw_bytes) return absl::OkStatus();
  if (taken) {
    s = Take(plane, found_[received_.slot], whole ? in_place : scratch_.data(), whole);
    if (!s.ok()) return s;
  }
  NextPlane();
  ReportLayers();
  return absl::OkStatus();
}

void GetAssembly::Landed(const Position& position) {
  landed_ = position;
  ReportLayers();
}

absl::Status GetAssembly::OnEnd() {
  if (!answered_) return Broken("it ended before the answers");
  SkipDamaged();
  if (!at_end()) return Broken("it ended before the last plane");
  return absl::OkStatus();
}

size_t GetAssembly::usable() const {
  if (!answered_) return 0;
  if (there().plane == planes_.size()) return bound_;
  // Layer-major order: blocks become complete in the last plane only. Up to bound_ slots and blocks
  // are the same thing.
  return there().plane + 1 == planes_.size() ? std::min(there().slot, bound_) : 0;
}

void GetAssembly::ReportLayers() {
  while (bound_ > 0 && layers_reported_ < layer_end_.size()) {
    const size_t last_plane = layer_end_[layers_reported_] - 1;
    if (there().plane < last_plane || (there().plane == last_plane && there().slot < bound_)) {
      return;
    }
    ++layers_reported_;
    if (!request_.on_layer) continue;
    const auto start = std::chrono::steady_clock::now();
    request_.on_layer(planes_[last_plane]->layer, bound_);
    callback_time_ += absl::FromChrono(std::chrono::steady_clock::now() - start);
  }
}

}  // namespace kvstow::client
