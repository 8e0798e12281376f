#include "client/remote_space.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "client/convert.h"
#include "client/get_call.h"
#include "client/ongoing_call.h"
#include "client/put_call.h"

namespace kvstow::client {
namespace {

// Limits of the wire contract, for a daemon that names none.
constexpr uint32_t kMaxKeys = 8192;
constexpr uint32_t kMaxChunkBytes = 1 << 20;

uint32_t LimitOr(uint32_t limit, uint32_t otherwise) {
  return limit == 0 ? otherwise : std::min(limit, otherwise);
}

absl::Status CheckOpened(const v1::OpenSpaceResponse& response, const Fingerprint& expected) {
  if (response.fingerprint() == ToBytes(expected)) return absl::OkStatus();
  return absl::InternalError("the daemon computes another fingerprint for this space");
}

SpaceHandle HandleOf(const v1::OpenSpaceResponse& response, const SessionKeeper::Session& session) {
  const v1::Limits& limits = response.limits();
  return {.session_id = session.id,
          .session_generation = session.generation,
          .space = response.space(),
          .max_keys_per_lookup = LimitOr(limits.max_keys_per_lookup(), kMaxKeys),
          .max_blocks_per_put = LimitOr(limits.max_blocks_per_put(), kMaxKeys),
          .max_blocks_per_get = LimitOr(limits.max_blocks_per_get(), kMaxKeys),
          .max_chunk_bytes = LimitOr(limits.max_chunk_bytes(), kMaxChunkBytes)};
}

absl::Status CheckTokenIds(const PutBlocksRequest& request, size_t block_tokens) {
  const size_t expected = request.keys.size() * block_tokens;
  if (request.token_ids.empty() || request.token_ids.size() == expected) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("PutBlocks has ", request.token_ids.size(),
                                                 " token_ids; the blocks of its keys have ",
                                                 expected, ". Give all of them, or none"));
}

absl::Status GivenUp() { return absl::CancelledError("the call was given up"); }

}  // namespace

RemoteSpace::RemoteSpace(std::shared_ptr<DaemonLink> link, PlaneLayout layout,
                         std::shared_ptr<SpaceCoder> coder)
    : link_(std::move(link)),
      layout_(std::move(layout)),
      fingerprint_(FingerprintOf(layout_.spec())),
      coder_(std::move(coder)) {}

std::vector<BlockKey> RemoteSpace::Keys(std::span<const uint32_t> tokens,
                                        const PromptContext& context,
                                        std::span<const std::string> extras) const {
  return KeysOf(RootKey(fingerprint_, context), tokens, layout_.spec().block_tokens, extras);
}

SpaceHandle RemoteSpace::cached() const {
  absl::MutexLock lock(&mu_);
  return handle_;
}

Outcome RemoteSpace::Open(const Session& session, const Deadline& deadline, SpaceHandle* handle) {
  v1::OpenSpaceRequest request;
  request.set_session_id(session.id);
  *request.mutable_spec() = ToProto(layout_.spec());
  *request.mutable_shard() = ToProto(layout_.shard());
  v1::OpenSpaceResponse response;
  Outcome outcome = link_->Unary("OpenSpace", request, deadline, &response);
  if (absl::IsFailedPrecondition(outcome.status)) link_->sessions().Suspect(session.generation);
  if (!outcome.status.ok()) return outcome;
  if (absl::Status s = CheckOpened(response, fingerprint_); !s.ok()) return Judge(std::move(s));
  *handle = HandleOf(response, session);
  absl::MutexLock lock(&mu_);
  handle_ = *handle;
  return outcome;
}

Outcome RemoteSpace::CallOn(const Session& session, const Deadline& deadline, HandleCall call) {
  SpaceHandle handle = cached();
  if (handle.session_generation == session.generation) {
    Outcome outcome = call(handle);
    if (!absl::IsFailedPrecondition(outcome.status)) return outcome;
  }
  Outcome opened = Open(session, deadline, &handle);
  return opened.status.ok() ? call(handle) : opened;
}

absl::Status RemoteSpace::Call(DaemonLink::Work work, const Deadline& deadline, HandleCall call) {
  return link_->Call(work, deadline,
                     [&](const Session& session) { return CallOn(session, deadline, call); });
}

Match RemoteSpace::Lookup(std::span<const BlockKey> keys, const LookupOptions& options) {
  Match match;
  if (keys.empty()) return match;
  const auto deadline = Deadline::In(options.deadline, link_->options().lookup_deadline);
  v1::LookupRequest request;
  v1::LookupResponse response;
  request.set_request_id(options.request_id);
  request.set_ttl_ms(std::max<int64_t>(absl::ToInt64Milliseconds(options.ttl), 0));
  match.status = Call(DaemonLink::Work::kNew, deadline, [&](const SpaceHandle& handle) {
    const size_t asked = std::min<size_t>(keys.size(), handle.max_keys_per_lookup);
    request.set_session_id(handle.session_id);
    request.set_space(handle.space);
    request.set_keys(ToBytes(keys.first(asked)));
    Outcome outcome = link_->Unary("Lookup", request, deadline, &response);
    if (outcome.status.ok() && response.matched_blocks() > asked) {
      return Judge(absl::InternalError("the daemon matched more blocks than were asked for"));
    }
    return outcome;
  });
  if (!match.status.ok()) return match;
  match.blocks = response.matched_blocks();
  match.tokens = match.blocks * layout_.spec().block_tokens;
  match.lease = response.lease();
  return match;
}

PutBlocksResult RemoteSpace::PutBlocks(const PutBlocksRequest& request) {
  return Put(request, Deadline::In(request.deadline, link_->options().put_deadline), nullptr);
}

GetBlocksResult RemoteSpace::GetBlocks(const GetBlocksRequest& request) {
  return Get(request, Deadline::In(request.deadline, link_->options().get_deadline), nullptr);
}

void RemoteSpace::Prefetch(std::span<const BlockKey> keys) {
  if (keys.empty()) return;
  const auto deadline = Deadline::In(link_->options().control_deadline);
  v1::PrefetchRequest request;
  v1::PrefetchResponse response;
  Call(DaemonLink::Work::kNew, deadline, [&](const SpaceHandle& handle) {
    request.set_session_id(handle.session_id);
    request.set_space(handle.space);
    request.set_keys(
        ToBytes(keys.first(std::min<size_t>(keys.size(), handle.max_keys_per_lookup))));
    return link_->Unary("Prefetch", request, deadline, &response);
  }).IgnoreError();
}

std::unique_ptr<OngoingPut> RemoteSpace::StartPut(
    PutBlocksRequest request, std::function<void(const PutBlocksResult&)> on_done) {
  const auto deadline = Deadline::In(request.deadline, link_->options().put_deadline);
  const size_t blocks = request.keys.size();
  return std::make_unique<StartedPut>(
      StartedPut::Plan{shared_from_this(), link_->put_threads(), deadline,
                       [this, deadline, request = std::move(request)](CallControl* control) {
                         return Put(request, deadline, control);
                       },
                       [blocks](absl::Status why) {
                         PutBlocksResult unmade;
                         unmade.blocks.resize(blocks);
                         unmade.status = std::move(why);
                         return unmade;
                       },
                       std::move(on_done)});
}

std::unique_ptr<OngoingGet> RemoteSpace::StartGet(
    GetBlocksRequest request, std::function<void(const GetBlocksResult&)> on_done) {
  const auto deadline = Deadline::In(request.deadline, link_->options().get_deadline);
  return std::make_unique<StartedGet>(
      StartedGet::Plan{shared_from_this(), link_->get_threads(), deadline,
                       [this, deadline, request = std::move(request)](CallControl* control) {
                         return Get(request, deadline, control);
                       },
                       [](absl::Status why) {
                         GetBlocksResult unmade;
                         unmade.status = std::move(why);
                         return unmade;
                       },
                       std::move(on_done)});
}

PutBlocksResult RemoteSpace::Put(const PutBlocksRequest& request, const Deadline& deadline,
                                 CallControl* control) {
  PutBlocksResult result;
  result.blocks.resize(request.keys.size());
  if (request.keys.empty()) return result;
  const int sources =
      (request.source ? 1 : 0) + (request.fill ? 1 : 0) + (request.device != nullptr ? 1 : 0);
  if (sources != 1) {
    result.status =
        absl::InvalidArgumentError("PutBlocks needs a source, a fill or a device, one of them");
    return result;
  }
  if (absl::Status s = CheckTokenIds(request, layout_.spec().block_tokens); !s.ok()) {
    result.status = std::move(s);
    return result;
  }
  // Not before there is something to send: the daemon waits for nobody for long.
  if (control != nullptr && !control->AwaitLayer(layout_.planes().front().layer, deadline)) {
    result.status = control->cancelled()
                        ? GivenUp()
                        : absl::DeadlineExceededError("no layer was ready in time");
    return result;
  }
  result.status = Call(DaemonLink::Work::kNew, deadline, [&](const SpaceHandle& handle) {
    if (control != nullptr && control->cancelled()) return Unmade(GivenUp());
    const size_t blocks = std::min<size_t>(request.keys.size(), handle.max_blocks_per_put);
    for (size_t b = blocks; b < request.keys.size(); ++b) {
      result.blocks[b].refusal = "over_call_limit";
    }
    // What is encoded by then travels through host memory, unless another path is asked for.
    const bool on_device =
        request.device != nullptr &&
        (!EncodesOnDevice(request) || link_->options().path == DataPath::kDeviceMemory);
    const auto kv = on_device ? DaemonLink::Kv::kOnDevice : DaemonLink::Kv::kOnHost;
    auto slot = link_->BorrowSlot(kv, handle.session_id, deadline);
    if (!slot.ok()) return Unmade(slot.status());
    return RunPut({link_->put_channel(), deadline, control}, handle, *std::move(slot), coder_.get(),
                  layout_, request, blocks, &result);
  });
  for (const PutBlocksResult::Block& block : result.blocks) {
    result.stored += block.outcome == PutBlocksResult::Outcome::kStored;
    result.existed += block.outcome == PutBlocksResult::Outcome::kExisted;
  }
  return result;
}

GetBlocksResult RemoteSpace::Get(const GetBlocksRequest& request, const Deadline& deadline,
                                 CallControl* control) {
  GetBlocksResult result;
  if (request.keys.empty()) return result;
  result.status = Call(DaemonLink::Work::kFinish, deadline, [&](const SpaceHandle& handle) {
    if (control != nullptr && control->cancelled()) return Unmade(GivenUp());
    const size_t blocks = std::min<size_t>(request.keys.size(), handle.max_blocks_per_get);
    const auto kv = request.device ? DaemonLink::Kv::kOnDevice : DaemonLink::Kv::kOnHost;
    auto slot = link_->BorrowSlot(kv, handle.session_id, deadline);
    if (!slot.ok()) return Unmade(slot.status());
    return RunGet({link_->channel(), deadline, control}, handle, *std::move(slot), coder_.get(),
                  layout_, request, blocks, &result);
  });
  // Elsewhere the daemon has looked before it sent.
  if (result.path == DataPath::kDeviceMemory && absl::IsDataLoss(result.status) &&
      result.usable < request.keys.size()) {
    TellDamage(request.keys[result.usable]);
  }
  return result;
}

void RemoteSpace::TellDamage(const BlockKey& key) {
  const auto deadline = Deadline::In(link_->options().control_deadline);
  v1::InspectRequest request;
  v1::InspectResponse response;
  request.set_key(ToBytes(key));
  request.set_drop_damaged(true);
  Call(DaemonLink::Work::kFinish, deadline, [&](const SpaceHandle& handle) {
    request.set_session_id(handle.session_id);
    request.set_space(handle.space);
    return link_->Unary("Inspect", request, deadline, &response);
  }).IgnoreError();
}

absl::StatusOr<uint64_t> RemoteSpace::Drop(std::span<const BlockKey> keys) {
  uint64_t dropped = 0;
  for (size_t begin = 0; begin < keys.size(); begin += kMaxKeys) {
    v1::DropRequest request;
    request.set_keys(ToBytes(keys.subspan(begin, std::min<size_t>(keys.size() - begin, kMaxKeys))));
    absl::StatusOr<uint64_t> some = Drop(request);
    if (!some.ok()) return some;
    dropped += *some;
  }
  return dropped;
}

absl::StatusOr<uint64_t> RemoteSpace::DropAll() {
  v1::DropRequest request;
  request.set_all(true);
  return Drop(request);
}

absl::StatusOr<uint64_t> RemoteSpace::Drop(const v1::DropRequest& what) {
  const auto deadline = Deadline::In(link_->options().control_deadline);
  v1::DropRequest request = what;
  v1::DropResponse response;
  absl::Status status = Call(DaemonLink::Work::kFinish, deadline, [&](const SpaceHandle& handle) {
    request.set_session_id(handle.session_id);
    request.set_space(handle.space);
    return link_->Unary("Drop", request, deadline, &response);
  });
  if (!status.ok()) return status;
  return response.dropped_blocks();
}

}  // namespace kvstow::client
