#include "client/tool/doctor/daemon.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <random>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "client/kvstow/kvstow.h"
#include "client/outcome.h"
#include "client/session_call.h"
#include "client/tool/format.h"
#include "client/tool/health_call.h"

namespace kvstow::tool {
namespace {

using SteadyClock = std::chrono::steady_clock;

// Two layers of what a small model has; kept raw, so that it comes back bit for bit.
SpaceSpec ProbeSpec() {
  SpaceSpec spec;
  spec.model = {.name = "kvstow doctor", .revision = "", .weights_digest = ""};
  LayerGroup group;
  group.layers = {0, 1};
  group.kv_heads = 4;
  group.k_dim = group.v_dim = 128;
  spec.groups = {group};
  spec.codec.codec = CodecId::kRaw;
  return spec;
}

// Advice for calls that ended with an error.
std::string AdviceFor(const absl::Status& status) {
  switch (status.code()) {
    case absl::StatusCode::kUnauthenticated:
      return "show who this is: --token_file, or --tls_certificate and --tls_key; over the Unix "
             "socket kvstowd may name a unix_tenant (docs/operations.md, Security)";
    case absl::StatusCode::kPermissionDenied:
      return "this tenant may not; see kvstowd's configuration";
    case absl::StatusCode::kDeadlineExceeded:
      return "the daemon is stopped or gets no processor: its CPU request against `threads`";
    case absl::StatusCode::kResourceExhausted:
      return "a limit is reached: `limits`, or the tenant's `quota`, in kvstowd's configuration";
    case absl::StatusCode::kUnimplemented:
      return "what answers is no kvstowd, or a very old one: check the target";
    default:
      return "see kvstowd's log";
  }
}

std::string AdviceForRefusal(const std::string& refusal) {
  if (refusal == "full") return "everything is leased or in use: a larger host_tier";
  if (refusal == "quota")
    return "the tenant's quota is used up by blocks that are leased or in use";
  if (refusal == "behind") return "more comes than is encoded: more threads, or fewer workers";
  if (refusal == "draining") return "the daemon is ending; try its successor";
  return "docs/operations.md, KvstowRefusesBlocks";
}

std::string AdviceForPath(const PathStatus& path) {
  const absl::string_view why = path.status.message();
  if (absl::StrContains(why, "nobody offers")) {
    return "the daemon shares no memory: set `staging`, and mount the folder of its socket whole";
  }
  if (absl::StrContains(why, "may not share")) {
    return "add this container's user to the tenant's `user`s in kvstowd's configuration";
  }
  if (absl::IsResourceExhausted(path.status)) {
    return "raise `staging.total`, 128 MiB a worker (`staging.per_session`), and the daemon's "
           "memory limit with it";
  }
  return AdviceFor(path.status);
}

std::string Took(SteadyClock::time_point since) {
  return Millis(absl::FromChrono(SteadyClock::now() - since));
}

// One block and where it comes back to.
class Probe {
 public:
  explicit Probe(const Connection& connection)
      : client_(connection.MakeClient()), space_(client_->OpenSpace(ProbeSpec()).value()) {
    std::mt19937_64 random(std::random_device{}());
    std::vector<uint32_t> tokens(space_->layout().spec().block_tokens);
    for (uint32_t& token : tokens) token = static_cast<uint32_t>(random());
    keys_ = space_->Keys(tokens);
    for (const PlaneSpec& plane : space_->layout().planes()) {
      sent_.emplace_back(plane.raw_bytes);
      for (std::byte& byte : sent_.back()) byte = static_cast<std::byte>(random());
    }
    got_ = std::vector<std::vector<std::byte>>(sent_.size());
  }
  // Leaves nothing behind.
  ~Probe() { space_->Drop(keys_).IgnoreError(); }

  Client& client() { return *client_; }
  Match Lookup() { return space_->Lookup(keys_, {.ttl = absl::ZeroDuration()}); }

  PutBlocksResult Put() {
    PutBlocksRequest request;
    request.keys = keys_;
    request.source = [this](const PlaneSpec& plane, size_t) {
      return std::span<const std::byte>(sent_[IndexOf(plane)]);
    };
    return space_->PutBlocks(request);
  }
  GetBlocksResult Get() {
    GetBlocksRequest request;
    request.keys = keys_;
    request.destination = [this](const PlaneSpec& plane, size_t) {
      got_[IndexOf(plane)].assign(plane.raw_bytes, std::byte{0});
      return std::span<std::byte>(got_[IndexOf(plane)]);
    };
    return space_->GetBlocks(request);
  }
  bool came_back() const { return got_ == sent_; }

 private:
  size_t IndexOf(const PlaneSpec& plane) const {
    return static_cast<size_t>(&plane - space_->layout().planes().data());
  }

  const std::unique_ptr<Client> client_;
  const std::shared_ptr<Space> space_;
  std::vector<BlockKey> keys_;
  std::vector<std::vector<std::byte>> sent_, got_;
};

// There and back on one path.
void RoundTrip(Connection connection, const std::string& path, Checkup* checkup) {
  const std::string check = absl::StrCat("path ", path);
  connection.path = path;
  Probe probe(connection);
  auto start = SteadyClock::now();
  const PutBlocksResult put = probe.Put();
  const std::string put_took = Took(start);
  if (put.stored != 1) {
    const std::string& refusal = put.blocks.empty() ? "" : put.blocks.front().refusal;
    if (!refusal.empty()) {
      checkup->Warn(check, absl::StrCat("the daemon declines a block: ", refusal),
                    AdviceForRefusal(refusal));
    } else {
      checkup->Fail(check, absl::StrCat("nothing stored: ", put.status.ToString()),
                    AdviceFor(put.status));
    }
    return;
  }
  start = SteadyClock::now();
  const GetBlocksResult get = probe.Get();
  const std::string get_took = Took(start);
  if (get.usable != 1) {
    checkup->Fail(check, absl::StrCat("stored, but not given back: ", get.status.ToString()),
                  AdviceFor(get.status));
  } else if (!probe.came_back()) {
    checkup->Fail(check, "the bytes that came back are not those that went",
                  "take this machine out: its memory, or the program, is not to be trusted");
  } else {
    checkup->Ok(check, absl::StrCat(Bytes(put.sent_bytes), " there in ", put_took, " and back in ",
                                    get_took, ", bit for bit"));
  }
}

// A lookup has 50 ms by default: its worker is waiting to begin.
void CheckLookups(Probe& probe, Checkup* checkup) {
  constexpr int kLookups = 21;
  std::vector<absl::Duration> took;
  probe.Lookup();  // opens session and space
  for (int i = 0; i < kLookups; ++i) {
    const auto start = SteadyClock::now();
    const Match match = probe.Lookup();
    if (!match.status.ok()) {
      checkup->Fail("lookup", match.status.ToString(), AdviceFor(match.status));
      return;
    }
    took.push_back(absl::FromChrono(SteadyClock::now() - start));
  }
  std::sort(took.begin(), took.end());
  const absl::Duration median = took[took.size() / 2], longest = took.back();
  const std::string found =
      absl::StrCat(Millis(median), " there and back, ", Millis(longest), " at most of ", kLookups);
  const absl::Duration deadline = ClientOptions().lookup_deadline;
  if (longest > deadline / 2) {
    checkup->Warn("lookup", found,
                  absl::StrCat("a client gives a lookup ", absl::FormatDuration(deadline),
                               ": more CPU for daemon and worker, or a longer lookup_deadline"));
  } else {
    checkup->Ok("lookup", found);
  }
}

}  // namespace

bool CheckHealth(const Connection& connection, Checkup* checkup) {
  const absl::StatusOr<bool> serving = AskHealth(connection, "");
  if (!serving.ok()) {
    checkup->Fail("health", serving.status().ToString(), AdviceFor(serving.status()));
    return false;
  }
  if (!*serving) {
    checkup->Fail("health", "not serving: the daemon is ending",
                  "wait for its successor; workers recompute meanwhile");
    return false;
  }
  const absl::StatusOr<bool> gpu = AskHealth(connection, "kvstow.gpu");
  if (gpu.ok() && !*gpu) {
    checkup->Warn("health", "serving, but its GPU is lost: the CPU goes on, slowly",
                  "restart the pod (docs/operations.md, KvstowGpuLost)");
  } else {
    checkup->Ok("health", gpu.ok() ? "serving, with a GPU" : "serving, on the CPU");
  }
  return true;
}

bool CheckSession(const Connection& connection, Checkup* checkup) {
  client::SessionCall call(connection.MakeChannel(), "kvstow doctor", 0);
  v1::SessionEvent hello;
  const auto next = call.Wait(connection.deadline, &hello);
  if (next != client::SessionCall::Next::kEvent) {
    absl::Status why = call.Finish();
    if (next == client::SessionCall::Next::kTimeout) {
      why = absl::DeadlineExceededError("connected, but no session within the deadline");
    }
    checkup->Fail("session", why.ToString(), AdviceFor(why));
    return false;
  }
  checkup->Ok("session", absl::StrCat("opened; the daemon is instance ", hello.instance_id()));
  if (hello.server_version() == kvstow_version()) {
    checkup->Ok("version", absl::StrCat("kvstowd and this tool are ", hello.server_version()));
  } else {
    checkup->Warn(
        "version",
        absl::StrCat("kvstowd is ", hello.server_version(), ", this tool ", kvstow_version()),
        "fine during an upgrade, both speak kvstow.v1; else give both containers one "
        "image");
  }
  return true;
}

DaemonNeeds CheckStore(const Connection& connection, Checkup* checkup) {
  DaemonNeeds needs;
  v1::Kvstow::Stub stub(connection.MakeChannel());
  v1::StatsResponse stats;
  grpc::ClientContext context;
  connection.Deadline().ApplyTo(&context);
  const absl::Status status = client::FromGrpc(stub.Stats(&context, {}, &stats));
  if (absl::IsPermissionDenied(status)) {
    checkup->Skip("store", "this tenant is no admin, and is not told of tiers");
    return needs;
  }
  if (!status.ok()) {
    checkup->Fail("store", status.ToString(), AdviceFor(status));
    return needs;
  }
  std::string found =
      absl::StrCat("codec on ", stats.codec_device(), " (", stats.codec_description(), ")");
  for (const v1::TierStats& tier : stats.tiers()) {
    const bool host = tier.tier() == v1::TIER_HOST;
    if (host) needs.host_tier = tier.capacity_bytes();
    absl::StrAppend(&found, ", ", host ? "host" : "gpu", " tier ", Bytes(tier.physical_bytes()),
                    " of ", Bytes(tier.capacity_bytes()));
  }
  needs.uses_gpu = stats.codec_device() == "cuda";
  checkup->Ok("store", found);
  return needs;
}

std::vector<PathStatus> PathsOf(const Client::Health& health) {
  return {
      {DataPath::kSharedMemory, health.no_shared_memory},
      {DataPath::kGrpc, absl::OkStatus()},
  };
}

void CheckPaths(const Connection& connection, bool local, Checkup* checkup) {
  Probe probe(connection);
  CheckLookups(probe, checkup);  // which also waits for what the session brings
  for (const PathStatus& path : PathsOf(probe.client().health())) {
    const std::string name(Name(path.path));
    if (path.status.ok()) {
      RoundTrip(connection, name, checkup);
    } else if (!local) {
      checkup->Skip(absl::StrCat("path ", name),
                    "only with a daemon on this host, over its socket");
    } else {
      checkup->Warn(absl::StrCat("path ", name),
                    absl::StrCat("not available: ", path.status.message()), AdviceForPath(path));
    }
  }
}

}  // namespace kvstow::tool
