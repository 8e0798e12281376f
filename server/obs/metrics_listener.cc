#include "server/obs/metrics_listener.h"

#include <httplib.h>
#include <openssl/crypto.h>
#include <openssl/ssl.h>
#include <sys/socket.h>

#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "prometheus/text_serializer.h"

namespace kvstow {
namespace {

constexpr size_t kThreads = 4;
// A scraper that stops reading is given up, so that it holds up neither others nor the shutdown.
constexpr int kTimeoutSeconds = 5;
constexpr char kTextFormat[] = "text/plain; version=0.0.4; charset=utf-8";

// OpenSSL asks at each handshake; `arg` is the file's path.
int UseCertificate(SSL* ssl, void* arg) {
  const char* file = static_cast<const std::string*>(arg)->c_str();
  return SSL_use_certificate_chain_file(ssl, file) == 1 &&
         SSL_use_PrivateKey_file(ssl, file, SSL_FILETYPE_PEM) == 1;
}

// `certificate` outlives the server.
std::unique_ptr<httplib::Server> MakeServer(const std::string& certificate) {
  if (certificate.empty()) return std::make_unique<httplib::Server>();
  return std::make_unique<httplib::SSLServer>([&certificate](SSL_CTX& context) {
    SSL_CTX_set_cert_cb(&context, UseCertificate, const_cast<std::string*>(&certificate));
    return SSL_CTX_set_min_proto_version(&context, TLS1_2_VERSION) == 1;
  });
}

bool SameSecret(const std::string& a, const std::string& b) {
  return a.size() == b.size() && CRYPTO_memcmp(a.data(), b.data(), a.size()) == 0;
}

// RFC 7617.
void AskForPassword(httplib::Server& server, const std::string& user, const std::string& password) {
  const std::string expected =
      absl::StrCat("Basic ", absl::Base64Escape(absl::StrCat(user, ":", password)));
  server.set_pre_routing_handler(
      [expected](const httplib::Request& request, httplib::Response& response) {
        using Handled = httplib::Server::HandlerResponse;
        if (SameSecret(request.get_header_value("Authorization"), expected))
          return Handled::Unhandled;
        response.status = 401;
        response.set_header("WWW-Authenticate", "Basic realm=\"kvstowd\"");
        return Handled::Handled;
      });
}

void Bound(httplib::Server& server) {
  server.new_task_queue = [] { return new httplib::ThreadPool(kThreads); };
  server.set_read_timeout(kTimeoutSeconds);
  server.set_write_timeout(kTimeoutSeconds);
  // Between two scrapes a connection would only keep a thread.
  server.set_keep_alive_max_count(1);
  server.set_payload_max_length(8192);
  // Not the library's SO_REUSEPORT: two daemons must not share a port unnoticed.
  server.set_socket_options([](socket_t socket) {
    const int on = 1;
    setsockopt(socket, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
  });
}

}  // namespace

MetricsListener::MetricsListener(const MetricsListenerOptions& options,
                                 std::shared_ptr<prometheus::Collectable> metrics)
    : certificate_(options.certificate),
      metrics_(std::move(metrics)),
      server_(MakeServer(certificate_)) {
  Bound(*server_);
  if (!options.user.empty()) AskForPassword(*server_, options.user, options.password);
  server_->Get("/metrics", [this](const httplib::Request&, httplib::Response& response) {
    response.set_content(prometheus::TextSerializer().Serialize(metrics_->Collect()), kTextFormat);
  });
}

absl::Status MetricsListener::Bind(const std::string& address) {
  const size_t colon = address.rfind(':');
  int port = 0;
  if (colon == std::string::npos || !absl::SimpleAtoi(address.substr(colon + 1), &port)) {
    return absl::InvalidArgumentError(
        absl::StrCat("metrics address '", address, "' is not host:port"));
  }
  absl::string_view host = absl::string_view(address).substr(0, colon);
  if (absl::ConsumePrefix(&host, "[")) absl::ConsumeSuffix(&host, "]");
  const std::string name(host);
  if (port == 0) {
    port = server_->bind_to_any_port(name.c_str());
  } else if (!server_->bind_to_port(name.c_str(), port)) {
    port = -1;
  }
  if (port < 0) {
    return absl::UnavailableError(
        absl::StrCat("cannot serve metrics on ", address, ". Is the port taken? See --metrics"));
  }
  address_ = absl::StrCat(address.substr(0, colon), ":", port);
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<MetricsListener>> MetricsListener::Start(
    const MetricsListenerOptions& options, std::shared_ptr<prometheus::Collectable> metrics) {
  std::unique_ptr<MetricsListener> listener(new MetricsListener(options, std::move(metrics)));
  if (absl::Status s = listener->Bind(options.address); !s.ok()) return s;
  listener->thread_ =
      std::thread([server = listener->server_.get()] { server->listen_after_bind(); });
  // Before it runs, stopping it would do nothing.
  while (!listener->server_->is_running()) std::this_thread::yield();
  return listener;
}

MetricsListener::~MetricsListener() {
  if (!thread_.joinable()) return;
  server_->stop();
  thread_.join();
}

}  // namespace kvstow
