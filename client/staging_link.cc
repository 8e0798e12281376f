#include "client/staging_link.h"

#include <algorithm>
#include <cstring>
#include <utility>

namespace kvstow::client {
namespace {

// Slots begin and end at pages.
constexpr uint64_t kSlotUnit = 4096;

}  // namespace

StagingLink::Slot::~Slot() {
  if (region_ != nullptr) link_->TakeBack(std::move(region_), index_, /*clean=*/false);
}

std::span<std::byte> StagingLink::Slot::bytes() const {
  return region_->bytes.subspan(index_ * region_->slot_bytes, region_->slot_bytes);
}

bool StagingLink::Slot::on_device() const { return region_->on_device != nullptr; }

v1::StagingSlot StagingLink::Slot::Claim() const {
  v1::StagingSlot claim;
  claim.set_region(region_->id);
  claim.set_offset(index_ * region_->slot_bytes);
  claim.set_bytes(region_->slot_bytes);
  return claim;
}

void StagingLink::Slot::Return() { link_->TakeBack(std::move(region_), index_, /*clean=*/true); }

StagingLink::StagingLink(Options options)
    : options_(std::move(options)), why_not_(absl::UnavailableError("no session yet")) {
  if (!options_.unix_socket.empty()) {
    thread_ = std::thread([this] { Loop(); });
  } else {
    why_not_ = absl::UnavailableError("the daemon is not reached over a Unix socket");
  }
}

StagingLink::~StagingLink() {
  {
    absl::MutexLock lock(&mu_);
    stop_ = true;
  }
  if (thread_.joinable()) thread_.join();
}

void StagingLink::OnSession(const std::string& session_id) {
  absl::MutexLock lock(&mu_);
  if (!thread_.joinable()) return;
  session_id_ = session_id;
  Forsake(std::move(region_));
  ask_ = true;
  const uint64_t before = answers_;
  const auto answered = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) { return answers_ != before; };
  mu_.AwaitWithTimeout(absl::Condition(&answered), options_.answer_timeout);
}

void StagingLink::Loop() {
  for (;;) {
    std::string session_id;
    std::vector<std::shared_ptr<Region>> forsaken;
    {
      absl::MutexLock lock(&mu_);
      const auto wanted = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
        return ask_ || stop_ || !forsaken_.empty();
      };
      mu_.Await(absl::Condition(&wanted));
      forsaken = std::move(forsaken_);
      forsaken_.clear();
      if (stop_) return;
      if (!ask_) continue;
      ask_ = false;
      asked_ = std::chrono::steady_clock::now();
      session_id = session_id_;
    }
    Ask(session_id);
  }
}

absl::StatusOr<std::shared_ptr<StagingLink::Region>> StagingLink::RequestRegionOf(
    const std::string& session_id) const {
  const std::string path = SideChannelPath(options_.unix_socket);
  auto region = std::make_shared<Region>();
  region->session_id = session_id;
  StagingRequest request;
  std::copy_n(session_id.begin(), std::min(session_id.size(), request.session.size()),
              request.session.begin());
  request.bytes = options_.region_bytes;
  if (options_.gpu == nullptr) {
    auto granted = RequestRegion(path, request, options_.answer_timeout);
    if (!granted.ok()) return granted.status();
    region->id = granted->region;
    region->on_host = std::move(granted->memory);
    region->bytes = region->on_host.bytes();
  } else {
    request.gpu = options_.gpu->uuid();
    const auto prove = [&](const OwnedFd& memory, uint64_t bytes, const StagingProbe& probe) {
      auto imported = options_.gpu->Import(memory, bytes, probe);
      if (!imported.ok()) return imported.status();
      region->on_device = *std::move(imported);
      return absl::OkStatus();
    };
    auto granted = RequestDeviceRegion(path, request, options_.answer_timeout, prove);
    if (!granted.ok()) return granted.status();
    region->id = granted->region;
    region->bytes = region->on_device->bytes();
  }
  region->slot_bytes = region->bytes.size() / options_.slots / kSlotUnit * kSlotUnit;
  if (region->slot_bytes == 0) {
    return absl::ResourceExhaustedError("the daemon's regions are smaller than a call needs");
  }
  region->lent.resize(options_.slots);
  return region;
}

void StagingLink::Ask(const std::string& session_id) {
  auto region = RequestRegionOf(session_id);
  absl::MutexLock lock(&mu_);
  ++answers_;
  if (session_id != session_id_) return;  // there is another session by now, and another question
  why_not_ = region.status();
  if (!region.ok()) return;
  Forsake(std::exchange(region_, *std::move(region)));
}

std::optional<size_t> StagingLink::FreeSlot(const std::string& session_id) {
  if (region_ == nullptr || region_->session_id != session_id) return std::nullopt;
  const auto free = std::find(region_->lent.begin(), region_->lent.end(), false);
  if (free == region_->lent.end()) return std::nullopt;
  return free - region_->lent.begin();
}

std::optional<StagingLink::Slot> StagingLink::Borrow(const std::string& session_id,
                                                     const Deadline* deadline) {
  absl::MutexLock lock(&mu_);
  if (deadline != nullptr) {
    // A region that is on its way, or a slot that comes back.
    const auto ready = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
      return FreeSlot(session_id).has_value() || session_id != session_id_ ||
             (region_ == nullptr && !why_not_.ok());
    };
    mu_.AwaitWithTimeout(absl::Condition(&ready), deadline->remaining());
  }
  const std::optional<size_t> free = FreeSlot(session_id);
  if (free) {
    region_->lent[*free] = true;
    return Slot(this, region_, *free);
  }
  // Refused before; by now there may be room.
  const auto since = absl::FromChrono(std::chrono::steady_clock::now() - asked_);
  if (region_ == nullptr && since > options_.retry_pause) ask_ = true;
  return std::nullopt;
}

void StagingLink::TakeBack(std::shared_ptr<Region> region, size_t index, bool clean) {
  absl::MutexLock lock(&mu_);
  if (clean) {
    region->lent[index] = false;
  } else if (region_ == region) {
    Forsake(std::move(region_));
    why_not_ = absl::OkStatus();  // another one is on its way
    ask_ = true;
  }
  Forsake(std::move(region));
}

void StagingLink::Forsake(std::shared_ptr<Region> region) {
  if (region != nullptr && region != region_) forsaken_.push_back(std::move(region));
}

DataPath PathOf(const std::optional<StagingLink::Slot>& slot) {
  if (!slot) return DataPath::kGrpc;
  return slot->on_device() ? DataPath::kDeviceMemory : DataPath::kSharedMemory;
}

absl::Status StagingLink::why_not() const {
  absl::MutexLock lock(&mu_);
  return why_not_;
}

}  // namespace kvstow::client
