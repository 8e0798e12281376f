#include "server/obs/metrics_listener.h"

#include <exception>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "prometheus/exposer.h"

namespace kvstow {

absl::StatusOr<std::unique_ptr<MetricsListener>> MetricsListener::Start(
    const std::string& address, std::shared_ptr<prometheus::Collectable> metrics) {
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
    listener->exposer_ = std::make_unique<prometheus::Exposer>(std::vector<std::string>{
        "listening_ports", address, "num_threads", "4", "request_timeout_ms", "5000"});
  } catch (const std::exception& e) {
    return absl::UnavailableError(absl::StrCat("cannot serve metrics on ", address, ": ", e.what(),
                                               ". Is the port taken? See --metrics"));
  }
  listener->exposer_->RegisterCollectable(listener->metrics_);
  listener->address_ =
      absl::StrCat(address.substr(0, colon), ":", listener->exposer_->GetListeningPorts().front());
  return listener;
}

MetricsListener::~MetricsListener() = default;

}  // namespace kvstow
