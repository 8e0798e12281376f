#include "client/tool/doctor/tls.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <sys/socket.h>

#include <array>
#include <fstream>
#include <memory>
#include <optional>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "client/channel.h"

namespace kvstow::tool {
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
using Context = std::unique_ptr<SSL_CTX, Freed<SSL_CTX_free>>;
using Connected = std::unique_ptr<SSL, Freed<SSL_free>>;
using Key = std::unique_ptr<EVP_PKEY, Freed<EVP_PKEY_free>>;

// The shortest token that kvstowd takes (docs/operations.md, Security).
constexpr size_t kShortestToken = 22;

absl::Time TimeOf(const ASN1_TIME* at) {
  tm parts{};
  ASN1_TIME_to_tm(at, &parts);
  return absl::FromTM(parts, absl::UTCTimeZone());
}

std::string Shown(absl::Time at) {
  return absl::FormatTime("%Y-%m-%d %H:%M UTC", at, absl::UTCTimeZone());
}

absl::Time ExpiryOf(const X509* certificate) { return TimeOf(X509_get0_notAfter(certificate)); }

std::string NameOf(const X509_NAME* name) {
  const Bio out(BIO_new(BIO_s_mem()));
  X509_NAME_print_ex(out.get(), name, 0, XN_FLAG_ONELINE & ~ASN1_STRFLGS_ESC_MSB);
  char* text = nullptr;
  const long size = BIO_get_mem_data(out.get(), &text);
  return std::string(text, static_cast<size_t>(size));
}

std::string AddressText(const ASN1_OCTET_STRING* bytes) {
  std::array<char, INET6_ADDRSTRLEN> text{};
  const int family = ASN1_STRING_length(bytes) == 4 ? AF_INET : AF_INET6;
  inet_ntop(family, ASN1_STRING_get0_data(bytes), text.data(), text.size());
  return text.data();
}

// Whom a certificate is for: its alternative names, or the common name of one that has none.
std::vector<std::string> NamesOf(const X509* certificate) {
  std::vector<std::string> names;
  auto* const all = static_cast<GENERAL_NAMES*>(
      X509_get_ext_d2i(certificate, NID_subject_alt_name, nullptr, nullptr));
  for (int i = 0; i < sk_GENERAL_NAME_num(all); ++i) {
    const GENERAL_NAME* name = sk_GENERAL_NAME_value(all, i);
    if (name->type == GEN_DNS || name->type == GEN_URI) {
      const ASN1_IA5STRING* text = name->d.ia5;
      names.emplace_back(reinterpret_cast<const char*>(ASN1_STRING_get0_data(text)),
                         static_cast<size_t>(ASN1_STRING_length(text)));
    } else if (name->type == GEN_IPADD) {
      names.push_back(AddressText(name->d.iPAddress));
    }
  }
  GENERAL_NAMES_free(all);
  if (names.empty()) names.push_back(NameOf(X509_get_subject_name(certificate)));
  return names;
}

int NoPassphrase(char*, int, int, void*) { return -1; }

std::vector<Certificate> ReadCertificates(const std::string& file) {
  std::vector<Certificate> found;
  const Bio bio(BIO_new_file(file.c_str(), "r"));
  while (bio != nullptr) {
    Certificate next(PEM_read_bio_X509(bio.get(), nullptr, NoPassphrase, nullptr));
    if (next == nullptr) break;
    found.push_back(std::move(next));
  }
  ERR_clear_error();
  return found;
}

Key ReadKey(const std::string& file) {
  const Bio bio(BIO_new_file(file.c_str(), "r"));
  Key key(bio == nullptr ? nullptr
                         : PEM_read_bio_PrivateKey(bio.get(), nullptr, NoPassphrase, nullptr));
  ERR_clear_error();
  return key;
}

// What is wrong with a certificate at `now`; empty: nothing.
std::string Untimely(const X509* certificate, absl::Time now) {
  if (ExpiryOf(certificate) < now) {
    return absl::StrCat("expired on ", Shown(ExpiryOf(certificate)));
  }
  const absl::Time from = TimeOf(X509_get0_notBefore(certificate));
  if (from > now) return absl::StrCat("is valid from ", Shown(from), " only");
  return "";
}

void CheckAuthority(const std::string& file, absl::Time now, Checkup* checkup) {
  const std::vector<Certificate> all = ReadCertificates(file);
  if (all.empty()) {
    checkup->Fail("ca", absl::StrCat(file, " holds no PEM certificate"),
                  "name the CA that signed the daemon's certificate");
    return;
  }
  std::string wrong;
  for (const Certificate& each : all) {
    wrong = Untimely(each.get(), now);
    if (!wrong.empty()) continue;
    checkup->Ok("ca", absl::StrCat(file, ": ", NameOf(X509_get_subject_name(each.get())),
                                   ", until ", Shown(ExpiryOf(each.get()))));
    return;
  }
  checkup->Fail("ca", absl::StrCat(file, " ", wrong), "put the present CA there");
}

void CheckOwnCertificate(const ClientSecurity& security, absl::Time now, Checkup* checkup) {
  const std::vector<Certificate> all = ReadCertificates(security.certificate_file);
  if (all.empty()) {
    checkup->Fail("certificate", absl::StrCat(security.certificate_file, " holds no certificate"),
                  "name a PEM file with the client's certificate");
    return;
  }
  const X509* const own = all.front().get();
  const Key key = ReadKey(security.key_file);
  if (key == nullptr || X509_check_private_key(own, key.get()) != 1) {
    ERR_clear_error();
    checkup->Fail("certificate",
                  absl::StrCat(security.key_file, " is not the key of ", security.certificate_file),
                  "name the two files of one pair; the key is PEM, without a passphrase");
    return;
  }
  if (const std::string wrong = Untimely(own, now); !wrong.empty()) {
    checkup->Fail("certificate", absl::StrCat(security.certificate_file, " ", wrong),
                  "renew it; client and daemon read it again by themselves");
    return;
  }
  checkup->Ok("certificate", absl::StrCat("of ", absl::StrJoin(NamesOf(own), ", "), ", until ",
                                          Shown(ExpiryOf(own))));
}

void CheckToken(const std::string& file, Checkup* checkup) {
  std::ifstream in(file);
  std::string line;
  std::getline(in, line);
  const size_t size = absl::StripAsciiWhitespace(line).size();
  if (size == 0) {
    checkup->Fail("token", absl::StrCat(file, " has no first line"),
                  "write the bearer token there, one line");
  } else if (size < kShortestToken) {
    checkup->Fail("token", absl::StrCat(file, ": its token has ", size, " characters"),
                  absl::StrCat("kvstowd takes none below ", kShortestToken));
  } else {
    checkup->Ok("token", absl::StrCat(file, ": ", size, " characters"));
  }
}

// ---- The handshake ----

std::string LastSslError(const std::string& otherwise) {
  const unsigned long code = ERR_get_error();
  const char* const reason = code == 0 ? nullptr : ERR_reason_error_string(code);
  ERR_clear_error();
  return reason == nullptr ? otherwise : reason;
}

// A client that goes through the handshake whoever answers, and remembers what it thinks of it.
Context MakeContext(const ClientSecurity& security) {
  Context context(SSL_CTX_new(TLS_client_method()));
  SSL_CTX_set_min_proto_version(context.get(), TLS1_2_VERSION);
  SSL_CTX_set_verify(context.get(), SSL_VERIFY_NONE, nullptr);
  if (!security.ca_file.empty()) {
    SSL_CTX_load_verify_locations(context.get(), security.ca_file.c_str(), nullptr);
  }
  if (!security.certificate_file.empty()) {
    SSL_CTX_use_certificate_chain_file(context.get(), security.certificate_file.c_str());
    SSL_CTX_use_PrivateKey_file(context.get(), security.key_file.c_str(), SSL_FILETYPE_PEM);
  }
  constexpr std::array<unsigned char, 3> kHttp2 = {2, 'h', '2'};
  SSL_CTX_set_alpn_protos(context.get(), kHttp2.data(), kHttp2.size());
  ERR_clear_error();
  return context;
}

void ExpectName(SSL* ssl, const std::string& name) {
  X509_VERIFY_PARAM* const expected = SSL_get0_param(ssl);
  if (X509_VERIFY_PARAM_set1_ip_asc(expected, name.c_str()) == 1) return;
  SSL_set1_host(ssl, name.c_str());
  SSL_set_tlsext_host_name(ssl, name.c_str());
}

// Reads and writes block, a while.
void Bound(int fd, absl::Duration timeout) {
  fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) & ~O_NONBLOCK);
  const timeval limit = absl::ToTimeval(timeout);
  setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
  setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit));
}

void ExplainDaemonsCertificate(const SSL* ssl, const std::string& name, const std::string& ca,
                               Checkup* checkup) {
  const Certificate shown(SSL_get1_peer_certificate(ssl));
  const long verdict = SSL_get_verify_result(ssl);
  const char* const said = X509_verify_cert_error_string(verdict);
  switch (verdict) {
    case X509_V_ERR_CERT_HAS_EXPIRED:
      checkup->Fail("handshake",
                    absl::StrCat("the daemon's certificate, or its CA's, has expired (the "
                                 "daemon's: ",
                                 Shown(ExpiryOf(shown.get())), ")"),
                    "renew the file of tls.certificate; the daemon reads it again within a minute");
      return;
    case X509_V_ERR_CERT_NOT_YET_VALID:
      checkup->Fail("handshake", "the daemon's certificate is not valid yet",
                    "is this machine's clock right, and that of whoever signed it?");
      return;
    case X509_V_ERR_HOSTNAME_MISMATCH:
    case X509_V_ERR_IP_ADDRESS_MISMATCH:
      checkup->Fail("handshake",
                    absl::StrCat("the daemon's certificate is for ",
                                 absl::StrJoin(NamesOf(shown.get()), ", "), ", not for ", name),
                    absl::StrCat("connect by a name that it has, name one with --tls_server_name, "
                                 "or issue it for ",
                                 name));
      return;
    default:
      checkup->Fail(
          "handshake",
          absl::StrCat("the daemon's certificate, signed by ",
                       NameOf(X509_get_issuer_name(shown.get())), ", does not pass: ", said),
          absl::StrCat("let --tls_ca ($KVSTOW_TLS_CA) name the CA that signed it, not ", ca));
  }
}

// In TLS 1.3 the daemon judges the client after the handshake; what it says first tells. Empty: it
// is content.
std::string RefusalBehindHandshake(SSL* ssl) {
  char byte = 0;
  if (SSL_peek(ssl, &byte, 1) == 1) return "";  // HTTP/2 begins
  return LastSslError("it ended the connection without a word");
}

void InClear(SSL* ssl, Checkup* checkup) {
  if (SSL_connect(ssl) == 1) {
    checkup->Fail("handshake", "the daemon speaks TLS, this client does not",
                  "name the CA that signed its certificate: --tls_ca, $KVSTOW_TLS_CA");
    return;
  }
  ERR_clear_error();
  checkup->Warn("handshake", "TCP in clear: prompts can be read on the way",
                "give kvstowd `tls`, and the client the CA; or keep the network to yourself");
}

}  // namespace

void CheckSecurityFiles(const Connection& connection, const Address& address, absl::Time now,
                        Checkup* checkup) {
  const ClientSecurity& security = connection.security;
  if (const absl::Status s = client::CheckSecurity(connection.target, security); !s.ok()) {
    checkup->Fail("files", std::string(s.message()),
                  "mount the file in this container, readable for its user, or correct the flag or "
                  "variable that names it");
  }
  if (!security.token_file.empty() && std::ifstream(security.token_file).good()) {
    CheckToken(security.token_file, checkup);
  }
  if (address.local()) return;
  if (!security.ca_file.empty()) CheckAuthority(security.ca_file, now, checkup);
  if (!security.certificate_file.empty() && !security.key_file.empty()) {
    CheckOwnCertificate(security, now, checkup);
  }
}

void CheckHandshake(const Connection& connection, const Address& address, Checkup* checkup) {
  const ClientSecurity& security = connection.security;
  auto fd = DialTcp(address, connection.deadline);
  if (!fd.ok()) {
    checkup->Skip("handshake", std::string(fd.status().message()));
    return;
  }
  Bound(fd->get(), connection.deadline);
  const Context context = MakeContext(security);
  const Connected ssl(SSL_new(context.get()));
  SSL_set_fd(ssl.get(), fd->get());
  if (security.ca_file.empty()) return InClear(ssl.get(), checkup);
  const std::string& name = security.server_name.empty() ? address.host : security.server_name;
  ExpectName(ssl.get(), name);
  if (SSL_connect(ssl.get()) != 1) {
    checkup->Fail("handshake",
                  absl::StrCat("no TLS: ", LastSslError("the daemon ended the connection")),
                  "does the daemon have `tls`, or is it in clear? Then leave --tls_ca out");
    return;
  }
  if (SSL_get_verify_result(ssl.get()) != X509_V_OK) {
    return ExplainDaemonsCertificate(ssl.get(), name, security.ca_file, checkup);
  }
  if (const std::string refused = RefusalBehindHandshake(ssl.get()); !refused.empty()) {
    checkup->Fail("handshake", absl::StrCat("the daemon refuses this client: ", refused),
                  security.certificate_file.empty()
                      ? "it wants a client certificate: --tls_certificate and --tls_key"
                      : "the certificate must be signed by the daemon's tls.client_ca");
    return;
  }
  const Certificate shown(SSL_get1_peer_certificate(ssl.get()));
  checkup->Ok("handshake", absl::StrCat(SSL_get_version(ssl.get()), ", the daemon is ",
                                        absl::StrJoin(NamesOf(shown.get()), ", "),
                                        ", its certificate until ", Shown(ExpiryOf(shown.get()))));
}

}  // namespace kvstow::tool
