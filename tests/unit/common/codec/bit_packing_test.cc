#include "common/codec/bit_packing.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "common/base/prng.h"

namespace quantfl::codec {
namespace {

// One bit at a time, from the definition.
std::string PackSlowly(const std::vector<uint8_t>& codes, int bits) {
  std::string packed(PackedBytes(codes.size(), bits), '\0');
  for (size_t i = 0; i < codes.size(); ++i) {
    for (int b = 0; b < bits; ++b) {
      const size_t at = i * bits + b;
      const int bit = (codes[i] >> b) & 1;
      packed[at / 8] = static_cast<char>(packed[at / 8] | (bit << (at % 8)));
    }
  }
  return packed;
}

TEST(BitPacking_, EveryWidthAndLength_FollowsTheDefinition_AndUnpacks) {
  base::Prng prng({.run_seed = 3});
  for (int bits = 1; bits <= 8; ++bits) {
    for (size_t count = 0; count <= 70; ++count) {
      std::vector<uint8_t> codes(count);
      for (uint8_t& code : codes) code = static_cast<uint8_t>(prng.Below(uint64_t{1} << bits));
      std::string packed(PackedBytes(count, bits), '\x55');
      PackBits(codes, bits, packed.data());
      ASSERT_EQ(packed, PackSlowly(codes, bits)) << bits << " bits, " << count << " codes";
      std::vector<uint8_t> unpacked(count, 0xaa);
      UnpackBits(packed, bits, absl::MakeSpan(unpacked));
      ASSERT_EQ(unpacked, codes) << bits << " bits, " << count << " codes";
    }
  }
}

TEST(BitPacking_, PackedBytes_RoundsUp) {
  EXPECT_EQ(PackedBytes(0, 5), 0u);
  EXPECT_EQ(PackedBytes(1, 1), 1u);
  EXPECT_EQ(PackedBytes(8, 3), 3u);
  EXPECT_EQ(PackedBytes(9, 3), 4u);
}

TEST(BitPackingDeathTest, WrongSize_IsAProgrammersError) {
  std::vector<uint8_t> codes(9);
  EXPECT_DEATH(UnpackBits("abc", 3, absl::MakeSpan(codes)), "check failed");
  EXPECT_DEATH(UnpackBits("abcd", 9, absl::MakeSpan(codes)), "check failed");
}

}  // namespace
}  // namespace quantfl::codec
