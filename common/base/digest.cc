#include "common/base/digest.h"

#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/rand.h>

#include <algorithm>
#include <climits>
#include <cstring>

#include "absl/status/status.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "common/base/check.h"

namespace quantfl::base {
namespace {

constexpr size_t kShortHexDigits = 12;

int HexValue(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

}  // namespace

bool Digest::IsZero() const {
  return std::all_of(bytes.begin(), bytes.end(), [](uint8_t b) { return b == 0; });
}

std::string Digest::Hex() const { return absl::BytesToHexString(AsBytes()); }

std::string Digest::ShortHex() const { return Hex().substr(0, kShortHexDigits); }

absl::string_view Digest::AsBytes() const {
  return absl::string_view(reinterpret_cast<const char*>(bytes.data()), bytes.size());
}

absl::StatusOr<Digest> Digest::FromHex(absl::string_view hex) {
  Digest digest;
  if (hex.size() != 2 * digest.bytes.size()) {
    return absl::InvalidArgumentError(absl::StrCat("a SHA-256 is written as ",
                                                   2 * digest.bytes.size(),
                                                   " hexadecimal digits, not ", hex.size()));
  }
  for (size_t i = 0; i < hex.size(); ++i) {
    const int value = HexValue(hex[i]);
    if (value < 0) {
      return absl::InvalidArgumentError(absl::StrCat("character ", i + 1, " of a SHA-256 is '",
                                                     absl::CHexEscape(hex.substr(i, 1)),
                                                     "', not a hexadecimal digit"));
    }
    digest.bytes[i / 2] = static_cast<uint8_t>(digest.bytes[i / 2] << 4 | value);
  }
  return digest;
}

absl::StatusOr<Digest> Digest::FromBytes(absl::string_view raw) {
  Digest digest;
  if (raw.size() != digest.bytes.size()) {
    return absl::InvalidArgumentError(
        absl::StrCat("a SHA-256 has ", digest.bytes.size(), " bytes, not ", raw.size()));
  }
  std::memcpy(digest.bytes.data(), raw.data(), raw.size());
  return digest;
}

// libcrypto's SHA-256 fails only where memory or the provider is missing: nothing can go on then.
struct Sha256Hasher::State {
  State() : context(EVP_MD_CTX_new()) {
    QFL_CHECK(context != nullptr);
    QFL_CHECK(EVP_DigestInit_ex(context, EVP_sha256(), nullptr) == 1);
  }
  ~State() { EVP_MD_CTX_free(context); }
  State(const State&) = delete;
  State& operator=(const State&) = delete;

  EVP_MD_CTX* context;
};

Sha256Hasher::Sha256Hasher() : state_(std::make_unique<State>()) {}
Sha256Hasher::~Sha256Hasher() = default;
Sha256Hasher::Sha256Hasher(Sha256Hasher&&) noexcept = default;
Sha256Hasher& Sha256Hasher::operator=(Sha256Hasher&&) noexcept = default;

void Sha256Hasher::Update(absl::string_view data) {
  QFL_CHECK(state_ != nullptr);
  QFL_CHECK(EVP_DigestUpdate(state_->context, data.data(), data.size()) == 1);
}

Digest Sha256Hasher::Finish() && {
  QFL_CHECK(state_ != nullptr);
  Digest digest;
  unsigned int size = 0;
  QFL_CHECK(EVP_DigestFinal_ex(state_->context, digest.bytes.data(), &size) == 1);
  QFL_CHECK(size == digest.bytes.size());
  state_.reset();
  return digest;
}

Digest Sha256(absl::string_view data) {
  Sha256Hasher hasher;
  hasher.Update(data);
  return std::move(hasher).Finish();
}

bool ConstantTimeEqual(absl::string_view a, absl::string_view b) {
  return a.size() == b.size() && CRYPTO_memcmp(a.data(), b.data(), a.size()) == 0;
}

std::string SecureRandomBytes(size_t n) {
  QFL_CHECK(n <= INT_MAX);
  std::string bytes(n, '\0');
  // A predictable token is worse than no process.
  QFL_CHECK(RAND_bytes(reinterpret_cast<unsigned char*>(bytes.data()), static_cast<int>(n)) == 1);
  return bytes;
}

}  // namespace quantfl::base
