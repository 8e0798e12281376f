#include "server/auth/pem_files.h"

#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/x509.h>

#include <memory>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "server/core/status_macros.h"

namespace kvstow {
namespace {

template <auto kFree>
struct Freed {
  template <typename T>
  void operator()(T* object) const {
    kFree(object);
  }
};
using Bio = std::unique_ptr<BIO, Freed<BIO_free>>;
using Certificate = std::unique_ptr<X509, Freed<X509_free>>;
using Key = std::unique_ptr<EVP_PKEY, Freed<EVP_PKEY_free>>;

absl::Status Invalid(const std::string& file, absl::string_view what) {
  ERR_clear_error();
  return absl::InvalidArgumentError(absl::StrCat(file, ": ", what));
}

absl::StatusOr<Bio> Open(const std::string& file) {
  Bio bio(BIO_new_file(file.c_str(), "r"));
  if (bio == nullptr) return Invalid(file, "cannot be read; does it exist, may this user read it?");
  return bio;
}

// A passphrase cannot be asked for.
int NoPassphrase(char*, int, int, void*) { return -1; }

Certificate NextCertificate(const Bio& bio) {
  return Certificate(PEM_read_bio_X509(bio.get(), nullptr, NoPassphrase, nullptr));
}

absl::Status CheckTimes(const std::string& file, const Certificate& certificate, absl::Time now) {
  time_t at = absl::ToTimeT(now);
  if (X509_cmp_time(X509_get0_notBefore(certificate.get()), &at) > 0) {
    return Invalid(file, "the certificate is not valid yet; is this machine's clock right?");
  }
  if (X509_cmp_time(X509_get0_notAfter(certificate.get()), &at) < 0) {
    return Invalid(file, "the certificate has expired; renew it");
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status CheckCertificate(const std::string& certificate_file, const std::string& key_file,
                              absl::Time now) {
  KVSTOW_ASSIGN_OR_RETURN(const Bio certificate_bio, Open(certificate_file));
  const Certificate certificate = NextCertificate(certificate_bio);
  if (certificate == nullptr) return Invalid(certificate_file, "holds no PEM certificate");
  KVSTOW_RETURN_IF_ERROR(CheckTimes(certificate_file, certificate, now));
  KVSTOW_ASSIGN_OR_RETURN(const Bio key_bio, Open(key_file));
  const Key key(PEM_read_bio_PrivateKey(key_bio.get(), nullptr, NoPassphrase, nullptr));
  if (key == nullptr) return Invalid(key_file, "holds no PEM private key without a passphrase");
  if (X509_check_private_key(certificate.get(), key.get()) != 1) {
    return Invalid(key_file, absl::StrCat("is not the key of ", certificate_file));
  }
  return absl::OkStatus();
}

absl::Status CheckAuthorities(const std::string& file, absl::Time now) {
  KVSTOW_ASSIGN_OR_RETURN(const Bio bio, Open(file));
  absl::Status worst = Invalid(file, "holds no PEM certificate");
  while (const Certificate certificate = NextCertificate(bio)) {
    absl::Status status = CheckTimes(file, certificate, now);
    if (status.ok()) {
      ERR_clear_error();
      return status;
    }
    worst = std::move(status);
  }
  ERR_clear_error();
  return worst;
}

}  // namespace kvstow
