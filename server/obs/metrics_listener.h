// Serves metrics over HTTP or HTTPS at /metrics, on a port of its own.
//
// On cpp-httplib rather than prometheus-cpp's own server: Debian 12's civetweb crashes when it is
// to speak TLS with OpenSSL 3, and takes a second to stop.
#pragma once

#include <memory>
#include <string>
#include <thread>

#include "absl/status/statusor.h"
#include "prometheus/collectable.h"

namespace httplib {
class Server;
}

namespace kvstow {

struct MetricsListenerOptions {
  std::string address = {};              // host:port; port 0 takes a free one. Empty: no listener
  std::string certificate = {};          // PEM: a certificate chain and its key. Empty: in clear
  std::string user = {}, password = {};  // basic authentication; an empty user: none
};

class MetricsListener {
 public:
  // INVALID_ARGUMENT for an address that cannot be, UNAVAILABLE when it cannot be bound. The
  // certificate is read at each connection, so that it can be renewed.
  static absl::StatusOr<std::unique_ptr<MetricsListener>> Start(
      const MetricsListenerOptions& options, std::shared_ptr<prometheus::Collectable> metrics);
  // Waits for scrapes that are being answered, each for some seconds at most.
  ~MetricsListener();

  // host:port with the port that was taken.
  const std::string& address() const { return address_; }

 private:
  MetricsListener(const MetricsListenerOptions& options,
                  std::shared_ptr<prometheus::Collectable> metrics);
  absl::Status Bind(const std::string& address);

  std::string address_;
  const std::string certificate_;
  const std::shared_ptr<prometheus::Collectable> metrics_;
  const std::unique_ptr<httplib::Server> server_;
  std::thread thread_;
};

}  // namespace kvstow
