#include "server/rpc/grpc_service.h"

#include <utility>
#include <vector>

#include "kvstow/v1/kvstow.grpc.pb.h"
#include "server/core/status_macros.h"
#include "server/rpc/caller.h"
#include "server/rpc/convert.h"
#include "server/rpc/get_reactor.h"
#include "server/rpc/grpc_status.h"
#include "server/rpc/put_reactor.h"
#include "server/rpc/session_reactor.h"
#include "server/rpc/watch_reactor.h"

namespace kvstow {
namespace {

using grpc::CallbackServerContext;
using grpc::ServerUnaryReactor;

using Base = v1::Kvstow::WithCallbackMethod_Session<
    v1::Kvstow::WithCallbackMethod_OpenSpace<v1::Kvstow::WithCallbackMethod_Lookup<
        v1::Kvstow::WithRawCallbackMethod_Put<v1::Kvstow::WithRawCallbackMethod_Get<
            v1::Kvstow::WithCallbackMethod_Prefetch<v1::Kvstow::WithCallbackMethod_Release<
                v1::Kvstow::WithCallbackMethod_Renew<v1::Kvstow::WithCallbackMethod_Drop<
                    v1::Kvstow::WithCallbackMethod_Watch<v1::Kvstow::WithCallbackMethod_Stats<
                        v1::Kvstow::WithCallbackMethod_Inspect<v1::Kvstow::Service>>>>>>>>>>>>;

std::vector<LeaseId> LeasesOf(const google::protobuf::RepeatedField<uint64_t>& in) {
  std::vector<LeaseId> out;
  for (uint64_t lease : in) out.push_back(static_cast<LeaseId>(lease));
  return out;
}

void TiersToProto(const StoreSnapshot& in, v1::StatsResponse* out) {
  for (const TierSnapshot& tier : in.tiers) {
    v1::TierStats* t = out->add_tiers();
    t->set_tier(ToProto(tier.tier));
    t->set_capacity_bytes(tier.usage.capacity_bytes);
    t->set_physical_bytes(tier.usage.used_bytes);
    t->set_record_bytes(tier.record_bytes);
    t->set_logical_bytes(tier.logical_bytes);
    t->set_blocks(tier.blocks);
  }
}

void SnapshotToProto(const ServiceSnapshot& in, v1::StatsResponse* out) {
  TiersToProto(in.store, out);
  out->set_visible_blocks(in.store.visible_blocks);
  out->set_incomplete_blocks(in.store.incomplete_blocks);
  out->set_pending_blocks(in.store.pending_blocks);
  out->set_leases(in.store.leases);
  out->set_oldest_lease_seconds(absl::ToDoubleSeconds(in.store.oldest_lease_age));
  for (const TenantSnapshot& tenant : in.store.tenants) {
    out->set_leased_bytes(out->leased_bytes() + tenant.leased_bytes);
  }
  out->set_sessions(in.sessions);
  out->set_queue_depth(in.queue_depth);
  out->set_inflight_bytes(in.inflight_bytes);
}

class GrpcService final : public Base {
 public:
  GrpcService(const RpcContext& rpc, FillStats fill_stats)
      : rpc_(rpc), fill_stats_(std::move(fill_stats)) {}

  grpc::ServerWriteReactor<v1::SessionEvent>* Session(CallbackServerContext* context,
                                                      const v1::SessionRequest* request) override {
    return StartSession(rpc_, context, request);
  }
  grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>* Put(
      CallbackServerContext* context) override {
    return StartPut(rpc_, context);
  }
  grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>* Get(
      CallbackServerContext* context) override {
    return StartGet(rpc_, context);
  }
  grpc::ServerWriteReactor<v1::WatchEvent>* Watch(CallbackServerContext* context,
                                                  const v1::WatchRequest* request) override {
    return StartWatch(rpc_, context, request);
  }

  ServerUnaryReactor* OpenSpace(CallbackServerContext* context, const v1::OpenSpaceRequest* request,
                                v1::OpenSpaceResponse* response) override {
    return Unary(context, "OpenSpace", [&](const Caller& caller) -> absl::Status {
      KVSTOW_ASSIGN_OR_RETURN(SessionId session, SessionIdFromBytes(request->session_id()));
      KVSTOW_ASSIGN_OR_RETURN(SpaceSpec spec, FromProto(request->spec()));
      KVSTOW_ASSIGN_OR_RETURN(Shard shard, FromProto(request->shard()));
      KVSTOW_ASSIGN_OR_RETURN(
          OpenedSpace opened,
          service().OpenSpace(caller.tenant, session, std::move(spec), std::move(shard)));
      response->set_space(opened.handle);
      response->set_fingerprint(BytesOf(opened.space->fingerprint()));
      const ServiceLimits& limits = service().limits();
      response->mutable_limits()->set_max_keys_per_lookup(limits.max_keys_per_lookup);
      response->mutable_limits()->set_max_blocks_per_put(limits.max_blocks_per_put);
      response->mutable_limits()->set_max_blocks_per_get(limits.max_blocks_per_get);
      response->mutable_limits()->set_max_chunk_bytes(kMaxChunkBytes);
      response->mutable_limits()->set_max_lease_ttl_ms(
          absl::ToInt64Milliseconds(limits.max_lease_ttl));
      for (const std::string& path : rpc_.data_paths) {
        response->mutable_capabilities()->add_data_paths(path);
      }
      response->mutable_capabilities()->set_codec_device(std::string(service().codec().device()));
      return absl::OkStatus();
    });
  }

  ServerUnaryReactor* Lookup(CallbackServerContext* context, const v1::LookupRequest* request,
                             v1::LookupResponse* response) override {
    return Unary(context, "Lookup", [&](const Caller& caller) -> absl::Status {
      KVSTOW_ASSIGN_OR_RETURN(SessionId session, SessionIdFromBytes(request->session_id()));
      KVSTOW_ASSIGN_OR_RETURN(auto keys, KeysFromBytes(request->keys()));
      KVSTOW_ASSIGN_OR_RETURN(
          LookupMatch match,
          service().Lookup(caller.tenant, session, request->space(), keys, request->request_id(),
                           TtlFromMillis(request->ttl_ms())));
      response->set_matched_blocks(static_cast<uint32_t>(match.tiers.size()));
      for (TierKind tier : match.tiers) response->add_tiers(ToProto(tier));
      response->set_lease(static_cast<uint64_t>(match.lease));
      response->set_lease_refused(match.lease_refused);
      return absl::OkStatus();
    });
  }

  ServerUnaryReactor* Prefetch(CallbackServerContext* context, const v1::PrefetchRequest* request,
                               v1::PrefetchResponse* response) override {
    return Unary(context, "Prefetch", [&](const Caller& caller) -> absl::Status {
      KVSTOW_ASSIGN_OR_RETURN(SessionId session, SessionIdFromBytes(request->session_id()));
      KVSTOW_ASSIGN_OR_RETURN(auto keys, KeysFromBytes(request->keys()));
      KVSTOW_ASSIGN_OR_RETURN(uint64_t asked,
                              service().Prefetch(caller.tenant, session, request->space(), keys));
      response->set_asked_records(asked);
      return absl::OkStatus();
    });
  }

  ServerUnaryReactor* Release(CallbackServerContext* context, const v1::ReleaseRequest* request,
                              v1::ReleaseResponse* response) override {
    return Unary(context, "Release", [&](const Caller& caller) -> absl::Status {
      KVSTOW_ASSIGN_OR_RETURN(SessionId session, SessionIdFromBytes(request->session_id()));
      KVSTOW_ASSIGN_OR_RETURN(uint32_t released, service().Release(caller.tenant, session,
                                                                   LeasesOf(request->leases())));
      response->set_released(released);
      return absl::OkStatus();
    });
  }

  ServerUnaryReactor* Renew(CallbackServerContext* context, const v1::RenewRequest* request,
                            v1::RenewResponse* response) override {
    return Unary(context, "Renew", [&](const Caller& caller) -> absl::Status {
      KVSTOW_ASSIGN_OR_RETURN(SessionId session, SessionIdFromBytes(request->session_id()));
      KVSTOW_ASSIGN_OR_RETURN(auto alive,
                              service().Renew(caller.tenant, session, LeasesOf(request->leases()),
                                              TtlFromMillis(request->ttl_ms())));
      for (bool a : alive) response->add_alive(a);
      return absl::OkStatus();
    });
  }

  ServerUnaryReactor* Drop(CallbackServerContext* context, const v1::DropRequest* request,
                           v1::DropResponse* response) override {
    return Unary(context, "Drop", [&](const Caller& caller) -> absl::Status {
      KVSTOW_ASSIGN_OR_RETURN(SessionId session, SessionIdFromBytes(request->session_id()));
      KVSTOW_ASSIGN_OR_RETURN(auto keys, KeysFromBytes(request->keys()));
      if (request->all() != keys.empty()) {
        return absl::InvalidArgumentError(
            "Drop takes either keys or all, not both and not neither");
      }
      KVSTOW_ASSIGN_OR_RETURN(uint64_t dropped,
                              request->all()
                                  ? service().DropAll(caller.tenant, session, request->space())
                                  : service().Drop(caller.tenant, session, request->space(), keys));
      response->set_dropped_blocks(dropped);
      return absl::OkStatus();
    });
  }

  ServerUnaryReactor* Stats(CallbackServerContext* context, const v1::StatsRequest*,
                            v1::StatsResponse* response) override {
    return Unary(context, "Stats", [&](const Caller& caller) -> absl::Status {
      if (!caller.admin) {
        return absl::PermissionDeniedError(
            "Stats tells of all tenants; ask with an identity whose tenant has admin: true");
      }
      response->set_server_version(rpc_.server_version);
      response->set_instance_id(rpc_.instance_id);
      response->set_codec_device(std::string(service().codec().device()));
      response->set_codec_description(std::string(service().codec().description()));
      SnapshotToProto(service().Snapshot(), response);
      fill_stats_(response);
      return absl::OkStatus();
    });
  }

  ServerUnaryReactor* Inspect(CallbackServerContext* context, const v1::InspectRequest* request,
                              v1::InspectResponse* response) override {
    return Unary(context, "Inspect", [&](const Caller& caller) -> absl::Status {
      KVSTOW_ASSIGN_OR_RETURN(SessionId session, SessionIdFromBytes(request->session_id()));
      KVSTOW_ASSIGN_OR_RETURN(BlockKey key, KeyFromBytes("key", request->key()));
      auto inspection =
          service().Inspect(caller.tenant, session, request->space(), key, request->drop_damaged());
      // A miss is an answer.
      if (absl::IsNotFound(inspection.status())) return absl::OkStatus();
      KVSTOW_RETURN_IF_ERROR(inspection.status());
      ToProto(*inspection, response);
      return absl::OkStatus();
    });
  }

 private:
  // Qualified: the generated base class has a Service of its own.
  kvstow::Service& service() const { return *rpc_.service; }

  // Runs `handle` with the caller, finishes with its status, records the call.
  template <typename F>
  ServerUnaryReactor* Unary(CallbackServerContext* context, absl::string_view method, F&& handle) {
    const absl::Time start = rpc_.clock->Now();
    const absl::StatusOr<Caller> caller = Admit(rpc_, *context);
    const absl::Status status = caller.ok() ? handle(*caller) : caller.status();
    CallRecord record = {method, "grpc", status.code(), rpc_.clock->Now() - start};
    if (caller.ok()) record.tenant = caller->tenant;
    rpc_.sink->OnCall(record);
    ServerUnaryReactor* reactor = context->DefaultReactor();
    reactor->Finish(ToGrpc(status));
    return reactor;
  }

  const RpcContext& rpc_;
  const FillStats fill_stats_;
};

}  // namespace

std::unique_ptr<grpc::Service> MakeGrpcService(const RpcContext& rpc, FillStats fill_stats) {
  return std::make_unique<GrpcService>(rpc, std::move(fill_stats));
}

}  // namespace kvstow
