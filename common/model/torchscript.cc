#include "common/model/torchscript.h"

#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"

namespace quantfl::model {

std::string TorchScriptArchitecture(const base::Digest& file) {
  return absl::StrCat(kTorchScriptPrefix, file.Hex());
}

bool IsTorchScript(absl::string_view architecture) {
  return absl::StartsWith(architecture, kTorchScriptPrefix);
}

absl::StatusOr<base::Digest> TorchScriptDigest(absl::string_view architecture) {
  absl::string_view hex = architecture;
  absl::StatusOr<base::Digest> digest = absl::InvalidArgumentError("");
  if (absl::ConsumePrefix(&hex, kTorchScriptPrefix)) digest = base::Digest::FromHex(hex);
  if (digest.ok()) return digest;
  return absl::InvalidArgumentError(
      absl::StrCat("architecture \"", absl::CHexEscape(architecture.substr(0, 100)), "\" is not ",
                   kTorchScriptPrefix, " and the 64 hexadecimal digits of a file's SHA-256"));
}

}  // namespace quantfl::model
