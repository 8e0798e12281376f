#include "server/auth/testing/certificates.h"

#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>

#include <cstdio>
#include <cstdlib>

namespace kvstow::testing {
namespace {

void Require(bool ok, const char* what) {
  if (ok) return;
  std::fprintf(stderr, "certificates: %s\n", what);
  std::abort();
}

EVP_PKEY* NewKey() {
  EVP_PKEY* key = EVP_EC_gen("P-256");
  Require(key != nullptr, "no key");
  return key;
}

void SetName(X509_NAME* name, const std::string& common_name) {
  Require(X509_NAME_add_entry_by_txt(name, "CN", MBSTRING_UTF8,
                                     reinterpret_cast<const unsigned char*>(common_name.c_str()),
                                     -1, -1, 0) == 1,
          "no name");
}

void Extend(X509* certificate, X509* issuer, int id, const std::string& value) {
  X509V3_CTX context;
  X509V3_set_ctx(&context, issuer, certificate, nullptr, nullptr, 0);
  X509_EXTENSION* extension = X509V3_EXT_conf_nid(nullptr, &context, id, value.c_str());
  Require(extension != nullptr, value.c_str());
  X509_add_ext(certificate, extension, -1);
  X509_EXTENSION_free(extension);
}

X509* NewCertificate(EVP_PKEY* key, const std::string& common_name, absl::Duration from,
                     absl::Duration until) {
  static long serial = 1;
  X509* certificate = X509_new();
  X509_set_version(certificate, X509_VERSION_3);
  ASN1_INTEGER_set(X509_get_serialNumber(certificate), serial++);
  X509_gmtime_adj(X509_getm_notBefore(certificate), absl::ToInt64Seconds(from));
  X509_gmtime_adj(X509_getm_notAfter(certificate), absl::ToInt64Seconds(until));
  X509_set_pubkey(certificate, key);
  SetName(X509_get_subject_name(certificate), common_name);
  return certificate;
}

// Whole or not at all, as whoever rotates certificates under a reader does it.
template <typename Write>
void WriteFile(const std::string& path, Write write) {
  const std::string fresh = path + ".new";
  FILE* file = std::fopen(fresh.c_str(), "w");
  Require(file != nullptr && write(file) == 1, path.c_str());
  std::fclose(file);
  Require(std::rename(fresh.c_str(), path.c_str()) == 0, path.c_str());
}

}  // namespace

struct Authority::Impl {
  EVP_PKEY* key;
  X509* certificate;
};

Authority::Authority(const std::string& name) {
  EVP_PKEY* key = NewKey();
  X509* certificate = NewCertificate(key, name, -absl::Hours(24), absl::Hours(24));
  X509_set_issuer_name(certificate, X509_get_subject_name(certificate));
  Extend(certificate, certificate, NID_basic_constraints, "critical,CA:TRUE");
  Extend(certificate, certificate, NID_key_usage, "critical,keyCertSign");
  Require(X509_sign(certificate, key, EVP_sha256()) > 0, "cannot sign");
  impl_ = std::make_unique<Impl>(Impl{key, certificate});
}

Authority::~Authority() {
  X509_free(impl_->certificate);
  EVP_PKEY_free(impl_->key);
}

void Authority::Issue(const Leaf& leaf, const std::string& certificate_file,
                      const std::string& key_file) const {
  EVP_PKEY* key = NewKey();
  X509* certificate = NewCertificate(key, leaf.common_name, leaf.valid_from, leaf.valid_until);
  X509_set_issuer_name(certificate, X509_get_subject_name(impl_->certificate));
  if (!leaf.alternative_names.empty()) {
    Extend(certificate, impl_->certificate, NID_subject_alt_name, leaf.alternative_names);
  }
  Require(X509_sign(certificate, impl_->key, EVP_sha256()) > 0, "cannot sign");
  WriteFile(key_file, [&](FILE* file) {
    return PEM_write_PrivateKey(file, key, nullptr, nullptr, 0, nullptr, nullptr);
  });
  WriteFile(certificate_file, [&](FILE* file) { return PEM_write_X509(file, certificate); });
  X509_free(certificate);
  EVP_PKEY_free(key);
}

void Authority::WriteCertificate(const std::string& file) const {
  WriteFile(file, [&](FILE* f) { return PEM_write_X509(f, impl_->certificate); });
}

}  // namespace kvstow::testing
