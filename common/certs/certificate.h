#ifndef QUANTFL_COMMON_CERTS_CERTIFICATE_H_
#define QUANTFL_COMMON_CERTS_CERTIFICATE_H_

// Who a certificate says that somebody is, and whether to believe it.
//
// A client's certificate has exactly one subject alternative name, a URI that says role and device:
//   quantfl://trainer/pi-07      quantfl://evaluator/judge      quantfl://operator/alice
// Nothing else in it names anybody: neither the subject nor a DNS name is looked at.

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "common/federation/types.h"

namespace quantfl::certs {

struct Identity {
  std::string device;                    // an operator's name where there is no role
  std::optional<federation::Role> role;  // none: an operator

  absl::string_view RoleName() const;  // "trainer", "evaluator", "operator"
  std::string Uri() const;             // quantfl://trainer/pi-07
  // INVALID_ARGUMENT naming the value and the form.
  static absl::StatusOr<Identity> Parse(absl::string_view uri);
  static absl::StatusOr<Identity> Make(absl::string_view role, absl::string_view device);
  friend bool operator==(const Identity&, const Identity&) = default;
};

// What a certificate says, believed or not.
struct Certificate {
  std::string subject, issuer;  // one line, RFC 2253
  std::string serial;           // hexadecimal, lower case, without leading zeros
  absl::Time not_before, not_after;
  bool is_authority = false;
  std::vector<std::string> names;  // "URI:quantfl://trainer/pi-07", "DNS:localhost", "IP:127.0.0.1"

  // By the rule above. INVALID_ARGUMENT saying which names there are.
  absl::StatusOr<Identity> TheIdentity() const;
};

// The first certificate of a PEM text. INVALID_ARGUMENT naming `file`.
absl::StatusOr<Certificate> ReadCertificate(absl::string_view pem, absl::string_view file);

// INVALID_ARGUMENT unless `key_pem` is a private key without a passphrase, and the certificate's.
absl::Status CheckKey(absl::string_view certificate_pem, absl::string_view certificate_file,
                      absl::string_view key_pem, absl::string_view key_file);

// PERMISSION_DENIED naming the file, its mode and the command that mends it if `path` is one that
// others could read: a mode of 0600, or of 0640 where it belongs to root, is right. Errors of the
// file. Of the real file system alone.
absl::Status CheckPrivate(const std::string& path);

// Serials that are no longer let in.
class DenyList {
 public:
  // One a line: the serial in hexadecimal, then anything. Empty lines and lines that begin with #
  // are skipped. INVALID_ARGUMENT naming `file`, line and what was expected.
  static absl::StatusOr<DenyList> Parse(absl::string_view text, absl::string_view file);
  bool Contains(absl::string_view serial) const;
  size_t size() const { return serials_.size(); }

 private:
  std::vector<std::string> serials_;  // sorted
};

// Who a certificate lets in, and the last moment at which it does.
struct Admitted {
  Identity identity;
  absl::Time until;
};

// Whom a test bed's authority lets in. Immutable but for what it remembers of certificates that it
// has seen; thread-safe. A certificate is judged at every call, so that one that expires or is
// denied while its connection lasts is not let in any more.
class TrustedClients {
 public:
  //   authority_pem  one certificate or more
  // INVALID_ARGUMENT naming `authority_file`.
  static absl::StatusOr<std::shared_ptr<const TrustedClients>> Create(
      absl::string_view authority_pem, absl::string_view authority_file, DenyList denied);
  virtual ~TrustedClients() = default;

  //   certificate_pem  the peer's, whose key it has shown that it has
  //   chain_pem        what came with it; may be empty
  // UNAUTHENTICATED: not of this authority, not for clients, expired, not yet valid or denied.
  virtual absl::StatusOr<Admitted> Admit(absl::string_view certificate_pem,
                                         absl::string_view chain_pem, absl::Time now) const = 0;
};

}  // namespace quantfl::certs

#endif  // QUANTFL_COMMON_CERTS_CERTIFICATE_H_
