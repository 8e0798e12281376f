// How the tool reaches the daemon, and how it tells what went wrong.
#pragma once

#include <grpcpp/channel.h>

#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "client/deadline.h"
#include "client/kvstow/client.h"
#include "client/session_keeper.h"
#include "client/tool/flag_set.h"
#include "kvstow/v1/kvstow.grpc.pb.h"

namespace kvstow::tool {

struct Connection {
  std::string target;  // $KVSTOW_TARGET, else the default socket
  std::string path = "auto";
  std::string coding = "daemon";
  ClientSecurity security;                      // $KVSTOW_TOKEN_FILE and the like set the defaults
  absl::Duration deadline = absl::Seconds(30);  // of each call

  Connection();
  // `paths`: what --path may name.
  void AddFlags(FlagSet* flags, std::vector<std::string> paths);
  // INVALID_ARGUMENT when it cannot work as asked for.
  absl::Status Check() const;

  // Calls wait for the daemon as long as each may take.
  ClientOptions Options() const;
  // With those. `prefill_rate` as in ClientOptions.
  std::unique_ptr<Client> MakeClient(double prefill_rate = 0) const;
  std::shared_ptr<grpc::Channel> MakeChannel() const;
  client::Deadline Deadline() const { return client::Deadline::In(deadline); }
};

// A session and an open space for calls that the worker library does not offer.
class SpaceSession {
 public:
  static absl::StatusOr<std::unique_ptr<SpaceSession>> Open(const Connection& connection,
                                                            const SpaceSpec& spec,
                                                            const Shard& shard);

  v1::Kvstow::Stub& stub() { return stub_; }
  const std::string& session_id() const { return session_id_; }
  uint64_t space() const { return space_; }

 private:
  explicit SpaceSession(std::shared_ptr<grpc::Channel> channel);
  absl::Status OpenSpace(const client::Deadline& deadline, const SpaceSpec& spec,
                         const Shard& shard);

  v1::Kvstow::Stub stub_;
  client::SessionKeeper keeper_;
  std::string session_id_;
  uint64_t space_ = 0;
};

// Prints what failed and what to do about it; returns the exit code.
int Complain(const absl::Status& status, const Connection& connection);

}  // namespace kvstow::tool
