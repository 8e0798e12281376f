#include "server/obs/metrics_listener.h"

#include <openssl/crypto.h>

#include <exception>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "prometheus/exposer.h"

namespace kvstow {
namespace {

std::vector<std::string> ServerOptions(const MetricsListenerOptions& options) {
  const bool tls = !options.certificate.empty();
  std::vector<std::string> out = {"listening_ports",    options.address + (tls ? "s" : ""),
                                  "num_threads",        "4",
                                  "request_timeout_ms", "5000"};
  if (tls) {
    // Short trust: a renewed certificate is read while the listener runs.
    for (const char* option : {"ssl_certificate", options.certificate.c_str(), "ssl_short_trust",
                               "yes", "ssl_protocol_version", "4"}) {
      out.emplace_back(option);
    }
  }
  return out;
}

bool SameSecret(const std::string& a, const std::string& b) {
  return a.size() == b.size() && CRYPTO_memcmp(a.data(), b.data(), a.size()) == 0;
}

}  // namespace

absl::StatusOr<std::unique_ptr<MetricsListener>> MetricsListener::Start(
    const MetricsListenerOptions& options, std::shared_ptr<prometheus::Collectable> metrics) {
  const std::string& address = options.address;
  std::unique_ptr<MetricsListener> listener(new MetricsListener);
  listener->metrics_ = std::move(metrics);
  const size_t colon = address.rfind(':');
  if (colon == std::string::npos) {
    return absl::InvalidArgumentError(
        absl::StrCat("metrics address '", address, "' is not host:port"));
  }
  // The library throws when it cannot bind.
  try {
    // A scraper that stops reading is given up, so that it holds up neither others nor the
    // shutdown.
    listener->exposer_ = std::make_unique<prometheus::Exposer>(ServerOptions(options));
  } catch (const std::exception& e) {
    return absl::UnavailableError(absl::StrCat("cannot serve metrics on ", address, ": ", e.what(),
                                               ". Is the port taken? See --metrics"));
  }
  if (!options.user.empty()) {
    listener->exposer_->RegisterAuth(
        [user = options.user, password = options.password](const std::string& u,
                                                           const std::string& p) {
          // Both, always, and all of each: how long it takes tells nothing.
          const bool user_right = SameSecret(u, user);
          return SameSecret(p, password) && user_right;
        },
        "kvstowd");
  }
  listener->exposer_->RegisterCollectable(listener->metrics_);
  listener->address_ =
      absl::StrCat(address.substr(0, colon), ":", listener->exposer_->GetListeningPorts().front());
  return listener;
}

MetricsListener::~MetricsListener() = default;

}  // namespace kvstow
