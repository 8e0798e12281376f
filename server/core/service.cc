#include "server/core/service.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "codec/scratch.h"
#include "server/core/status_macros.h"

namespace kvstow {
namespace {

absl::Status CheckCount(absl::string_view what, size_t count, size_t limit) {
  if (count <= limit) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(count, " ", what, " in one call; the limit is ", limit, ". Split the call"));
}

absl::Status CheckPrefillRate(double tokens_per_second) {
  constexpr double kFastest = 1e9;
  if (tokens_per_second == 0 || (tokens_per_second >= 1 && tokens_per_second <= kFastest)) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(absl::StrCat("prefill_tokens_per_second is ", tokens_per_second,
                                                 "; give a rate from 1 to 1e9, or leave it out"));
}

RecordInspection InspectRecord(Store& store, const SpaceContext& space, const BlockKey& key,
                               const BlockInfo::ShardInfo& where, bool drop_damaged) {
  RecordInspection out;
  out.where = where;
  const Store::Pin pin = store.Peek(space.id(), where.shard, key);
  if (!pin) {
    out.health = absl::NotFoundError("the record went while it was looked at");
    return out;
  }
  Scratch<std::byte> bytes(pin.record_bytes());
  out.health = pin.Read(0, bytes);
  if (!out.health.ok()) return out;
  auto record = RecordIndex::Parse(bytes);
  out.health = record.status();
  if (record.ok()) {
    for (const DirectoryEntry& entry : record->planes()) {
      out.health.Update(CheckPlane(entry, std::span(bytes).subspan(entry.offset, entry.bytes)));
    }
    out.record = *std::move(record);
  }
  if (drop_damaged && !out.health.ok()) store.ReportDamage(pin);
  return out;
}

}  // namespace

Service::Service(ServiceLimits limits, Parts parts)
    : limits_(std::move(limits)),
      random_(parts.random),
      inflight_(limits_.max_inflight_bytes),
      staged_(limits_.max_staged_bytes),
      context_{*parts.store, *parts.codec, *parts.executor,    *parts.clock,       *parts.stats,
               inflight_,    staged_,      parts.device_reads, parts.device_writes},
      hub_(limits_.watch_queue),
      sessions_(parts.random, parts.store, limits_.max_sessions, limits_.tenant_sessions) {
  context_.store.SetListener([this](const StoreEvent& event) { hub_.OnEvent(event); });
}

// Records may still move between tiers, and the store tells of it.
Service::~Service() { context_.store.SetListener(nullptr); }

absl::StatusOr<std::shared_ptr<Session>> Service::BeginSession(TenantId tenant,
                                                               std::string client_name,
                                                               double prefill_rate) {
  if (client_name.size() > kMaxNameBytes) {
    return absl::InvalidArgumentError(absl::StrCat("client_name has ", client_name.size(),
                                                   " bytes; the limit is ", kMaxNameBytes));
  }
  KVSTOW_RETURN_IF_ERROR(CheckPrefillRate(prefill_rate));
  KVSTOW_ASSIGN_OR_RETURN(auto session,
                          sessions_.Begin(tenant, std::move(client_name), prefill_rate));
  // From the first declaration on there is something to count, if only 0.
  if (prefill_rate > 0) context_.stats.OnPrefillSaved(tenant, absl::ZeroDuration());
  return session;
}

absl::StatusOr<std::shared_ptr<const SpaceContext>> Service::FindSpace(TenantId tenant,
                                                                       const SessionId& session,
                                                                       uint64_t handle) const {
  KVSTOW_ASSIGN_OR_RETURN(auto found, sessions_.Find(tenant, session));
  return found->FindSpace(handle);
}

absl::StatusOr<std::shared_ptr<const SpaceContext>> Service::SharedContext(TenantId tenant,
                                                                           SpaceSpec spec,
                                                                           Shard shard) {
  const auto key = std::make_pair(tenant, FingerprintOf(spec));
  absl::MutexLock lock(&mu_);
  if (spaces_.size() >= limits_.max_spaces && !contexts_.contains(key)) {
    return absl::ResourceExhaustedError(
        absl::StrCat("this daemon has seen ", limits_.max_spaces,
                     " spaces, its limit; raise limits.max_spaces or restart it"));
  }
  auto& known = contexts_[key];
  std::erase_if(known, [](const auto& weak) { return weak.expired(); });
  for (const auto& weak : known) {
    auto context = weak.lock();
    if (context && context->layout().shard() == shard) return context;
  }
  KVSTOW_ASSIGN_OR_RETURN(auto context, SpaceContext::Create(tenant, std::move(spec),
                                                             std::move(shard), &context_.store));
  known.push_back(context);
  if (spaces_.insert(context->id()).second) {
    hub_.AddSpace(context->id(), tenant, context->layout().spec().model.name);
  }
  return context;
}

absl::StatusOr<OpenedSpace> Service::OpenSpace(TenantId tenant, const SessionId& session,
                                               SpaceSpec spec, Shard shard) {
  KVSTOW_ASSIGN_OR_RETURN(auto found, sessions_.Find(tenant, session));
  KVSTOW_RETURN_IF_ERROR(Validate(spec));
  KVSTOW_RETURN_IF_ERROR(Validate(shard, spec));
  KVSTOW_ASSIGN_OR_RETURN(auto context, SharedContext(tenant, std::move(spec), std::move(shard)));
  KVSTOW_ASSIGN_OR_RETURN(uint64_t handle,
                          found->AddSpace(context, limits_.max_spaces_per_session, random_));
  return OpenedSpace{handle, std::move(context)};
}

absl::StatusOr<LookupMatch> Service::Lookup(TenantId tenant, const SessionId& session,
                                            uint64_t space, std::span<const BlockKey> keys,
                                            const std::string& request_id, absl::Duration ttl) {
  KVSTOW_RETURN_IF_ERROR(CheckCount("keys", keys.size(), limits_.max_keys_per_lookup));
  KVSTOW_RETURN_IF_ERROR(CheckCount("bytes of request_id", request_id.size(), kMaxNameBytes));
  KVSTOW_ASSIGN_OR_RETURN(auto caller, sessions_.Find(tenant, session));
  KVSTOW_ASSIGN_OR_RETURN(auto context, caller->FindSpace(space));
  LookupMatch match = context_.store.Lookup(context->id(), keys, session, request_id, ttl);
  if (ttl > absl::ZeroDuration() && caller->prefill_rate() > 0) {
    const double tokens =
        static_cast<double>(match.tiers.size()) * context->layout().spec().block_tokens;
    context_.stats.OnPrefillSaved(tenant, absl::Seconds(tokens / caller->prefill_rate()));
  }
  return match;
}

absl::StatusOr<uint64_t> Service::Prefetch(TenantId tenant, const SessionId& session,
                                           uint64_t space, std::span<const BlockKey> keys) {
  KVSTOW_RETURN_IF_ERROR(CheckCount("keys", keys.size(), limits_.max_keys_per_lookup));
  KVSTOW_ASSIGN_OR_RETURN(auto context, FindSpace(tenant, session, space));
  return context_.store.Prefetch(context->id(), keys);
}

absl::StatusOr<uint32_t> Service::Release(TenantId tenant, const SessionId& session,
                                          std::span<const LeaseId> leases) {
  KVSTOW_RETURN_IF_ERROR(sessions_.Find(tenant, session).status());
  KVSTOW_RETURN_IF_ERROR(CheckCount("leases", leases.size(), limits_.max_keys_per_lookup));
  uint32_t released = 0;
  for (LeaseId lease : leases) released += context_.store.Release(tenant, lease).ok();
  return released;
}

absl::StatusOr<std::vector<bool>> Service::Renew(TenantId tenant, const SessionId& session,
                                                 std::span<const LeaseId> leases,
                                                 absl::Duration ttl) {
  KVSTOW_RETURN_IF_ERROR(sessions_.Find(tenant, session).status());
  KVSTOW_RETURN_IF_ERROR(CheckCount("leases", leases.size(), limits_.max_keys_per_lookup));
  if (ttl <= absl::ZeroDuration()) {
    return absl::InvalidArgumentError("Renew needs a ttl above 0; use Release to end a lease");
  }
  std::vector<bool> alive;
  for (LeaseId lease : leases) alive.push_back(context_.store.Renew(tenant, lease, ttl).ok());
  return alive;
}

absl::StatusOr<uint64_t> Service::Drop(TenantId tenant, const SessionId& session, uint64_t space,
                                       std::span<const BlockKey> keys) {
  KVSTOW_RETURN_IF_ERROR(CheckCount("keys", keys.size(), limits_.max_keys_per_lookup));
  KVSTOW_ASSIGN_OR_RETURN(auto context, FindSpace(tenant, session, space));
  return context_.store.Drop(context->id(), keys);
}

absl::StatusOr<uint64_t> Service::DropAll(TenantId tenant, const SessionId& session,
                                          uint64_t space) {
  KVSTOW_ASSIGN_OR_RETURN(auto context, FindSpace(tenant, session, space));
  return context_.store.DropSpace(context->id());
}

absl::StatusOr<Service::Caller> Service::FindCaller(TenantId tenant, const SessionId& session,
                                                    uint64_t space,
                                                    const std::optional<SlotClaim>& slot) const {
  Caller caller;
  KVSTOW_ASSIGN_OR_RETURN(caller.session, sessions_.Find(tenant, session));
  KVSTOW_ASSIGN_OR_RETURN(caller.space, caller.session->FindSpace(space));
  if (slot) {
    KVSTOW_ASSIGN_OR_RETURN(caller.slot, caller.session->Borrow(*slot));
  }
  return caller;
}

absl::Status Service::CheckTokenIds(const SpaceContext& space,
                                    std::vector<BlockIntent>& intents) const {
  const uint32_t expected = space.layout().spec().block_tokens;
  const bool wanted = hub_.IsFollowed(space.id());
  for (size_t b = 0; b < intents.size(); ++b) {
    TokenIds& ids = intents[b].token_ids;
    if (ids != nullptr && ids->size() != expected) {
      return absl::InvalidArgumentError(absl::StrCat("block ", b, " has ", ids->size(),
                                                     " token_ids; a block of this space has ",
                                                     expected, ". Send all of them, or none"));
    }
    if (!wanted) ids = nullptr;
  }
  return absl::OkStatus();
}

absl::StatusOr<std::shared_ptr<PutCall>> Service::Put(
    TenantId tenant, const SessionId& session, uint64_t space, std::vector<BlockIntent> intents,
    absl::Duration ttl, const std::optional<SlotClaim>& slot, PlaneForm form) {
  KVSTOW_RETURN_IF_ERROR(CheckCount("blocks", intents.size(), limits_.max_blocks_per_put));
  if (intents.empty()) return absl::InvalidArgumentError("a Put that announces no block");
  KVSTOW_ASSIGN_OR_RETURN(Caller caller, FindCaller(tenant, session, space, slot));
  if (caller.slot.on_device() && form == PlaneForm::kEncoded) {
    return absl::InvalidArgumentError(
        "encoded planes with a staging slot on a device; put them through the host's, or decoded");
  }
  KVSTOW_RETURN_IF_ERROR(CheckTokenIds(*caller.space, intents));
  PutForm put_form{.form = form};
  if (form == PlaneForm::kEncoded) {
    random_->Fill(std::as_writable_bytes(std::span(&put_form.sample_seed, 1)));
  }
  return PutCall::Create(context_, std::move(caller.session), std::move(caller.space),
                         std::move(intents), ttl, std::move(caller.slot), put_form);
}

absl::StatusOr<std::shared_ptr<GetCall>> Service::Get(
    TenantId tenant, const SessionId& session, uint64_t space, std::span<const BlockKey> keys,
    std::span<const uint32_t> layers, PlaneForm form, const std::optional<SlotClaim>& slot) {
  KVSTOW_RETURN_IF_ERROR(CheckCount("blocks", keys.size(), limits_.max_blocks_per_get));
  KVSTOW_ASSIGN_OR_RETURN(Caller caller, FindCaller(tenant, session, space, slot));
  return GetCall::Create(context_, std::move(caller.session), std::move(caller.space), keys, layers,
                         form, std::move(caller.slot));
}

absl::StatusOr<Service::Watching> Service::Watch(TenantId tenant, const SessionId& session,
                                                 uint64_t space) {
  KVSTOW_ASSIGN_OR_RETURN(auto context, FindSpace(tenant, session, space));
  return Watching{context->id(), hub_.Watch(context->id())};
}

absl::StatusOr<BlockInspection> Service::Inspect(TenantId tenant, const SessionId& session,
                                                 uint64_t space, const BlockKey& key,
                                                 bool drop_damaged) {
  KVSTOW_ASSIGN_OR_RETURN(auto context, FindSpace(tenant, session, space));
  BlockInspection out;
  KVSTOW_ASSIGN_OR_RETURN(out.info, context_.store.Inspect(context->id(), key));
  for (const BlockInfo::ShardInfo& shard : out.info.shards) {
    out.records.push_back(InspectRecord(context_.store, *context, key, shard, drop_damaged));
  }
  return out;
}

ServiceSnapshot Service::Snapshot() const {
  ServiceSnapshot out;
  out.store = context_.store.Snapshot();
  out.sessions = sessions_.size();
  out.queue_depth = context_.executor.queue_depth() + context_.codec.queue_depth();
  out.inflight_bytes = inflight_.used();
  out.staged_bytes = staged_.used();
  return out;
}

}  // namespace kvstow
