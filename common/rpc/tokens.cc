#include "common/rpc/tokens.h"

#include <algorithm>
#include <map>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

namespace quantfl::rpc {
namespace {

constexpr size_t kLinesMax = 100'000;
constexpr size_t kTokenBytesMin = 16;
constexpr size_t kTokenBytesMax = 256;

}  // namespace

absl::StatusOr<TokenTable> TokenTable::Parse(absl::string_view text, absl::string_view file) {
  TokenTable table;
  std::map<base::Digest, size_t> seen;
  size_t number = 0;
  for (absl::string_view line : absl::StrSplit(text, '\n')) {
    ++number;
    const std::vector<absl::string_view> fields =
        absl::StrSplit(line, absl::ByAnyChar(" \t\r"), absl::SkipEmpty());
    if (fields.empty() || fields[0][0] == '#') continue;
    const auto mistake = [&](absl::string_view what) {
      return absl::InvalidArgumentError(absl::StrCat(file, ":", number, ": ", what));
    };
    if (table.lines_.size() == kLinesMax) {
      return absl::ResourceExhaustedError(
          absl::StrCat(file, ":", number, ": more than ", kLinesMax, " tokens"));
    }
    if (fields.size() != 3) {
      return mistake(absl::StrCat(fields.size(),
                                  " fields; expected three: device, role, SHA-256 of the token"));
    }
    Line entry;
    if (const absl::Status device = federation::ValidateDevice(fields[0]); !device.ok()) {
      return mistake(device.message());
    }
    entry.credential.device = std::string(fields[0]);
    if (fields[1] != "operator") {
      const absl::StatusOr<federation::Role> role = federation::ParseRole(fields[1]);
      if (!role.ok()) {
        return mistake(absl::StrCat("role \"", fields[1].substr(0, 64),
                                    "\"; expected trainer, evaluator or operator"));
      }
      entry.credential.role = *role;
    }
    const absl::StatusOr<base::Digest> digest = base::Digest::FromHex(fields[2]);
    if (!digest.ok()) {
      return mistake(absl::StrCat("the third field has ", fields[2].size(),
                                  " characters; expected the token's SHA-256, 64 hexadecimal "
                                  "digits (printf %s TOKEN | sha256sum)"));
    }
    entry.token_sha256 = *digest;
    const auto [first, inserted] = seen.emplace(*digest, number);
    if (!inserted) {
      return mistake(absl::StrCat("the same token as in line ", first->second,
                                  "; every line needs a token of its own"));
    }
    table.lines_.push_back(std::move(entry));
  }
  return table;
}

absl::StatusOr<Credential> TokenTable::Find(absl::string_view token) const {
  const base::Digest digest = base::Sha256(token.substr(0, kTokenBytesMax + 1));
  const Line* found = nullptr;
  for (const Line& line : lines_) {
    const bool equal = base::ConstantTimeEqual(digest.AsBytes(), line.token_sha256.AsBytes());
    found = equal ? &line : found;
  }
  if (found == nullptr) {
    return absl::UnauthenticatedError(
        "this token is not in the coordinator's tokens file; ask whoever runs it for one");
  }
  return found->credential;
}

absl::StatusOr<std::string> ParseToken(absl::string_view text) {
  const absl::string_view token = absl::StripAsciiWhitespace(text);
  const bool printable =
      std::all_of(token.begin(), token.end(), [](char c) { return c > 0x20 && c < 0x7f; });
  if (token.size() < kTokenBytesMin || token.size() > kTokenBytesMax || !printable) {
    return absl::InvalidArgumentError(absl::StrCat("a token of ", token.size(), " bytes; expected ",
                                                   kTokenBytesMin, " to ", kTokenBytesMax,
                                                   " printable ASCII characters without blanks"));
  }
  return std::string(token);
}

}  // namespace quantfl::rpc
