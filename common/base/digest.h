#ifndef QUANTFL_COMMON_BASE_DIGEST_H_
#define QUANTFL_COMMON_BASE_DIGEST_H_

#include <array>
#include <compare>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace quantfl::base {

// A SHA-256.
struct Digest {
  std::array<uint8_t, 32> bytes{};

  bool IsZero() const;
  std::string Hex() const;            // 64 lower-case digits
  std::string ShortHex() const;       // the first 12, for logs
  absl::string_view AsBytes() const;  // a view of `bytes`
  // INVALID_ARGUMENT unless 64 hexadecimal digits / exactly 32 bytes.
  static absl::StatusOr<Digest> FromHex(absl::string_view hex);
  static absl::StatusOr<Digest> FromBytes(absl::string_view raw);

  friend auto operator<=>(const Digest&, const Digest&) = default;
  template <typename H>
  friend H AbslHashValue(H h, const Digest& d) {
    return H::combine(std::move(h), d.bytes);
  }
};

Digest Sha256(absl::string_view data);

// Incremental SHA-256 over libcrypto. Not thread-safe. Movable; CHECK-fails if used after Finish or
// after it was moved from.
class Sha256Hasher {
 public:
  Sha256Hasher();
  ~Sha256Hasher();
  Sha256Hasher(Sha256Hasher&&) noexcept;
  Sha256Hasher& operator=(Sha256Hasher&&) noexcept;
  void Update(absl::string_view data);
  Digest Finish() &&;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

// True iff equal; its time does not depend on where they differ (lengths are no secret).
bool ConstantTimeEqual(absl::string_view a, absl::string_view b);

// `n` bytes from the operating system's generator, for session ids and tokens only: everything that
// must repeat uses PrngKey.
std::string SecureRandomBytes(size_t n);

}  // namespace quantfl::base

#endif  // QUANTFL_COMMON_BASE_DIGEST_H_
