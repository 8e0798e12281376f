// Certificate authorities and certificates made on the spot, as PEM files.
#pragma once

#include <openssl/x509.h>

#include <memory>
#include <string>

#include "absl/time/time.h"

namespace kvstow::testing {

// What it cannot do it ends the test program with.
class Authority {
 public:
  explicit Authority(const std::string& name);
  ~Authority();

  struct Leaf {
    std::string common_name;
    std::string alternative_names;  // as OpenSSL writes them: "DNS:localhost,URI:spiffe://a/b"
    absl::Duration valid_from = -absl::Hours(1);  // from now
    absl::Duration valid_until = absl::Hours(1);
  };
  // Writes a new key and its certificate, signed by this authority.
  void Issue(const Leaf& leaf, const std::string& certificate_file,
             const std::string& key_file) const;
  void WriteCertificate(const std::string& file) const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace kvstow::testing
