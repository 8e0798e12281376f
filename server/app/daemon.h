// A running kvstowd: wires codec, tiers, store, service, rpc server and metrics together, and takes
// them apart in the right order. In-process, so that tests start real daemons.
#pragma once

#include <memory>
#include <string>
#include <thread>

#include "absl/status/statusor.h"
#include "absl/synchronization/notification.h"
#include "server/app/config.h"

namespace kvstow {

class Daemon {
 public:
  // Binds and serves, or says why not. Nothing is left bound on failure.
  static absl::StatusOr<std::unique_ptr<Daemon>> Start(const DaemonConfig& config);
  ~Daemon();

  // As RpcServer::listeners().
  const std::vector<std::string>& listeners() const;
  // host:port, empty for none.
  std::string metrics_address() const;
  // The streams of KV events, as configured.
  const EventPublisher& events(size_t i) const;

  // Drains and stops; the destructor does it with no grace. Returns how many bulk calls were cut
  // off.
  size_t Shutdown(absl::Duration grace);

  // Tests reach the store through it, to damage what it holds.
  Tier& host_tier();

 private:
  struct Parts;
  explicit Daemon(std::unique_ptr<Parts> parts);
  std::unique_ptr<Parts> parts_;
};

}  // namespace kvstow
