// A scripted kvstow daemon on a Unix socket in a temporary folder, for tests. By default it
// behaves: it keeps raw planes in memory and serves them back. Hooks make any single call
// misbehave.
//
// Thread-safe, except that hooks are set while no call is under way.
#pragma once

#include <grpcpp/server.h>

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "kvstow/v1/kvstow.grpc.pb.h"

namespace kvstow::client::testing {

// Small planes: 2 layers, 2 heads, 128 tokens, 64 dimensions, FP16, raw.
v1::SpaceSpec SmallSpec();

class FakeDaemon {
 public:
  using GetWriter = grpc::ServerReaderWriter<v1::GetResponse, v1::GetRequest>;
  using PutStream = grpc::ServerReaderWriter<v1::PutResponse, v1::PutRequest>;
  using Planes = std::map<std::pair<uint32_t, int>, std::string>;  // by layer and kind

  // What to do instead of behaving; unset hooks behave.
  struct Hooks {
    std::function<grpc::Status(grpc::ServerContext*)> session, open_space, lookup;
    std::function<grpc::Status(const v1::GetRequest::Open&, grpc::ServerContext*, GetWriter*)> get;
    std::function<grpc::Status(grpc::ServerContext*, PutStream*)> put;
  };

  FakeDaemon();  // starts it
  ~FakeDaemon();

  std::string target() const { return "unix:" + folder_ + "/s"; }
  Hooks& hooks() { return hooks_; }
  // A hook that answers nothing until the client gives up or the daemon stops.
  grpc::Status Stall(grpc::ServerContext* context);

  // As kill and start: connections break, the store, sessions and handles are gone, and the
  // instance is another.
  void Stop();
  void Start();
  // Sessions are told that the daemon drains.
  void Drain() ABSL_LOCKS_EXCLUDED(mu_);
  // Forgets handles, or sessions and handles, without breaking connections.
  void ForgetSpaces() ABSL_LOCKS_EXCLUDED(mu_);
  void ForgetSessions() ABSL_LOCKS_EXCLUDED(mu_);

  int opened_spaces() const ABSL_LOCKS_EXCLUDED(mu_);
  int lookups() const ABSL_LOCKS_EXCLUDED(mu_);
  std::vector<v1::PutRequest> put_messages() const ABSL_LOCKS_EXCLUDED(mu_);
  bool Has(const std::string& key) const ABSL_LOCKS_EXCLUDED(mu_);

  v1::Limits limits;

 private:
  class Service;

  std::string folder_;
  Hooks hooks_;
  std::unique_ptr<Service> service_;
  std::unique_ptr<grpc::Server> server_;

  mutable absl::Mutex mu_;
  int instance_ ABSL_GUARDED_BY(mu_) = 0;
  int sessions_ ABSL_GUARDED_BY(mu_) = 0;
  int known_from_session_ ABSL_GUARDED_BY(mu_) = 0;
  uint64_t handle_ ABSL_GUARDED_BY(mu_) = 1;
  int opened_ ABSL_GUARDED_BY(mu_) = 0;
  int lookups_ ABSL_GUARDED_BY(mu_) = 0;
  bool stopping_ ABSL_GUARDED_BY(mu_) = false;
  bool draining_ ABSL_GUARDED_BY(mu_) = false;
  std::map<std::string, Planes> store_ ABSL_GUARDED_BY(mu_);
  std::vector<v1::PutRequest> put_messages_ ABSL_GUARDED_BY(mu_);
};

}  // namespace kvstow::client::testing
