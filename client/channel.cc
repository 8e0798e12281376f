#include "client/channel.h"

#include <grpc/grpc.h>
#include <grpcpp/create_channel.h>
#include <grpcpp/security/credentials.h>
#include <grpcpp/security/tls_credentials_options.h>

#include <cstdlib>
#include <fstream>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "client/bearer_token.h"

namespace kvstow::client {
namespace {

// How long a renewed certificate may take to be noticed.
constexpr unsigned kReloadSeconds = 60;

// gRPC shuts itself down with its last object and may then wait ten seconds for a poller of its
// own. A process that used it once keeps it.
void KeepGrpcUp() {
  static const bool kept = (grpc_init(), true);
  static_cast<void>(kept);
}

// The C library gives the top of its heap back to the kernel once it is larger than a threshold,
// by default a fraction of one chunk: then each chunk received is faulted in anew, page by page.
// The threshold grows with the largest block that it has seen freed, unless the process chose one.
void LetHeapKeepChunks() {
  static const bool kept = [] {
    constexpr size_t kBytes = size_t{16} << 20;
    void* volatile block = std::malloc(kBytes);
    std::free(block);
    return true;
  }();
  static_cast<void>(kept);
}

bool UsesTls(const ClientSecurity& security) { return !security.ca_file.empty(); }
bool IsLocal(const std::string& target) { return absl::StartsWith(target, "unix:"); }

std::shared_ptr<grpc::ChannelCredentials> Credentials(const ClientSecurity& security) {
  if (!UsesTls(security)) return grpc::InsecureChannelCredentials();
  grpc::experimental::TlsChannelCredentialsOptions options;
  options.set_certificate_provider(
      std::make_shared<grpc::experimental::FileWatcherCertificateProvider>(
          security.key_file, security.certificate_file, security.ca_file, kReloadSeconds));
  options.watch_root_certs();
  if (!security.certificate_file.empty()) options.watch_identity_key_cert_pairs();
  return grpc::experimental::TlsCredentials(options);
}

absl::Status CheckReadable(absl::string_view what, const std::string& file) {
  if (file.empty() || std::ifstream(file).good()) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(what, " ", file, " cannot be read"));
}

}  // namespace

absl::Status CheckSecurity(const std::string& target, const ClientSecurity& security) {
  if (security.certificate_file.empty() != security.key_file.empty()) {
    return absl::InvalidArgumentError("a client certificate and its key go together; name both");
  }
  if (!security.certificate_file.empty() && !UsesTls(security)) {
    return absl::InvalidArgumentError(
        "a client certificate needs TLS; name the CA that signed the daemon's certificate");
  }
  if (UsesTls(security) && IsLocal(target)) {
    return absl::InvalidArgumentError("a Unix socket has no TLS; leave the certificates out");
  }
  if (!security.token_file.empty() && !UsesTls(security) && !IsLocal(target)) {
    return absl::InvalidArgumentError(absl::StrCat(
        "the token would travel to ", target,
        " in clear; name the CA that signed the daemon's certificate, or use the Unix socket"));
  }
  absl::Status status = CheckReadable("CA file", security.ca_file);
  status.Update(CheckReadable("certificate", security.certificate_file));
  status.Update(CheckReadable("key", security.key_file));
  status.Update(CheckReadable("token file", security.token_file));
  return status;
}

std::shared_ptr<grpc::Channel> MakeChannel(const std::string& target,
                                           const ClientSecurity& security) {
  KeepGrpcUp();
  LetHeapKeepChunks();
  grpc::ChannelArguments args;
  // Back soon after a restart: the daemon is next door. A connection attempt still gets seconds.
  args.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 50);
  args.SetInt(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, 1000);
  args.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 2000);
  args.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  args.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
  // Retries are the caller's business; the transport's own would keep copies of what a Put sends.
  args.SetInt(GRPC_ARG_ENABLE_RETRIES, 0);
  args.SetMaxReceiveMessageSize(4 << 20);
  if (!security.server_name.empty()) args.SetSslTargetNameOverride(security.server_name);
  const auto credentials = Credentials(security);
  // A token only where nobody on the way reads it.
  if (security.token_file.empty() || !(UsesTls(security) || IsLocal(target))) {
    return grpc::CreateCustomChannel(target, credentials, args);
  }
  std::vector<std::unique_ptr<grpc::experimental::ClientInterceptorFactoryInterface>> interceptors;
  interceptors.push_back(ShowToken(security.token_file));
  return grpc::experimental::CreateCustomChannelWithInterceptors(target, credentials, args,
                                                                 std::move(interceptors));
}

}  // namespace kvstow::client
