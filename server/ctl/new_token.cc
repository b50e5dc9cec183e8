#include "server/ctl/new_token.h"

#include <cstdint>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "common/app/secret.h"
#include "common/base/digest.h"
#include "common/base/status.h"
#include "common/federation/types.h"
#include "common/rpc/tokens.h"

namespace quantfl::ctl {
namespace {

constexpr uint64_t kFileBytesMax = 32u << 20;
constexpr int kOwnerOnly = 0600;

}  // namespace

absl::StatusOr<std::string> NewToken(const std::string& device, const std::string& role,
                                     const std::string& tokens_file, base::Env& env) {
  QFL_RETURN_IF_ERROR(federation::ValidateDevice(device));
  if (role != "operator") QFL_RETURN_IF_ERROR(federation::ParseRole(role).status());
  std::string text;
  if (env.Exists(tokens_file)) {
    QFL_ASSIGN_OR_RETURN(text, env.ReadFile(tokens_file, kFileBytesMax));
  }
  if (!text.empty() && text.back() != '\n') text += '\n';
  std::string token = app::NewSecret();
  absl::StrAppend(&text, device, " ", role, " ", base::Sha256(token).Hex(), "\n");
  // What the coordinator would refuse is not written.
  QFL_RETURN_IF_ERROR(rpc::TokenTable::Parse(text, tokens_file).status());
  QFL_RETURN_IF_ERROR(env.WriteFileAtomically(tokens_file, text, kOwnerOnly));
  return token;
}

}  // namespace quantfl::ctl
