#include "server/core/sessions.h"

#include <utility>

#include "absl/strings/str_cat.h"

namespace kvstow {

absl::StatusOr<uint64_t> Session::AddSpace(std::shared_ptr<const SpaceContext> space, size_t limit,
                                           RandomSource* random) {
  absl::MutexLock lock(&mu_);
  for (const auto& [handle, known] : spaces_) {
    if (known == space) return handle;
  }
  if (spaces_.size() >= limit) {
    return absl::ResourceExhaustedError(
        absl::StrCat("this session has ", limit, " spaces open, the limit; use another session"));
  }
  // Random, so that a handle from before a restart is not taken for another space's.
  uint64_t handle = 0;
  while (handle == 0 || spaces_.contains(handle)) {
    random->Fill(std::as_writable_bytes(std::span(&handle, 1)));
  }
  spaces_.emplace(handle, std::move(space));
  return handle;
}

absl::StatusOr<std::shared_ptr<const SpaceContext>> Session::FindSpace(uint64_t handle) const {
  absl::MutexLock lock(&mu_);
  auto it = spaces_.find(handle);
  if (it == spaces_.end()) {
    return absl::FailedPreconditionError(
        "this session has no such space; call OpenSpace and use the handle it gives");
  }
  return it->second;
}

absl::StatusOr<uint32_t> Session::ShareStaging(std::shared_ptr<const StagingArea> area) {
  absl::MutexLock lock(&mu_);
  if (ended()) return absl::FailedPreconditionError("the session ended");
  Region& region = regions_[area->on_device() ? 1 : 0];
  region.area.swap(area);
  return region.name = ++regions_named_;
}

void Session::DropStaging(bool on_device) {
  std::shared_ptr<const StagingArea> dropped;  // outside the lock
  absl::MutexLock lock(&mu_);
  dropped = std::move(regions_[on_device ? 1 : 0].area);
}

absl::StatusOr<StagingSlot> Session::Borrow(const SlotClaim& claim) const {
  absl::MutexLock lock(&mu_);
  const Region* claimed = nullptr;
  for (const Region& region : regions_) {
    if (region.area != nullptr && region.name == claim.region) claimed = &region;
  }
  if (claimed == nullptr) {
    return absl::FailedPreconditionError(absl::StrCat(
        "this session has no staging region ", claim.region, "; ask for one on the side channel"));
  }
  const std::span<std::byte> all = claimed->area->bytes();
  if (claim.bytes < kLeastSlotBytes || claim.offset > all.size() ||
      claim.bytes > all.size() - claim.offset) {
    return absl::InvalidArgumentError(
        absl::StrCat("a staging slot of ", claim.bytes, " bytes at ", claim.offset,
                     "; it has at least ", kLeastSlotBytes, ", and the region ", all.size()));
  }
  // What a misaligned access does to a device it does to everybody on it.
  if (claimed->area->on_device() && claim.offset % kDeviceSlotAlignment != 0) {
    return absl::InvalidArgumentError(absl::StrCat(
        "a staging slot at ", claim.offset, " of a region on a device; it begins at a multiple of ",
        kDeviceSlotAlignment));
  }
  return StagingSlot{claimed->area, all.subspan(claim.offset, claim.bytes)};
}

void Session::End() {
  std::shared_ptr<const StagingArea> dropped[2];  // outside the lock
  absl::MutexLock lock(&mu_);
  ended_.store(true, std::memory_order_release);
  for (size_t i = 0; i < std::size(dropped); ++i) dropped[i] = std::move(regions_[i].area);
}

absl::StatusOr<std::shared_ptr<Session>> Sessions::Begin(TenantId tenant, std::string client_name,
                                                         double prefill_rate) {
  SessionId id;
  random_->Fill(std::as_writable_bytes(std::span(id.bytes)));
  auto session = std::make_shared<Session>(id, tenant, std::move(client_name), prefill_rate);
  absl::MutexLock lock(&mu_);
  if (sessions_.size() >= max_sessions_) {
    return absl::ResourceExhaustedError(
        absl::StrCat("all ", max_sessions_, " sessions are taken; raise max_sessions"));
  }
  size_t* const count = CountOf(tenant);
  if (count != nullptr) {
    const uint32_t most = tenant_sessions_[static_cast<size_t>(tenant)];
    if (*count >= most) {
      return absl::ResourceExhaustedError(
          absl::StrCat("all ", most, " sessions of this tenant are taken; raise quota.sessions"));
    }
    ++*count;
  }
  sessions_.emplace(id, session);
  return session;
}

size_t* Sessions::CountOf(TenantId tenant) {
  const auto index = static_cast<size_t>(tenant);
  if (index >= tenant_sessions_.size() || tenant_sessions_[index] == 0) return nullptr;
  return &counts_[index];
}

void Sessions::End(const SessionId& id) {
  std::shared_ptr<Session> session;
  {
    absl::MutexLock lock(&mu_);
    auto it = sessions_.find(id);
    if (it == sessions_.end()) return;
    session = std::move(it->second);
    sessions_.erase(it);
    if (size_t* count = CountOf(session->tenant())) --*count;
  }
  session->End();
  store_->ReleaseAll(id);
}

absl::StatusOr<std::shared_ptr<Session>> Sessions::Find(TenantId tenant,
                                                        const SessionId& id) const {
  absl::MutexLock lock(&mu_);
  auto it = sessions_.find(id);
  if (it == sessions_.end() || it->second->tenant() != tenant) {
    return absl::FailedPreconditionError(
        "no such session; open one with Session and keep its stream");
  }
  return it->second;
}

absl::StatusOr<std::shared_ptr<Session>> Sessions::Find(const SessionId& id) const {
  absl::MutexLock lock(&mu_);
  auto it = sessions_.find(id);
  if (it != sessions_.end()) return it->second;
  return absl::FailedPreconditionError("no such session");
}

size_t Sessions::size() const {
  absl::MutexLock lock(&mu_);
  return sessions_.size();
}

}  // namespace kvstow
