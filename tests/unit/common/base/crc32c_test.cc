#include "common/base/crc32c.h"

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "common/base/crc32c_internal.h"
#include "common/base/prng.h"
#include "gtest/gtest.h"

namespace quantfl::base {
namespace {

using crc32c_internal::ExtendFunction;
using crc32c_internal::ExtendPortable;
using crc32c_internal::HardwareExtends;

std::string RandomBytes(size_t n) {
  Prng prng(PrngKey{.run_seed = n, .purpose = PrngPurpose::kSynthetic});
  std::string bytes(n, '\0');
  for (char& byte : bytes) byte = static_cast<char>(prng.NextU32());
  return bytes;
}

std::vector<ExtendFunction> Implementations() {
  std::vector<ExtendFunction> all = {&ExtendPortable, &ExtendCrc32c};
  for (const ExtendFunction hardware : HardwareExtends()) all.push_back(hardware);
  return all;
}

TEST(Crc32cTest, KnownAnswers_MatchRfc3720) {
  std::string ascending, descending;
  for (int i = 0; i < 32; ++i) ascending.push_back(static_cast<char>(i));
  for (int i = 31; i >= 0; --i) descending.push_back(static_cast<char>(i));
  for (const ExtendFunction extend : Implementations()) {
    EXPECT_EQ(extend(0, "123456789"), 0xe3069283u);
    EXPECT_EQ(extend(0, std::string(32, '\0')), 0x8a9136aau);
    EXPECT_EQ(extend(0, std::string(32, '\xff')), 0x62a8ab43u);
    EXPECT_EQ(extend(0, ascending), 0x46dd794eu);
    EXPECT_EQ(extend(0, descending), 0x113fdb5cu);
  }
}

TEST(Crc32cTest, NoBytes_ChangeNothing) {
  EXPECT_EQ(Crc32c(""), 0u);
  for (const ExtendFunction extend : Implementations()) {
    EXPECT_EQ(extend(0x12345678, absl::string_view()), 0x12345678u);
  }
}

// Lengths at which the loops of several parts or vectors begin and end.
TEST(Crc32cTest, HardwareAndPortable_AgreeOnLongInputs) {
  if (HardwareExtends().empty()) GTEST_SKIP() << "this processor has no CRC-32C instruction";
  const std::string bytes = RandomBytes(20000);
  for (const ExtendFunction hardware : HardwareExtends()) {
    for (const size_t size :
         {255u,  256u,  257u,  319u,  320u,  503u,  504u,  505u,   511u,  512u,  513u,
          575u,  576u,  577u,  1007u, 1008u, 1009u, 1024u, 1512u,  2039u, 2040u, 2041u,
          2048u, 4079u, 4080u, 4081u, 4096u, 4584u, 8160u, 12345u, 20000u}) {
      const absl::string_view part = absl::string_view(bytes).substr(0, size);
      ASSERT_EQ(hardware(0x01234567, part), ExtendPortable(0x01234567, part)) << size;
    }
  }
}

TEST(Crc32cTest, HardwareAndPortable_AgreeAtEveryLengthAndAlignment) {
  if (HardwareExtends().empty()) GTEST_SKIP() << "this processor has no CRC-32C instruction";
  const std::string bytes = RandomBytes(400);
  for (const ExtendFunction hardware : HardwareExtends()) {
    for (size_t offset = 0; offset < 16; ++offset) {
      for (size_t size = 0; size + offset <= bytes.size(); ++size) {
        const absl::string_view part = absl::string_view(bytes).substr(offset, size);
        ASSERT_EQ(hardware(0xdeadbeef, part), ExtendPortable(0xdeadbeef, part))
            << "offset " << offset << ", size " << size;
      }
    }
  }
}

TEST(Crc32cTest, Extend_IsTheChecksumOfTheConcatenation) {
  const std::string bytes = RandomBytes(100);
  const uint32_t whole = Crc32c(bytes);
  for (const ExtendFunction extend : Implementations()) {
    for (size_t cut = 0; cut <= bytes.size(); ++cut) {
      const absl::string_view view = bytes;
      ASSERT_EQ(extend(extend(0, view.substr(0, cut)), view.substr(cut)), whole) << cut;
    }
  }
}

TEST(Crc32cTest, Concatenated_IsTheChecksumOfBothParts) {
  const std::string bytes = RandomBytes(300000);
  const absl::string_view view = bytes;
  for (const size_t size : {0u, 1u, 12u, 4096u, 131072u, 300000u}) {
    for (const size_t cut : {size_t{0}, size / 3, size}) {
      ASSERT_EQ(ConcatenatedCrc32c(Crc32c(view.substr(0, cut)),
                                   Crc32c(view.substr(cut, size - cut)), size - cut),
                Crc32c(view.substr(0, size)))
          << size << ", cut at " << cut;
    }
  }
}

TEST(Crc32cTest, EverySingleBitError_IsSeen) {
  std::string bytes = RandomBytes(64);
  const uint32_t right = Crc32c(bytes);
  for (size_t bit = 0; bit < 8 * bytes.size(); ++bit) {
    bytes[bit / 8] = static_cast<char>(bytes[bit / 8] ^ (1 << (bit % 8)));
    ASSERT_NE(Crc32c(bytes), right) << bit;
    bytes[bit / 8] = static_cast<char>(bytes[bit / 8] ^ (1 << (bit % 8)));
  }
}

}  // namespace
}  // namespace quantfl::base
