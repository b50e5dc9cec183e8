#include "common/app/secret.h"

#include <cstddef>

#include "absl/strings/escaping.h"
#include "common/base/digest.h"

namespace quantfl::app {
namespace {

constexpr size_t kSecretBytes = 32;

}  // namespace

std::string NewSecret() {
  std::string token = absl::WebSafeBase64Escape(base::SecureRandomBytes(kSecretBytes));
  while (!token.empty() && token.back() == '=') token.pop_back();
  return token;
}

}  // namespace quantfl::app
