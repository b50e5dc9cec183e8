#ifndef QUANTFL_COMMON_CERTS_AUTHORITY_H_
#define QUANTFL_COMMON_CERTS_AUTHORITY_H_

// A test bed's own certificate authority: EC keys on P-256, SHA-256, random serials of 127 bits.
// Everything begins to be valid a day before `now`, for boards whose clock is behind.

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "common/certs/certificate.h"

namespace quantfl::certs {

struct KeyPair {
  std::string certificate;  // PEM
  std::string private_key;  // PEM, PKCS #8, without a passphrase
};

// Self-signed; may sign certificates, and nothing that may sign others.
//   name  of its subject: 1..64 printable characters
absl::StatusOr<KeyPair> MakeAuthority(absl::string_view name, absl::Duration validity,
                                      absl::Time now);

// INVALID_ARGUMENT: a name that is none, a validity of not more than zero, or an authority that is
// none; FAILED_PRECONDITION: an authority that has expired. What is issued ends with its authority
// at the latest.
//   names  of the server as clients dial it: DNS names and IP addresses, 1..100
absl::StatusOr<KeyPair> IssueServer(const KeyPair& authority, const std::vector<std::string>& names,
                                    absl::Duration validity, absl::Time now);
absl::StatusOr<KeyPair> IssueClient(const KeyPair& authority, const Identity& identity,
                                    absl::Duration validity, absl::Time now);

}  // namespace quantfl::certs

#endif  // QUANTFL_COMMON_CERTS_AUTHORITY_H_
