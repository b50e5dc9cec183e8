#include "common/certs/certificate.h"

#include <arpa/inet.h>
#include <openssl/bn.h>
#include <openssl/err.h>
#include <sys/stat.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <map>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "common/base/digest.h"
#include "common/base/errno_status.h"
#include "common/base/mutex.h"
#include "common/base/status.h"
#include "common/certs/openssl.h"

namespace quantfl::certs {
namespace {

constexpr absl::string_view kScheme = "quantfl://";
constexpr absl::string_view kOperator = "operator";
constexpr size_t kSerialDigitsMax = 40;  // RFC 5280: 20 octets
constexpr size_t kRememberedMax = 100'000;

std::string OneLine(const X509_NAME* name) {
  const BioPtr bio = NewBio();
  X509_NAME_print_ex(bio.get(), name, 0, XN_FLAG_RFC2253);
  return Contents(bio.get());
}

std::string SerialOf(const X509* certificate) {
  BIGNUM* number = ASN1_INTEGER_to_BN(X509_get0_serialNumber(certificate), nullptr);
  if (number == nullptr) return "";
  char* text = BN_bn2hex(number);
  std::string serial = absl::AsciiStrToLower(text == nullptr ? "" : text);
  OPENSSL_free(text);
  BN_free(number);
  return serial.substr(std::min(serial.find_first_not_of('0'), serial.size()));
}

absl::Time TimeOf(const ASN1_TIME* time) {
  std::tm parts{};
  if (ASN1_TIME_to_tm(time, &parts) != 1) return absl::InfinitePast();
  return absl::FromTM(parts, absl::UTCTimeZone());
}

std::string AddressText(const ASN1_OCTET_STRING* bytes) {
  std::array<char, INET6_ADDRSTRLEN> text{};
  const int family = ASN1_STRING_length(bytes) == 4 ? AF_INET : AF_INET6;
  if (ASN1_STRING_length(bytes) != (family == AF_INET ? 4 : 16)) return "?";
  inet_ntop(family, ASN1_STRING_get0_data(bytes), text.data(), text.size());
  return text.data();
}

std::string Text(const ASN1_STRING* string) {
  return std::string(reinterpret_cast<const char*>(ASN1_STRING_get0_data(string)),
                     static_cast<size_t>(ASN1_STRING_length(string)));
}

std::vector<std::string> NamesOf(const X509* certificate) {
  std::vector<std::string> result;
  const NamesPtr names(static_cast<GENERAL_NAMES*>(
      X509_get_ext_d2i(certificate, NID_subject_alt_name, nullptr, nullptr)));
  for (int i = 0; i < sk_GENERAL_NAME_num(names.get()); ++i) {
    int type = 0;
    const void* value = GENERAL_NAME_get0_value(sk_GENERAL_NAME_value(names.get(), i), &type);
    const auto* string = static_cast<const ASN1_STRING*>(value);
    switch (type) {
      case GEN_URI:
        result.push_back(absl::StrCat("URI:", Text(string)));
        break;
      case GEN_DNS:
        result.push_back(absl::StrCat("DNS:", Text(string)));
        break;
      case GEN_IPADD:
        result.push_back(absl::StrCat("IP:", AddressText(string)));
        break;
      default:
        result.push_back("other");
    }
  }
  return result;
}

absl::StatusOr<X509Ptr> First(absl::string_view pem, absl::string_view file) {
  X509Ptr certificate(PEM_read_bio_X509(View(pem).get(), nullptr, NoPassphrase, nullptr));
  ERR_clear_error();
  if (certificate) return certificate;
  return absl::InvalidArgumentError(absl::StrCat(
      file, ": no certificate in PEM (a block that begins with -----BEGIN CERTIFICATE-----)"));
}

Certificate Describe(X509* certificate) {
  Certificate result;
  result.subject = OneLine(X509_get_subject_name(certificate));
  result.issuer = OneLine(X509_get_issuer_name(certificate));
  result.serial = SerialOf(certificate);
  result.not_before = TimeOf(X509_get0_notBefore(certificate));
  result.not_after = TimeOf(X509_get0_notAfter(certificate));
  result.is_authority = X509_check_ca(certificate) == 1;
  result.names = NamesOf(certificate);
  return result;
}

// Every certificate of a PEM text.
StackPtr All(absl::string_view pem) {
  StackPtr stack(sk_X509_new_null());
  const BioPtr bio = View(pem);
  while (X509* certificate = PEM_read_bio_X509(bio.get(), nullptr, NoPassphrase, nullptr)) {
    sk_X509_push(stack.get(), certificate);
  }
  ERR_clear_error();
  return stack;
}

std::string Printable(absl::string_view text) { return absl::CHexEscape(text.substr(0, 256)); }

std::string Moment(absl::Time time) {
  return absl::FormatTime("%Y-%m-%d %H:%M:%S UTC", time, absl::UTCTimeZone());
}

absl::Status Refused(const Certificate& certificate, absl::string_view why) {
  return absl::UnauthenticatedError(absl::StrCat("the certificate with serial ", certificate.serial,
                                                 " (", Printable(certificate.subject), ") ", why));
}

class TrustedClientsImpl final : public TrustedClients {
 public:
  TrustedClientsImpl(StorePtr store, std::string authority, DenyList denied)
      : store_(std::move(store)), authority_(std::move(authority)), denied_(std::move(denied)) {}

  absl::StatusOr<Admitted> Admit(absl::string_view certificate_pem, absl::string_view chain_pem,
                                 absl::Time now) const override {
    QFL_ASSIGN_OR_RETURN(const Known known, Find(certificate_pem, chain_pem));
    const Certificate& certificate = known.certificate;
    // What time and the deny list say may change while a connection lasts.
    if (now < certificate.not_before) {
      return Refused(certificate, absl::StrCat("is valid from ", Moment(certificate.not_before),
                                               " on; is a clock wrong?"));
    }
    if (now > certificate.not_after) {
      return Refused(certificate, absl::StrCat("expired at ", Moment(certificate.not_after),
                                               "; ask whoever runs the coordinator for a new one"));
    }
    if (denied_.Contains(certificate.serial)) return Refused(certificate, "was revoked");
    return Admitted{known.identity, certificate.not_after};
  }

 private:
  struct Known {
    Certificate certificate;
    Identity identity;
  };

  // One whose signatures, purpose and name are right. Signatures cost a tenth of a millisecond, so
  // what was found right is remembered.
  absl::StatusOr<Known> Find(absl::string_view pem, absl::string_view chain_pem) const {
    const base::Digest key = base::Sha256(absl::StrCat(pem, "\n", chain_pem));
    {
      base::MutexLock lock(mutex_);
      const auto found = known_.find(key);
      if (found != known_.end()) return found->second;
    }
    absl::StatusOr<X509Ptr> certificate = First(pem, "the client");
    if (!certificate.ok()) return absl::UnauthenticatedError(certificate.status().message());
    Known known;
    known.certificate = Describe(certificate->get());
    QFL_RETURN_IF_ERROR(CheckSignatures(known.certificate, certificate->get(), chain_pem));
    absl::StatusOr<Identity> identity = known.certificate.TheIdentity();
    if (!identity.ok()) return Refused(known.certificate, identity.status().message());
    known.identity = *std::move(identity);
    base::MutexLock lock(mutex_);
    if (known_.size() >= kRememberedMax) known_.clear();
    known_.emplace(key, known);
    return known;
  }

  absl::Status CheckSignatures(const Certificate& description, X509* certificate,
                               absl::string_view chain_pem) const {
    const StackPtr chain = All(chain_pem);
    const StoreContextPtr context(X509_STORE_CTX_new());
    if (X509_STORE_CTX_init(context.get(), store_.get(), certificate, chain.get()) != 1) {
      return absl::InternalError("OpenSSL: X509_STORE_CTX_init");
    }
    X509_STORE_CTX_set_purpose(context.get(), X509_PURPOSE_SSL_CLIENT);
    // Times are judged at every call.
    X509_STORE_CTX_set_flags(context.get(), X509_V_FLAG_NO_CHECK_TIME);
    const bool right = X509_verify_cert(context.get()) == 1;
    const int error = X509_STORE_CTX_get_error(context.get());
    ERR_clear_error();
    if (right) return absl::OkStatus();
    return Refused(description, absl::StrCat("is none that ", authority_,
                                             " lets in: ", X509_verify_cert_error_string(error)));
  }

  const StorePtr store_;
  const std::string authority_;
  const DenyList denied_;
  mutable base::Mutex mutex_;
  mutable std::map<base::Digest, Known> known_ QFL_GUARDED_BY(mutex_);
};

}  // namespace

absl::string_view Identity::RoleName() const {
  return role ? federation::ToString(*role) : kOperator;
}

std::string Identity::Uri() const { return absl::StrCat(kScheme, RoleName(), "/", device); }

absl::StatusOr<Identity> Identity::Make(absl::string_view role, absl::string_view device) {
  Identity identity;
  QFL_RETURN_IF_ERROR(federation::ValidateDevice(device));
  identity.device = std::string(device);
  if (role == kOperator) return identity;
  const absl::StatusOr<federation::Role> parsed = federation::ParseRole(role);
  if (!parsed.ok()) {
    return absl::InvalidArgumentError(absl::StrCat("role \"", Printable(role.substr(0, 64)),
                                                   "\"; expected trainer, evaluator or operator"));
  }
  identity.role = *parsed;
  return identity;
}

absl::StatusOr<Identity> Identity::Parse(absl::string_view uri) {
  absl::string_view rest = uri;
  const size_t slash = absl::ConsumePrefix(&rest, kScheme) ? rest.find('/') : rest.npos;
  if (slash == rest.npos) {
    return absl::InvalidArgumentError(absl::StrCat("the name \"", Printable(uri),
                                                   "\"; expected quantfl://ROLE/DEVICE, as in "
                                                   "quantfl://trainer/pi-07"));
  }
  return Identity::Make(rest.substr(0, slash), rest.substr(slash + 1));
}

absl::StatusOr<Identity> Certificate::TheIdentity() const {
  absl::string_view uri = names.size() == 1 ? absl::string_view(names.front()) : "";
  if (!absl::ConsumePrefix(&uri, "URI:")) {
    return absl::InvalidArgumentError(absl::StrCat(
        "names nobody: expected exactly one subject alternative name, URI:quantfl://ROLE/DEVICE, "
        "got ",
        names.empty() ? "none" : Printable(absl::StrJoin(names, ", "))));
  }
  return Identity::Parse(uri);
}

absl::StatusOr<Certificate> ReadCertificate(absl::string_view pem, absl::string_view file) {
  QFL_ASSIGN_OR_RETURN(const X509Ptr certificate, First(pem, file));
  return Describe(certificate.get());
}

absl::Status CheckKey(absl::string_view certificate_pem, absl::string_view certificate_file,
                      absl::string_view key_pem, absl::string_view key_file) {
  QFL_ASSIGN_OR_RETURN(const X509Ptr certificate, First(certificate_pem, certificate_file));
  const KeyPtr key(PEM_read_bio_PrivateKey(View(key_pem).get(), nullptr, NoPassphrase, nullptr));
  const bool fits = key && X509_check_private_key(certificate.get(), key.get()) == 1;
  ERR_clear_error();
  if (!key) {
    return absl::InvalidArgumentError(
        absl::StrCat(key_file, ": no private key in PEM without a passphrase"));
  }
  if (!fits) {
    return absl::InvalidArgumentError(absl::StrCat(
        "the key in ", key_file, " is not that of the certificate in ", certificate_file));
  }
  return absl::OkStatus();
}

absl::Status CheckPrivate(const std::string& path) {
  struct stat info {};
  if (stat(path.c_str(), &info) != 0) return base::ErrnoStatus(errno, "examine", path);
  const mode_t open_to_others = info.st_mode & (info.st_uid == 0 ? 0037 : 0077);
  if (open_to_others == 0) return absl::OkStatus();
  return absl::PermissionDeniedError(
      absl::StrFormat("%s has mode %04o, so that others may read this key; chmod 600 %s", path,
                      static_cast<unsigned>(info.st_mode & 07777), path));
}

absl::StatusOr<DenyList> DenyList::Parse(absl::string_view text, absl::string_view file) {
  DenyList list;
  size_t number = 0;
  for (absl::string_view line : absl::StrSplit(text, '\n')) {
    ++number;
    line = absl::StripAsciiWhitespace(line);
    if (line.empty() || line.front() == '#') continue;
    std::string serial = absl::AsciiStrToLower(line.substr(0, line.find_first_of(" \t")));
    const bool hexadecimal = serial.find_first_not_of("0123456789abcdef") == std::string::npos;
    if (!hexadecimal || serial.size() > kSerialDigitsMax) {
      return absl::InvalidArgumentError(
          absl::StrCat(file, ":", number, ": \"", Printable(serial.substr(0, 64)),
                       "\" is no serial; expected 1 to ", kSerialDigitsMax,
                       " hexadecimal digits, as `quantflctl certs show` prints them"));
    }
    serial.erase(0, std::min(serial.find_first_not_of('0'), serial.size()));
    list.serials_.push_back(std::move(serial));
  }
  std::sort(list.serials_.begin(), list.serials_.end());
  return list;
}

bool DenyList::Contains(absl::string_view serial) const {
  return std::binary_search(serials_.begin(), serials_.end(), std::string(serial));
}

absl::StatusOr<std::shared_ptr<const TrustedClients>> TrustedClients::Create(
    absl::string_view authority_pem, absl::string_view authority_file, DenyList denied) {
  const StackPtr all = All(authority_pem);
  StorePtr store(X509_STORE_new());
  if (sk_X509_num(all.get()) == 0) {
    QFL_RETURN_IF_ERROR(First(authority_pem, authority_file).status());
  }
  for (int i = 0; i < sk_X509_num(all.get()); ++i) {
    X509* certificate = sk_X509_value(all.get(), i);
    if (X509_check_ca(certificate) != 1) {
      return absl::InvalidArgumentError(
          absl::StrCat(authority_file, ": the certificate of ",
                       Printable(OneLine(X509_get_subject_name(certificate))),
                       " is no authority's; expected ca.pem, as `quantflctl certs init` makes it"));
    }
    X509_STORE_add_cert(store.get(), certificate);
  }
  ERR_clear_error();
  return std::shared_ptr<const TrustedClients>(std::make_shared<TrustedClientsImpl>(
      std::move(store), std::string(authority_file), std::move(denied)));
}

}  // namespace quantfl::certs
