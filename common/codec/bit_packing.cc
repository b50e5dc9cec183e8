#include "common/codec/bit_packing.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "common/base/check.h"

namespace quantfl::codec {
namespace {

static_assert(std::endian::native == std::endian::little, "words are copied as they lie in memory");

// `pattern` of `period` bits, repeated over 64.
constexpr uint64_t Repeat(uint64_t pattern, int period) {
  uint64_t all = 0;
  for (int shift = 0; shift < 64; shift += period) all |= pattern << shift;
  return all;
}

constexpr uint64_t LowBits(int count) {
  return count >= 64 ? ~uint64_t{0} : (uint64_t{1} << count) - 1;
}

// Eight codes in the low 8 * kBits bits <-> eight bytes, by halving: 8 codes are two groups of 4,
// which are two groups of 2, which are two codes; each step moves the upper group of every pair.
template <int kBits>
inline uint64_t Spread(uint64_t v) {
  if constexpr (kBits == 8) return v;
  v = (v & LowBits(4 * kBits)) | ((v & (LowBits(4 * kBits) << (4 * kBits))) << (32 - 4 * kBits));
  v = (v & Repeat(LowBits(2 * kBits), 32)) |
      ((v & Repeat(LowBits(2 * kBits) << (2 * kBits), 32)) << (16 - 2 * kBits));
  v = (v & Repeat(LowBits(kBits), 16)) | ((v & Repeat(LowBits(kBits) << kBits, 16)) << (8 - kBits));
  return v;
}

template <int kBits>
inline uint64_t Gather(uint64_t v) {
  if constexpr (kBits == 8) return v;
  v = (v & Repeat(LowBits(kBits), 16)) | ((v & Repeat(LowBits(kBits) << 8, 16)) >> (8 - kBits));
  v = (v & Repeat(LowBits(2 * kBits), 32)) |
      ((v & Repeat(LowBits(2 * kBits) << 16, 32)) >> (16 - 2 * kBits));
  v = (v & LowBits(4 * kBits)) | ((v & (LowBits(4 * kBits) << 32)) >> (32 - 4 * kBits));
  return v;
}

template <int kBits>
void Pack(const uint8_t* codes, size_t count, char* out) {
  const size_t groups = count / 8;
  for (size_t g = 0; g < groups; ++g) {
    uint64_t word;
    std::memcpy(&word, codes + 8 * g, 8);
    word = Gather<kBits>(word);
    std::memcpy(out + kBits * g, &word, kBits);
  }
  if (const size_t left = count % 8; left != 0) {
    uint64_t word = 0;
    std::memcpy(&word, codes + 8 * groups, left);
    word = Gather<kBits>(word);
    std::memcpy(out + kBits * groups, &word, PackedBytes(left, kBits));
  }
}

template <int kBits>
void Unpack(const char* packed, size_t count, uint8_t* codes) {
  const size_t groups = count / 8;
  const size_t bytes = PackedBytes(count, kBits);
  // A whole word is loaded while there is one: gathering kBits bytes into a word is several times
  // slower.
  const size_t whole = bytes < 8 ? 0 : std::min(groups, (bytes - 8) / kBits + 1);
  for (size_t g = 0; g < whole; ++g) {
    uint64_t word;
    std::memcpy(&word, packed + kBits * g, 8);
    word = Spread<kBits>(word & LowBits(8 * kBits));
    std::memcpy(codes + 8 * g, &word, 8);
  }
  for (size_t at = 8 * whole; at < count; at += 8) {
    const size_t left = std::min<size_t>(8, count - at);
    uint64_t word = 0;
    std::memcpy(&word, packed + kBits * (at / 8), PackedBytes(left, kBits));
    word = Spread<kBits>(word);
    std::memcpy(codes + at, &word, left);
  }
}

}  // namespace

void PackBits(absl::Span<const uint8_t> codes, int bits, char* out) {
  const uint8_t* const data = codes.data();
  const size_t count = codes.size();
  if (count == 0) return;
  switch (bits) {
    case 1:
      return Pack<1>(data, count, out);
    case 2:
      return Pack<2>(data, count, out);
    case 3:
      return Pack<3>(data, count, out);
    case 4:
      return Pack<4>(data, count, out);
    case 5:
      return Pack<5>(data, count, out);
    case 6:
      return Pack<6>(data, count, out);
    case 7:
      return Pack<7>(data, count, out);
    case 8:
      std::memcpy(out, data, count);
      return;
    default:
      QFL_CHECK(bits >= 1 && bits <= 8);
  }
}

void UnpackBits(absl::string_view packed, int bits, absl::Span<uint8_t> codes) {
  QFL_CHECK(bits >= 1 && bits <= 8);
  const size_t count = codes.size();
  QFL_CHECK(packed.size() == PackedBytes(count, bits));
  if (count == 0) return;
  uint8_t* const out = codes.data();
  switch (bits) {
    case 1:
      return Unpack<1>(packed.data(), count, out);
    case 2:
      return Unpack<2>(packed.data(), count, out);
    case 3:
      return Unpack<3>(packed.data(), count, out);
    case 4:
      return Unpack<4>(packed.data(), count, out);
    case 5:
      return Unpack<5>(packed.data(), count, out);
    case 6:
      return Unpack<6>(packed.data(), count, out);
    case 7:
      return Unpack<7>(packed.data(), count, out);
    default:
      std::memcpy(out, packed.data(), count);
  }
}

}  // namespace quantfl::codec
