#include "client/testing/fake_daemon.h"

#include <grpc/grpc.h>
#include <grpcpp/health_check_service_interface.h>
#include <grpcpp/security/server_credentials.h>
#include <grpcpp/server_builder.h>
#include <stdlib.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>

#include "client/convert.h"

namespace kvstow::client::testing {
namespace {

using grpc::Status;
using grpc::StatusCode;

constexpr absl::Duration kPoll = absl::Milliseconds(5);

}  // namespace

v1::SpaceSpec SmallSpec() {
  v1::SpaceSpec spec;
  spec.mutable_model()->set_name("test/model");
  v1::LayerGroup* group = spec.add_groups();
  group->add_layers(0);
  group->add_layers(1);
  group->set_kind(v1::LayerGroup::KIND_KV);
  group->set_kv_heads(2);
  group->set_k_dim(64);
  group->set_v_dim(64);
  group->set_dtype(v1::DTYPE_FP16);
  spec.set_block_tokens(128);
  spec.mutable_codec()->set_codec(v1::CODEC_RAW);
  return spec;
}

class FakeDaemon::Service : public v1::Kvstow::Service {
 public:
  explicit Service(FakeDaemon* daemon) : d_(*daemon) {}

  Status Session(grpc::ServerContext* context, const v1::SessionRequest*,
                 grpc::ServerWriter<v1::SessionEvent>* writer) override {
    if (d_.hooks_.session) return d_.hooks_.session(context);
    writer->Write(FirstEvent());
    bool told = false;
    while (!context->IsCancelled()) {
      absl::MutexLock lock(&d_.mu_);
      const auto news = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(d_.mu_) {
        return d_.stopping_ || (d_.draining_ && !told);
      };
      d_.mu_.AwaitWithTimeout(absl::Condition(&news), kPoll);
      if (d_.stopping_) break;
      if (!d_.draining_ || told) continue;
      v1::SessionEvent event;
      event.set_draining(true);
      told = writer->Write(event);
    }
    return Status::OK;
  }

  Status OpenSpace(grpc::ServerContext* context, const v1::OpenSpaceRequest* request,
                   v1::OpenSpaceResponse* response) override {
    if (d_.hooks_.open_space) return d_.hooks_.open_space(context);
    absl::MutexLock lock(&d_.mu_);
    if (!KnownSession(request->session_id())) return Unknown("session");
    ++d_.opened_;
    response->set_space(d_.handle_);
    response->set_fingerprint(ToBytes(FingerprintOf(FromProto(request->spec()).value())));
    *response->mutable_limits() = d_.limits;
    return Status::OK;
  }

  Status Lookup(grpc::ServerContext* context, const v1::LookupRequest* request,
                v1::LookupResponse* response) override {
    {
      absl::MutexLock lock(&d_.mu_);
      ++d_.lookups_;
    }
    if (d_.hooks_.lookup) return d_.hooks_.lookup(context);
    absl::MutexLock lock(&d_.mu_);
    if (!Known(request->session_id(), request->space())) return Unknown("space");
    const std::string& keys = request->keys();
    uint32_t matched = 0;
    while (matched * 32 < keys.size() && d_.store_.contains(keys.substr(matched * 32, 32))) {
      response->add_tiers(v1::TIER_HOST);
      ++matched;
    }
    response->set_matched_blocks(matched);
    if (matched > 0 && request->ttl_ms() > 0) response->set_lease(77);
    return Status::OK;
  }

  Status Put(grpc::ServerContext* context, PutStream* stream) override {
    if (d_.hooks_.put) return d_.hooks_.put(context, stream);
    v1::PutRequest message;
    if (!stream->Read(&message)) return Status(StatusCode::INVALID_ARGUMENT, "no announce");
    const v1::PutRequest::Announce announce = message.announce();
    std::vector<bool> sent;
    {
      absl::MutexLock lock(&d_.mu_);
      if (!Known(announce.session_id(), announce.space())) return Unknown("space");
      d_.put_messages_ = {message};
      v1::PutResponse answers = Answer(announce, &sent);
      stream->Write(answers);
    }
    std::vector<Planes> blocks(announce.blocks_size());
    while (stream->Read(&message) && !message.has_commit()) Take(message, &blocks);
    if (!message.has_commit()) return Status(StatusCode::CANCELLED, "no commit");
    stream->Write(Commit(announce, sent, std::move(blocks)));
    return Status::OK;
  }

  Status Get(grpc::ServerContext* context, GetWriter* stream) override {
    v1::GetRequest message;
    if (!stream->Read(&message)) return Status(StatusCode::CANCELLED, "no open");
    const v1::GetRequest::Open& request = message.open();
    if (d_.hooks_.get) return d_.hooks_.get(request, context, stream);
    std::vector<Planes> blocks;
    v1::GetResponse response;
    {
      absl::MutexLock lock(&d_.mu_);
      if (!Known(request.session_id(), request.space())) return Unknown("space");
      for (size_t i = 0; i < request.keys().size(); i += 32) {
        auto it = d_.store_.find(request.keys().substr(i, 32));
        response.mutable_answers()->add_answers()->set_found(it != d_.store_.end());
        blocks.push_back(it != d_.store_.end() ? it->second : Planes());
      }
    }
    stream->Write(response);
    SendPlanes(request, blocks, stream);
    return Status::OK;
  }

  Status Release(grpc::ServerContext*, const v1::ReleaseRequest* request,
                 v1::ReleaseResponse* response) override {
    response->set_released(request->leases_size());
    return Status::OK;
  }
  Status Renew(grpc::ServerContext*, const v1::RenewRequest* request,
               v1::RenewResponse* response) override {
    for (uint64_t lease : request->leases()) response->add_alive(lease == 77);
    return Status::OK;
  }
  Status Drop(grpc::ServerContext*, const v1::DropRequest* request,
              v1::DropResponse* response) override {
    absl::MutexLock lock(&d_.mu_);
    if (!Known(request->session_id(), request->space())) return Unknown("space");
    size_t dropped = request->all() ? d_.store_.size() : 0;
    if (request->all()) d_.store_.clear();
    for (size_t i = 0; i < request->keys().size(); i += 32) {
      dropped += d_.store_.erase(request->keys().substr(i, 32));
    }
    response->set_dropped_blocks(dropped);
    return Status::OK;
  }

 private:
  static Status Unknown(const std::string& what) {
    return Status(StatusCode::FAILED_PRECONDITION, "unknown " + what);
  }

  v1::SessionEvent FirstEvent() {
    absl::MutexLock lock(&d_.mu_);
    std::string id = std::to_string(++d_.sessions_);
    v1::SessionEvent event;
    event.set_session_id(std::string(16 - id.size(), '0') + id);
    event.set_server_version("0.0.1");
    event.set_instance_id("instance-" + std::to_string(d_.instance_));
    return event;
  }

  bool KnownSession(const std::string& id) ABSL_EXCLUSIVE_LOCKS_REQUIRED(d_.mu_) {
    return id.size() == 16 && std::stoi(id) > d_.known_from_session_;
  }
  bool Known(const std::string& id, uint64_t space) ABSL_EXCLUSIVE_LOCKS_REQUIRED(d_.mu_) {
    return KnownSession(id) && space == d_.handle_ && space != 0;
  }

  v1::PutResponse Answer(const v1::PutRequest::Announce& announce, std::vector<bool>* sent)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(d_.mu_) {
    v1::PutResponse response;
    for (const v1::BlockIntent& intent : announce.blocks()) {
      const bool exists = d_.store_.contains(intent.key());
      sent->push_back(!exists);
      response.mutable_answers()->add_answers()->set_kind(exists ? v1::PutResponse::Answer::EXISTS
                                                                 : v1::PutResponse::Answer::SEND);
    }
    return response;
  }

  void Take(const v1::PutRequest& message, std::vector<Planes>* blocks) {
    size_t at = 0;
    for (const v1::Segment& s : message.chunk().segments()) {
      (*blocks)[s.block()][{s.layer(), s.kind()}] += message.chunk().data().substr(at, s.length());
      at += s.length();
    }
    absl::MutexLock lock(&d_.mu_);
    d_.put_messages_.push_back(message);
  }

  v1::PutResponse Commit(const v1::PutRequest::Announce& announce, const std::vector<bool>& sent,
                         std::vector<Planes> blocks) {
    absl::MutexLock lock(&d_.mu_);
    v1::PutResponse response;
    for (int b = 0; b < announce.blocks_size(); ++b) {
      v1::PutResponse::Result* result = response.mutable_results()->add_results();
      result->set_stored(sent[b]);
      if (!sent[b]) continue;
      result->set_record_bytes(1000);
      d_.store_[announce.blocks(b).key()] = std::move(blocks[b]);
    }
    return response;
  }

  void SendPlanes(const v1::GetRequest::Open& request, const std::vector<Planes>& blocks,
                  GetWriter* writer) {
    v1::GetResponse response;
    for (uint32_t layer = 0; layer < 2; ++layer) {
      if (request.layers_size() > 0 && std::find(request.layers().begin(), request.layers().end(),
                                                 layer) == request.layers().end()) {
        continue;
      }
      for (int kind = 0; kind < 2; ++kind) {
        for (size_t b = 0; b < blocks.size(); ++b) {
          auto plane = blocks[b].find({layer, kind});
          if (plane == blocks[b].end()) continue;
          response.Clear();
          v1::Segment* s = response.mutable_chunk()->add_segments();
          s->set_layer(layer);
          s->set_kind(static_cast<v1::PlaneKind>(kind));
          s->set_block(b);
          s->set_length(plane->second.size());
          s->set_plane_bytes(plane->second.size());
          response.mutable_chunk()->set_data(plane->second);
          writer->Write(response);
        }
      }
    }
  }

  FakeDaemon& d_;
};

FakeDaemon::FakeDaemon() {
  char folder[] = "/tmp/kvfXXXXXX";
  folder_ = mkdtemp(folder);
  Start();
}

FakeDaemon::~FakeDaemon() {
  Stop();
  unlink((folder_ + "/s").c_str());
  rmdir(folder_.c_str());
}

void FakeDaemon::Start() {
  {
    absl::MutexLock lock(&mu_);
    ++instance_;
    known_from_session_ = sessions_;
    stopping_ = draining_ = false;
    store_.clear();
  }
  service_ = std::make_unique<Service>(this);
  // The last user of gRPC in a process may wait ten seconds for it to end; so it does not end.
  static const bool kept = (grpc_init(), true);
  static_cast<void>(kept);
  grpc::EnableDefaultHealthCheckService(true);
  grpc::ServerBuilder builder;
  builder.AddListeningPort(target(), grpc::InsecureServerCredentials());
  // Threads enough to poll while handlers stall.
  builder.SetSyncServerOption(grpc::ServerBuilder::MIN_POLLERS, 2);
  builder.SetSyncServerOption(grpc::ServerBuilder::MAX_POLLERS, 8);
  builder.RegisterService(service_.get());
  server_ = builder.BuildAndStart();
}

void FakeDaemon::Stop() {
  if (!server_) return;
  {
    absl::MutexLock lock(&mu_);
    stopping_ = true;
  }
  server_->Shutdown(std::chrono::system_clock::now());
  server_.reset();
}

grpc::Status FakeDaemon::Stall(grpc::ServerContext* context) {
  absl::MutexLock lock(&mu_);
  const auto over = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) { return stopping_; };
  while (!context->IsCancelled() && !mu_.AwaitWithTimeout(absl::Condition(&over), kPoll)) {
  }
  return grpc::Status(grpc::StatusCode::CANCELLED, "stalled");
}

void FakeDaemon::Drain() {
  absl::MutexLock lock(&mu_);
  draining_ = true;
}

void FakeDaemon::ForgetSpaces() {
  absl::MutexLock lock(&mu_);
  handle_ += 100;
}

void FakeDaemon::ForgetSessions() {
  absl::MutexLock lock(&mu_);
  known_from_session_ = sessions_;
}

int FakeDaemon::opened_spaces() const {
  absl::MutexLock lock(&mu_);
  return opened_;
}

int FakeDaemon::lookups() const {
  absl::MutexLock lock(&mu_);
  return lookups_;
}

std::vector<v1::PutRequest> FakeDaemon::put_messages() const {
  absl::MutexLock lock(&mu_);
  return put_messages_;
}

bool FakeDaemon::Has(const std::string& key) const {
  absl::MutexLock lock(&mu_);
  return store_.contains(key);
}

}  // namespace kvstow::client::testing
