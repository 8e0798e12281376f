// Certificates and keys in files, looked at before anything depends on them: gRPC reads them later,
// on a thread of its own, and tells its log.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "absl/time/time.h"

namespace kvstow {

// A certificate chain and its private key, both PEM. INVALID_ARGUMENT names the file and what is
// wrong: cannot be read, no certificate, no key, expired or not valid yet at `now`, a key of
// another certificate.
absl::Status CheckCertificate(const std::string& certificate_file, const std::string& key_file,
                              absl::Time now);
// One or more CA certificates, PEM; at least one of them valid at `now`.
absl::Status CheckAuthorities(const std::string& file, absl::Time now);

}  // namespace kvstow
