#include "server/auth/tenants.h"

#include <openssl/sha.h>

#include <fstream>
#include <sstream>
#include <utility>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "server/core/status_macros.h"

namespace kvstow {
namespace {

// 16 bytes in base64 have 22 characters, in hex 32.
constexpr size_t kLeastTokenLength = 22;

absl::Status Invalid(const TenantIdentity& tenant, absl::string_view what) {
  return absl::InvalidArgumentError(absl::StrCat("tenant '", tenant.name, "': ", what));
}

absl::Status NoIdentity(absl::string_view what) {
  return absl::UnauthenticatedError(absl::StrCat(
      what, "; show a bearer token or a client certificate of one of this daemon's tenants"));
}

absl::StatusOr<std::string> ReadWhole(const std::string& path) {
  std::ifstream in(path);
  std::stringstream text;
  text << in.rdbuf();
  // An empty file sets failbit on `text`, so only `in` tells.
  if (!in.is_open() || in.bad()) {
    return absl::InvalidArgumentError(absl::StrCat(path, " cannot be read"));
  }
  return text.str();
}

}  // namespace

absl::StatusOr<std::vector<std::string>> ParseTokens(absl::string_view text) {
  std::vector<std::string> tokens;
  for (absl::string_view line : absl::StrSplit(text, '\n')) {
    line = absl::StripAsciiWhitespace(line);
    if (line.empty() || line.front() == '#') continue;
    if (line.size() < kLeastTokenLength) {
      return absl::InvalidArgumentError(
          absl::StrCat("a token of ", line.size(), " characters can be guessed; use at least ",
                       kLeastTokenLength, ", from `openssl rand -hex 32` say"));
    }
    tokens.emplace_back(line);
  }
  return tokens;
}

absl::StatusOr<std::unique_ptr<Tenants>> Tenants::Create(std::vector<TenantIdentity> tenants,
                                                         const std::string& unix_tenant) {
  std::unique_ptr<Tenants> out(new Tenants(std::move(tenants)));
  KVSTOW_RETURN_IF_ERROR(out->Index(unix_tenant));
  KVSTOW_RETURN_IF_ERROR(out->ReloadTokens());
  return out;
}

absl::Status Tenants::Index(const std::string& unix_tenant) {
  absl::flat_hash_set<std::string> names;
  for (size_t i = 0; i < tenants_.size(); ++i) {
    const TenantIdentity& tenant = tenants_[i];
    if (tenant.name.empty()) return absl::InvalidArgumentError("a tenant without a name");
    if (!names.insert(tenant.name).second) return Invalid(tenant, "there are two of that name");
    for (const std::string& name : tenant.certificate_names) {
      if (name.empty()) return Invalid(tenant, "an empty certificate name");
      const auto [at, is_new] = by_certificate_.emplace(name, TenantId(i));
      if (!is_new) {
        return Invalid(tenant, absl::StrCat("certificate '", name, "' is tenant '",
                                            identity(at->second).name, "' already"));
      }
    }
    if (tenant.name == unix_tenant) unix_tenant_ = TenantId(i);
  }
  if (!unix_tenant.empty() && !unix_tenant_) {
    return absl::InvalidArgumentError(
        absl::StrCat("unix_tenant: there is no tenant '", unix_tenant, "'"));
  }
  return absl::OkStatus();
}

Tenants::TokenDigest Tenants::DigestOf(absl::string_view token) {
  TokenDigest digest;
  SHA256(reinterpret_cast<const uint8_t*>(token.data()), token.size(), digest.data());
  return digest;
}

absl::StatusOr<Tenants::TokenTable> Tenants::ReadTokens() const {
  TokenTable table;
  for (size_t i = 0; i < tenants_.size(); ++i) {
    const TenantIdentity& tenant = tenants_[i];
    if (tenant.token_file.empty()) continue;
    auto text = ReadWhole(tenant.token_file);
    if (!text.ok()) return Invalid(tenant, absl::StrCat("token_file: ", text.status().message()));
    auto tokens = ParseTokens(*text);
    if (!tokens.ok()) {
      return Invalid(
          tenant, absl::StrCat("token_file ", tenant.token_file, ": ", tokens.status().message()));
    }
    for (const std::string& token : *tokens) {
      const auto [at, is_new] = table.emplace(DigestOf(token), TenantId(i));
      if (!is_new && at->second != TenantId(i)) {
        return Invalid(tenant,
                       absl::StrCat("token_file ", tenant.token_file, ": has a token of tenant '",
                                    identity(at->second).name, "', too"));
      }
    }
  }
  return table;
}

absl::Status Tenants::ReloadTokens() {
  KVSTOW_ASSIGN_OR_RETURN(TokenTable table, ReadTokens());
  absl::MutexLock lock(&mu_);
  by_token_ = std::move(table);
  return absl::OkStatus();
}

absl::StatusOr<std::optional<TenantId>> Tenants::OfCertificate(const Evidence& evidence) const {
  std::optional<TenantId> found;
  for (const std::string& name : evidence.certificate_names) {
    const auto at = by_certificate_.find(name);
    if (at == by_certificate_.end()) continue;
    if (found && *found != at->second) {
      return NoIdentity("the client certificate names two tenants");
    }
    found = at->second;
  }
  return found;
}

absl::StatusOr<std::optional<TenantId>> Tenants::OfToken(const Evidence& evidence) const {
  if (!evidence.token) return std::nullopt;
  absl::MutexLock lock(&mu_);
  const auto at = by_token_.find(DigestOf(*evidence.token));
  // A wrong token is no reason to go by something else: somebody meant it.
  if (at == by_token_.end()) return NoIdentity("the bearer token is not valid, or no longer");
  return at->second;
}

absl::StatusOr<Caller> Tenants::Identify(const Evidence& evidence) const {
  if (tenants_.empty()) return Caller{kDefaultTenant, true};
  KVSTOW_ASSIGN_OR_RETURN(const auto by_token, OfToken(evidence));
  KVSTOW_ASSIGN_OR_RETURN(const auto by_certificate, OfCertificate(evidence));
  if (by_token && by_certificate && *by_token != *by_certificate) {
    return NoIdentity("the bearer token and the client certificate are different tenants'");
  }
  std::optional<TenantId> tenant = by_token ? by_token : by_certificate;
  if (!tenant && evidence.unix_socket) tenant = unix_tenant_;
  if (tenant) return Caller{*tenant, identity(*tenant).admin};
  return NoIdentity(evidence.certificate_names.empty() ? "nothing says who calls"
                                                       : "the client certificate is no tenant's");
}

bool Tenants::MayStage(TenantId tenant, uid_t user) const {
  if (tenants_.empty()) return true;
  const std::vector<uid_t>& users = identity(tenant).users;
  return users.empty() || std::find(users.begin(), users.end(), user) != users.end();
}

std::vector<std::string> Tenants::names() const {
  if (tenants_.empty()) return {"default"};
  std::vector<std::string> out;
  for (const TenantIdentity& tenant : tenants_) out.push_back(tenant.name);
  return out;
}

}  // namespace kvstow
