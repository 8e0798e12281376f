#include "server/rpc/caller.h"

#include <grpc/grpc_security_constants.h>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "server/core/status_macros.h"

namespace kvstow {
namespace {

std::vector<std::string> Properties(const grpc::AuthContext& auth, const char* name) {
  std::vector<std::string> out;
  for (const grpc::string_ref& value : auth.FindPropertyValues(name)) {
    out.emplace_back(value.data(), value.size());
  }
  return out;
}

std::vector<std::string> CertificateNames(const grpc::ServerContextBase& context) {
  const auto auth = context.auth_context();
  if (auth == nullptr || !auth->IsPeerAuthenticated()) return {};
  auto names = Properties(*auth, GRPC_X509_SAN_PROPERTY_NAME);
  // RFC 6125, 6.4.4: the common name is for certificates that have nothing better.
  if (names.empty()) names = Properties(*auth, GRPC_X509_CN_PROPERTY_NAME);
  return names;
}

std::optional<std::string> BearerToken(const grpc::ServerContextBase& context) {
  const auto at = context.client_metadata().find("authorization");
  if (at == context.client_metadata().end()) return std::nullopt;
  absl::string_view value(at->second.data(), at->second.size());
  // RFC 7235, 2.1: the scheme's case does not matter.
  constexpr absl::string_view kScheme = "bearer ";
  if (!absl::StartsWithIgnoreCase(value, kScheme)) return std::string();  // no token of ours
  value.remove_prefix(kScheme.size());
  return std::string(value);
}

}  // namespace

absl::StatusOr<Caller> Admit(const RpcContext& rpc, const grpc::ServerContextBase& context) {
  Evidence evidence;
  evidence.unix_socket = absl::StartsWith(context.peer(), "unix:");
  evidence.certificate_names = CertificateNames(context);
  evidence.token = BearerToken(context);
  KVSTOW_ASSIGN_OR_RETURN(const Caller caller, rpc.tenants->Identify(evidence));
  if (!rpc.rate->Take(caller.tenant, rpc.clock->Now())) {
    return absl::ResourceExhaustedError(
        absl::StrCat("tenant '", rpc.tenants->names()[static_cast<size_t>(caller.tenant)],
                     "' is above its requests_per_second; call less often or raise it"));
  }
  return caller;
}

}  // namespace kvstow
