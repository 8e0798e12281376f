// The gRPC server: listeners, the kvstow service, health, and a shutdown that ends by its deadline.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "server/auth/tenants.h"
#include "server/rpc/connection_listener.h"
#include "server/rpc/grpc_service.h"
#include "server/rpc/listener_credentials.h"
#include "server/rpc/rpc_context.h"

namespace grpc {
class Server;
class ServerBuilder;
class ServerCredentials;
}  // namespace grpc

namespace kvstow {

// What one tenant may ask for; 0 for no limit of its own.
struct TenantCallLimits {
  uint32_t streams = 0;  // Puts, Gets and Watches at a time
  double requests_per_second = 0;
};

struct RpcServerOptions {
  std::string unix_socket;  // path; empty for none. A stale one is replaced, a live one refused
  std::string tcp_address;  // "127.0.0.1:0"; empty for none
  TlsFiles tls;             // of TCP; without it TCP is in clear: whoever sets that has said so
  uint32_t max_bulk_streams = 64;
  absl::Duration stall_timeout =
      absl::Seconds(30);  // a bulk call that moves next to nothing for so long ends
  // A connection that has not begun to speak HTTP/2 (or TLS) by then ends.
  absl::Duration handshake_timeout = absl::Seconds(10);
  std::vector<TenantCallLimits> tenants;  // by TenantId
  bool reflection = false;
  std::vector<std::string> data_paths = {"grpc"};  // told to clients
};

class RpcServer {
 public:
  // INVALID_ARGUMENT for addresses that cannot be, UNAVAILABLE when they cannot be bound.
  // All pointers outlive the server.
  static absl::StatusOr<std::unique_ptr<RpcServer>> Start(
      RpcServerOptions options, Service* service, const Clock* clock, CallSink* sink,
      const Tenants* tenants, std::string version, std::string instance_id, FillStats fill_stats);
  ~RpcServer();

  // As clients name them: "unix:/path", "127.0.0.1:50123".
  const std::vector<std::string>& listeners() const { return listeners_; }
  size_t bulk_calls() const { return calls_.bulk_calls(); }
  // Connections closed for want of file descriptors.
  uint64_t refused_connections() const { return listener_.refused(); }

  // Ends calls that stopped moving. Every second or so.
  void Maintain();

  // A health service besides the daemon's own: SERVING or not, unknown until it is first set.
  // Ignored once the server shuts down.
  void SetServing(const std::string& health_service, bool serving);

  // NOT_SERVING, no new calls, running bulk calls may finish until the deadline, then everything is
  // ended. Returns how many bulk calls were cut off. Idempotent.
  size_t Shutdown(absl::Duration grace);

 private:
  RpcServer(RpcServerOptions options, RpcContext rpc);
  absl::Status Bind(FillStats fill_stats);
  absl::Status Listen(grpc::ServerBuilder& builder);
  // To be called with each connection; what it belongs to must outlive the listener.
  ConnectionListener::Take TakeFor(grpc::ServerBuilder& builder,
                                   std::shared_ptr<grpc::ServerCredentials> credentials);
  absl::Status ClaimUnixSocket() const;

  const RpcServerOptions options_;
  CallRegistry calls_;
  RequestRate rate_;
  RpcContext rpc_;
  std::unique_ptr<grpc::Service> service_;
  std::unique_ptr<grpc::Server> server_;
  ConnectionListener listener_;  // hands its connections to server_
  absl::Mutex health_mu_;
  bool draining_ ABSL_GUARDED_BY(health_mu_) = false;
  std::vector<std::string> listeners_;
};

}  // namespace kvstow
