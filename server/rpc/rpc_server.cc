#include "server/rpc/rpc_server.h"

#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "grpcpp/ext/proto_server_reflection_plugin.h"
#include "grpcpp/grpcpp.h"
#include "grpcpp/health_check_service_interface.h"
#include "server/core/status_macros.h"

namespace kvstow {
namespace {

// A chunk and its header, with room to spare; anything larger is refused by gRPC itself.
constexpr int kMaxMessageBytes = 2 << 20;
constexpr char kHealthService[] = "kvstow.v1.Kvstow";

// True when somebody answers at the socket.
bool IsLive(const std::string& path) {
  const int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd < 0) return false;
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::memcpy(address.sun_path, path.data(), path.size());
  const bool live = connect(fd, reinterpret_cast<sockaddr*>(&address), sizeof(address)) == 0;
  close(fd);
  return live;
}

std::vector<uint32_t> StreamLimits(const RpcServerOptions& options) {
  std::vector<uint32_t> out;
  for (const TenantCallLimits& tenant : options.tenants) out.push_back(tenant.streams);
  return out;
}

std::vector<double> RequestRates(const RpcServerOptions& options) {
  std::vector<double> out;
  for (const TenantCallLimits& tenant : options.tenants) out.push_back(tenant.requests_per_second);
  return out;
}

class WithoutReflection final : public grpc::ServerBuilderOption {
 public:
  void UpdateArguments(grpc::ChannelArguments*) override {}
  void UpdatePlugins(std::vector<std::unique_ptr<grpc::ServerBuilderPlugin>>* plugins) override {
    std::erase_if(*plugins, [](const auto& p) { return p->name() == "proto_server_reflection"; });
  }
};

}  // namespace

RpcServer::RpcServer(RpcServerOptions options, RpcContext rpc)
    : options_(std::move(options)),
      calls_(options_.max_bulk_streams, StreamLimits(options_)),
      rate_(RequestRates(options_), rpc.clock->Now()),
      rpc_(std::move(rpc)) {
  rpc_.calls = &calls_;
  rpc_.rate = &rate_;
}

RpcServer::~RpcServer() {
  if (server_ != nullptr) Shutdown(absl::ZeroDuration());
}

absl::StatusOr<std::unique_ptr<RpcServer>> RpcServer::Start(
    RpcServerOptions options, Service* service, const Clock* clock, CallSink* sink,
    const Tenants* tenants, std::string version, std::string instance_id, FillStats fill_stats) {
  RpcContext rpc;
  rpc.service = service;
  rpc.clock = clock;
  rpc.sink = sink;
  rpc.tenants = tenants;
  rpc.server_version = std::move(version);
  rpc.instance_id = std::move(instance_id);
  rpc.data_paths = options.data_paths;
  std::unique_ptr<RpcServer> server(new RpcServer(std::move(options), std::move(rpc)));
  KVSTOW_RETURN_IF_ERROR(server->Bind(std::move(fill_stats)));
  return server;
}

absl::Status RpcServer::ClaimUnixSocket() const {
  const std::string& path = options_.unix_socket;
  if (path.size() >= sizeof(sockaddr_un::sun_path)) {
    return absl::InvalidArgumentError(absl::StrCat("unix_socket ", path, " is longer than the ",
                                                   sizeof(sockaddr_un::sun_path) - 1,
                                                   " bytes that a socket's path may have"));
  }
  struct stat st;
  if (lstat(path.c_str(), &st) != 0) return absl::OkStatus();
  if (!S_ISSOCK(st.st_mode)) {
    return absl::InvalidArgumentError(
        absl::StrCat("unix_socket ", path, " exists and is no socket; choose another path"));
  }
  if (IsLive(path)) {
    return absl::UnavailableError(absl::StrCat(
        "unix_socket ", path, " is in use by a running process; stop it or choose another path"));
  }
  unlink(path.c_str());
  return absl::OkStatus();
}

ConnectionListener::Take RpcServer::TakeFor(grpc::ServerBuilder& builder,
                                            std::shared_ptr<grpc::ServerCredentials> credentials) {
  using Builder = grpc::ServerBuilder::experimental_type;
  std::shared_ptr<grpc::experimental::ExternalConnectionAcceptor> acceptor =
      builder.experimental().AddExternalConnectionAcceptor(Builder::ExternalConnectionType::FROM_FD,
                                                           std::move(credentials));
  return [acceptor](int connection) {
    grpc::experimental::ExternalConnectionAcceptor::NewConnectionParameters taken;
    taken.fd = connection;
    acceptor->HandleNewConnection(&taken);
  };
}

absl::Status RpcServer::Listen(grpc::ServerBuilder& builder) {
  if (!options_.unix_socket.empty()) {
    KVSTOW_RETURN_IF_ERROR(ClaimUnixSocket());
    KVSTOW_RETURN_IF_ERROR(listener_.ListenUnix(
        options_.unix_socket, TakeFor(builder, grpc::InsecureServerCredentials())));
    listeners_.push_back(absl::StrCat("unix:", options_.unix_socket));
  }
  if (!options_.tcp_address.empty()) {
    KVSTOW_ASSIGN_OR_RETURN(
        const int port, listener_.ListenTcp(options_.tcp_address,
                                            TakeFor(builder, ListenerCredentials(options_.tls))));
    const std::string host = options_.tcp_address.substr(0, options_.tcp_address.rfind(':'));
    listeners_.push_back(absl::StrCat(host, ":", port));
  }
  return absl::OkStatus();
}

absl::Status RpcServer::Bind(FillStats fill_stats) {
  grpc::EnableDefaultHealthCheckService(true);
  service_ = MakeGrpcService(rpc_, std::move(fill_stats));
  // Names the library, so that it is linked; by that alone it adds itself to every server.
  grpc::reflection::InitProtoReflectionServerBuilderPlugin();
  grpc::ServerBuilder builder;
  if (!options_.reflection) builder.SetOption(std::make_unique<WithoutReflection>());
  builder.RegisterService(service_.get());
  builder.SetMaxReceiveMessageSize(kMaxMessageBytes);
  // A peer that vanished without a FIN would keep its session, and with it its leases.
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIME_MS, 10'000);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 5'000);
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, 5'000);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  // A connection that says nothing, or not what HTTP/2 or TLS begin with, is nobody's for long; one
  // that once spoke and holds no call is asked to come back when it has something to say.
  builder.AddChannelArgument(
      GRPC_ARG_SERVER_HANDSHAKE_TIMEOUT_MS,
      static_cast<int>(absl::ToInt64Milliseconds(options_.handshake_timeout)));
  builder.AddChannelArgument(GRPC_ARG_MAX_CONNECTION_IDLE_MS, 600'000);
  KVSTOW_RETURN_IF_ERROR(Listen(builder));
  server_ = builder.BuildAndStart();
  if (server_ == nullptr) return absl::InternalError("gRPC does not start");
  listener_.Start();
  server_->GetHealthCheckService()->SetServingStatus(kHealthService, true);
  return absl::OkStatus();
}

void RpcServer::Maintain() { calls_.AbortStalled(rpc_.clock->Now() - options_.stall_timeout); }

void RpcServer::SetServing(const std::string& health_service, bool serving) {
  absl::MutexLock lock(&health_mu_);
  if (!draining_) server_->GetHealthCheckService()->SetServingStatus(health_service, serving);
}

size_t RpcServer::Shutdown(absl::Duration grace) {
  if (server_ == nullptr) return 0;
  {
    absl::MutexLock lock(&health_mu_);
    draining_ = true;
    server_->GetHealthCheckService()->SetServingStatus(false);
  }
  rpc_.service->StartDraining();
  calls_.StartDraining();
  calls_.WaitForBulk(absl::Now() + grace);
  const size_t cut_off = calls_.bulk_calls();
  calls_.AbortAll();
  listener_.Stop();
  // Everything was told to finish; the deadline is for clients that do not read.
  server_->Shutdown(std::chrono::system_clock::now() + std::chrono::seconds(1));
  server_->Wait();
  server_.reset();
  return cut_off;
}

}  // namespace kvstow
