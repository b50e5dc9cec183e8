#ifndef QUANTFL_COMMON_RPC_TOKENS_H_
#define QUANTFL_COMMON_RPC_TOKENS_H_

// Join tokens. The coordinator knows only their hashes; a client shows its own as the metadata
// `authorization: Bearer <token>`.

#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "common/base/digest.h"
#include "common/federation/types.h"

namespace quantfl::rpc {

// Who a token belongs to.
struct Credential {
  std::string device;                    // an operator's name for role "operator"
  std::optional<federation::Role> role;  // none: an operator
};

// Immutable, thread-safe.
class TokenTable {
 public:
  // One credential a line, fields separated by blanks:
  //   pi-07 trainer 5e884898da28047151d0e56f8dc6292773603d0d6aabbdd62a11ef721d1542d8
  // The third field is the SHA-256 of the token in hexadecimal (`printf %s TOKEN | sha256sum`), the
  // second trainer, evaluator or operator. Empty lines and lines that begin with # are skipped. A
  // device may have several lines (a token that is being replaced), a token one.
  // INVALID_ARGUMENT naming `file`, line and what was expected; RESOURCE_EXHAUSTED past 100,000
  // lines.
  static absl::StatusOr<TokenTable> Parse(absl::string_view text, absl::string_view file);

  // UNAUTHENTICATED if `token` is nobody's. Compares with every line, in time that depends on their
  // number alone.
  absl::StatusOr<Credential> Find(absl::string_view token) const;
  size_t size() const { return lines_.size(); }

 private:
  struct Line {
    base::Digest token_sha256;
    Credential credential;
  };
  std::vector<Line> lines_;
};

// The token of a file that holds nothing else but white space around it. INVALID_ARGUMENT unless it
// is 16..256 printable ASCII characters without blanks; the message does not show it.
absl::StatusOr<std::string> ParseToken(absl::string_view text);

}  // namespace quantfl::rpc

#endif  // QUANTFL_COMMON_RPC_TOKENS_H_
