// What secures the TCP listener.
#pragma once

#include <memory>
#include <string>

#include "absl/time/time.h"
#include "grpcpp/security/server_credentials.h"

namespace kvstow {

// PEM files. They are read again when they change, so that certificates can be renewed under a
// running daemon; connections made before go on.
struct TlsFiles {
  std::string certificate, key;  // the daemon's own; empty: no TLS
  std::string client_ca;         // who signs the clients' certificates; empty: none are asked for
  bool require_client_certificate = false;
  absl::Duration reload_interval = absl::Seconds(60);

  bool enabled() const { return !certificate.empty(); }
};

std::shared_ptr<grpc::ServerCredentials> ListenerCredentials(const TlsFiles& tls);

}  // namespace kvstow
