#include "common/certs/authority.h"

#include <arpa/inet.h>
#include <openssl/bn.h>
#include <openssl/ec.h>
#include <openssl/err.h>

#include <algorithm>
#include <array>
#include <ctime>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/base/status.h"
#include "common/certs/openssl.h"

namespace quantfl::certs {
namespace {

constexpr int kSerialBits = 127;
constexpr absl::Duration kBackdate = absl::Hours(24);
constexpr size_t kServerNamesMax = 100;
constexpr size_t kNameBytesMax = 64;  // RFC 5280's for a common name

absl::Status OpenSslError(absl::string_view what) {
  std::array<char, 256> text{};
  ERR_error_string_n(ERR_get_error(), text.data(), text.size());
  ERR_clear_error();
  return absl::InternalError(absl::StrCat("OpenSSL: ", what, ": ", text.data()));
}

struct Extension {
  int nid;
  std::string value;
};

struct Request {
  std::string common_name;
  std::vector<Extension> extensions;
  absl::Time not_before, not_after;
};

absl::Status SetTimes(X509* certificate, const Request& request) {
  const bool set =
      ASN1_TIME_set(X509_getm_notBefore(certificate), absl::ToTimeT(request.not_before)) !=
          nullptr &&
      ASN1_TIME_set(X509_getm_notAfter(certificate), absl::ToTimeT(request.not_after)) != nullptr;
  return set ? absl::OkStatus() : OpenSslError("validity");
}

absl::Status SetSerial(X509* certificate) {
  BIGNUM* serial = BN_new();
  const bool set = BN_rand(serial, kSerialBits, BN_RAND_TOP_ONE, BN_RAND_BOTTOM_ANY) == 1 &&
                   BN_to_ASN1_INTEGER(serial, X509_get_serialNumber(certificate)) != nullptr;
  BN_free(serial);
  return set ? absl::OkStatus() : OpenSslError("serial");
}

absl::Status SetSubject(X509* certificate, const std::string& name) {
  const auto* bytes = reinterpret_cast<const unsigned char*>(name.data());
  const int set =
      X509_NAME_add_entry_by_NID(X509_get_subject_name(certificate), NID_commonName, MBSTRING_UTF8,
                                 bytes, static_cast<int>(name.size()), -1, 0);
  return set == 1 ? absl::OkStatus() : OpenSslError("subject");
}

absl::Status AddExtension(X509* certificate, X509* issuer, const Extension& extension) {
  X509V3_CTX context;
  X509V3_set_ctx(&context, issuer, certificate, nullptr, nullptr, 0);
  X509_EXTENSION* made =
      X509V3_EXT_conf_nid(nullptr, &context, extension.nid, extension.value.c_str());
  const bool added = made != nullptr && X509_add_ext(certificate, made, -1) == 1;
  X509_EXTENSION_free(made);
  return added ? absl::OkStatus() : OpenSslError(OBJ_nid2ln(extension.nid));
}

// Signed by `issuer` with its key, or by itself where there is none.
absl::StatusOr<KeyPair> Sign(const Request& request, X509* issuer, EVP_PKEY* issuer_key) {
  const KeyPtr key(EVP_EC_gen("P-256"));
  const X509Ptr certificate(X509_new());
  if (!key || !certificate) return OpenSslError("key");
  X509_set_version(certificate.get(), X509_VERSION_3);
  QFL_RETURN_IF_ERROR(SetSerial(certificate.get()));
  QFL_RETURN_IF_ERROR(SetTimes(certificate.get(), request));
  QFL_RETURN_IF_ERROR(SetSubject(certificate.get(), request.common_name));
  X509* const by = issuer == nullptr ? certificate.get() : issuer;
  if (X509_set_issuer_name(certificate.get(), X509_get_subject_name(by)) != 1 ||
      X509_set_pubkey(certificate.get(), key.get()) != 1) {
    return OpenSslError("issuer");
  }
  for (const Extension& extension : request.extensions) {
    QFL_RETURN_IF_ERROR(AddExtension(certificate.get(), by, extension));
  }
  if (X509_sign(certificate.get(), issuer_key == nullptr ? key.get() : issuer_key, EVP_sha256()) ==
      0) {
    return OpenSslError("signature");
  }
  KeyPair pair;
  const BioPtr certificate_pem = NewBio(), key_pem = NewBio();
  if (PEM_write_bio_X509(certificate_pem.get(), certificate.get()) != 1 ||
      PEM_write_bio_PrivateKey(key_pem.get(), key.get(), nullptr, nullptr, 0, nullptr, nullptr) !=
          1) {
    return OpenSslError("PEM");
  }
  return KeyPair{Contents(certificate_pem.get()), Contents(key_pem.get())};
}

absl::Status CheckValidity(absl::Duration validity) {
  if (validity > absl::ZeroDuration() && validity <= absl::Hours(24 * 36'500)) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(
      absl::StrCat("a validity of ", absl::FormatDuration(validity),
                   "; expected more than nothing, and a hundred years at most"));
}

absl::StatusOr<KeyPair> Issue(const KeyPair& authority, Request request, absl::Duration validity,
                              absl::Time now) {
  QFL_RETURN_IF_ERROR(CheckValidity(validity));
  QFL_RETURN_IF_ERROR(
      CheckKey(authority.certificate, "the authority", authority.private_key, "its key"));
  QFL_ASSIGN_OR_RETURN(const Certificate description,
                       ReadCertificate(authority.certificate, "the authority"));
  if (!description.is_authority) {
    return absl::InvalidArgumentError(
        absl::StrCat("the certificate of ", description.subject, " is no authority's"));
  }
  if (description.not_after <= now) {
    return absl::FailedPreconditionError(
        absl::StrCat("the authority expired at ", absl::FormatTime(description.not_after),
                     "; begin a new one in another folder (quantflctl certs init)"));
  }
  request.not_before = std::max(now - kBackdate, description.not_before);
  request.not_after = std::min(now + validity, description.not_after);
  const X509Ptr issuer(
      PEM_read_bio_X509(View(authority.certificate).get(), nullptr, NoPassphrase, nullptr));
  const KeyPtr key(
      PEM_read_bio_PrivateKey(View(authority.private_key).get(), nullptr, NoPassphrase, nullptr));
  return Sign(request, issuer.get(), key.get());
}

// "IP:10.0.0.1" or "DNS:coordinator.local", or an error for what is neither. Nothing that OpenSSL's
// configuration language gives a meaning passes.
absl::StatusOr<std::string> ServerName(const std::string& name) {
  in6_addr address{};
  for (const int family : {AF_INET, AF_INET6}) {
    if (inet_pton(family, name.c_str(), &address) == 1) return absl::StrCat("IP:", name);
  }
  const bool right =
      !name.empty() && name.size() <= 253 && std::all_of(name.begin(), name.end(), [](char c) {
        return absl::ascii_isalnum(static_cast<unsigned char>(c)) || c == '-' || c == '.' ||
               c == '_' || c == '*';
      });
  if (right) return absl::StrCat("DNS:", name);
  return absl::InvalidArgumentError(
      absl::StrCat("server name \"", absl::CHexEscape(name.substr(0, 128)),
                   "\"; expected a DNS name or an IP address, without a port, as clients dial it"));
}

}  // namespace

absl::StatusOr<KeyPair> MakeAuthority(absl::string_view name, absl::Duration validity,
                                      absl::Time now) {
  QFL_RETURN_IF_ERROR(CheckValidity(validity));
  const bool printable = std::all_of(name.begin(), name.end(), [](char c) {
    return absl::ascii_isprint(static_cast<unsigned char>(c));
  });
  if (name.empty() || name.size() > kNameBytesMax || !printable) {
    return absl::InvalidArgumentError(absl::StrCat("an authority's name of ", name.size(),
                                                   " bytes; expected 1 to ", kNameBytesMax,
                                                   " printable characters"));
  }
  Request request;
  request.common_name = std::string(name);
  request.not_before = now - kBackdate;
  request.not_after = now + validity;
  request.extensions = {{NID_basic_constraints, "critical,CA:TRUE,pathlen:0"},
                        {NID_key_usage, "critical,keyCertSign,cRLSign"},
                        {NID_subject_key_identifier, "hash"}};
  return Sign(request, nullptr, nullptr);
}

absl::StatusOr<KeyPair> IssueServer(const KeyPair& authority, const std::vector<std::string>& names,
                                    absl::Duration validity, absl::Time now) {
  if (names.empty() || names.size() > kServerNamesMax) {
    return absl::InvalidArgumentError(
        absl::StrCat(names.size(), " server names; expected 1 to ", kServerNamesMax));
  }
  std::vector<std::string> alternative;
  for (const std::string& name : names) {
    QFL_ASSIGN_OR_RETURN(std::string entry, ServerName(name));
    alternative.push_back(std::move(entry));
  }
  Request request;
  request.common_name = "QuantFL coordinator";
  request.extensions = {{NID_basic_constraints, "critical,CA:FALSE"},
                        {NID_key_usage, "critical,digitalSignature"},
                        {NID_ext_key_usage, "serverAuth"},
                        {NID_authority_key_identifier, "keyid"},
                        {NID_subject_alt_name, absl::StrJoin(alternative, ",")}};
  return Issue(authority, std::move(request), validity, now);
}

absl::StatusOr<KeyPair> IssueClient(const KeyPair& authority, const Identity& identity,
                                    absl::Duration validity, absl::Time now) {
  QFL_RETURN_IF_ERROR(Identity::Make(identity.RoleName(), identity.device).status());
  Request request;
  request.common_name = identity.device;
  request.extensions = {{NID_basic_constraints, "critical,CA:FALSE"},
                        {NID_key_usage, "critical,digitalSignature"},
                        {NID_ext_key_usage, "clientAuth"},
                        {NID_authority_key_identifier, "keyid"},
                        {NID_subject_alt_name, absl::StrCat("URI:", identity.Uri())}};
  return Issue(authority, std::move(request), validity, now);
}

}  // namespace quantfl::certs
