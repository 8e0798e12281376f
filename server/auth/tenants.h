// Who calls: from what a connection and a call show to the tenant whose blocks they may touch.
//
// A deployment without tenants has one, "default", which everybody who reaches the daemon is, with
// an admin's rights. With tenants, whoever shows nothing that belongs to one is refused.
//
// Tokens are held as SHA-256 digests and found by digest, so that neither a core dump nor the time
// that a comparison takes tells one.
//
// Thread-safe.
#pragma once

#include <sys/types.h>

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "server/core/ids.h"

namespace kvstow {

struct TenantIdentity {
  std::string name;  // a metric label
  // Subject alternative names (URI or DNS) of its clients' certificates; the common name counts for
  // a certificate that has none.
  std::vector<std::string> certificate_names = {};
  std::string token_file = {};    // a token a line; "#" starts a comment. Empty: no tokens
  std::vector<uid_t> users = {};  // that may take part in shared memory; empty: all
  bool admin = false;
};

// What there is to tell a caller by.
struct Evidence {
  bool unix_socket = false;
  std::vector<std::string> certificate_names = {};  // verified by TLS
  std::optional<std::string> token = {};            // of "authorization: Bearer <token>"
};

struct Caller {
  TenantId tenant = kDefaultTenant;
  bool admin = false;
};

class Tenants {
 public:
  // `unix_tenant` is who callers on the Unix socket are that show no token; empty: nobody.
  // INVALID_ARGUMENT for names, certificates or tokens that two tenants share, tokens that are too
  // short to be secret, an unknown unix_tenant and files that cannot be read.
  static absl::StatusOr<std::unique_ptr<Tenants>> Create(std::vector<TenantIdentity> tenants,
                                                         const std::string& unix_tenant);

  // UNAUTHENTICATED says what was missing or wrong, never what was shown.
  absl::StatusOr<Caller> Identify(const Evidence& evidence) const;
  // Whether a process of this user may share memory with a tenant's session.
  bool MayStage(TenantId tenant, uid_t user) const;

  // Reads the token files again. With an error the tokens read last go on to hold.
  absl::Status ReloadTokens();

  // By TenantId.
  std::vector<std::string> names() const;

 private:
  using TokenDigest = std::array<uint8_t, 32>;
  using TokenTable = absl::flat_hash_map<TokenDigest, TenantId>;
  Tenants(std::vector<TenantIdentity> tenants) : tenants_(std::move(tenants)) {}
  absl::Status Index(const std::string& unix_tenant);
  absl::StatusOr<TokenTable> ReadTokens() const;
  static TokenDigest DigestOf(absl::string_view token);
  absl::StatusOr<std::optional<TenantId>> OfCertificate(const Evidence& evidence) const;
  absl::StatusOr<std::optional<TenantId>> OfToken(const Evidence& evidence) const;
  const TenantIdentity& identity(TenantId id) const { return tenants_[static_cast<size_t>(id)]; }

  // Constant after Create.
  const std::vector<TenantIdentity> tenants_;  // empty: one, for all
  std::optional<TenantId> unix_tenant_;
  absl::flat_hash_map<std::string, TenantId> by_certificate_;

  mutable absl::Mutex mu_;
  TokenTable by_token_ ABSL_GUARDED_BY(mu_);
};

// The tokens of a file's text. INVALID_ARGUMENT for one that is too short.
absl::StatusOr<std::vector<std::string>> ParseTokens(absl::string_view text);

}  // namespace kvstow
