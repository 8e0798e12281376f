// Serves metrics over HTTP at /metrics, on a port of its own.
#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "prometheus/collectable.h"

namespace prometheus {
class Exposer;
}

namespace kvstow {

struct MetricsListenerOptions {
  std::string address;         // host:port; port 0 takes a free one. Empty: no listener
  std::string certificate;     // PEM: a certificate chain and its key. Empty: in clear
  std::string user, password;  // basic authentication; an empty user: none
};

class MetricsListener {
 public:
  // UNAVAILABLE when it cannot be bound or the certificate cannot be used.
  static absl::StatusOr<std::unique_ptr<MetricsListener>> Start(
      const MetricsListenerOptions& options, std::shared_ptr<prometheus::Collectable> metrics);
  ~MetricsListener();

  // host:port with the port that was taken.
  const std::string& address() const { return address_; }

 private:
  MetricsListener() = default;
  std::string address_;
  std::shared_ptr<prometheus::Collectable> metrics_;
  std::unique_ptr<prometheus::Exposer> exposer_;
};

}  // namespace kvstow
