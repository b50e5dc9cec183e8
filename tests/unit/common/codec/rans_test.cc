#include "common/codec/rans.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include "common/base/prng.h"

namespace quantfl::codec {
namespace {

constexpr size_t kNoLimit = size_t{1} << 24;

base::Prng Generator(uint32_t seed) {
  return base::Prng({.run_seed = seed, .purpose = base::PrngPurpose::kSynthetic});
}

// Bell-shaped codes around `centre`: `spread` is about the standard deviation.
std::vector<uint8_t> Bell(size_t n, int levels, double centre, double spread, uint32_t seed) {
  base::Prng prng = Generator(seed);
  std::vector<uint8_t> codes(n);
  for (uint8_t& code : codes) {
    double sum = -6;
    for (int i = 0; i < 12; ++i) sum += static_cast<double>(prng.UniformFloat());
    const long value = std::lround(centre + spread * sum);
    code = static_cast<uint8_t>(std::clamp(value, 0L, levels - 1L));
  }
  return codes;
}

// A zero bucket in the middle that almost all codes fall in: about `rate` of them do not.
std::vector<uint8_t> Sparse(size_t n, int levels, double rate, uint32_t seed) {
  base::Prng prng = Generator(seed);
  std::vector<uint8_t> codes(n);
  for (uint8_t& code : codes) {
    const double u = static_cast<double>(prng.UniformFloat());
    const int away = u >= rate ? 0 : 1 + static_cast<int>(-std::log2(u / rate + 1e-9) / 3);
    const int sign = prng.UniformFloat() < 0.5f ? -1 : 1;
    code = static_cast<uint8_t>(std::clamp(levels / 2 + sign * away, 0, levels - 1));
  }
  return codes;
}

// Bits of the codes at the entropy of their classes.
double EntropyBits(const std::vector<uint8_t>& codes, const std::vector<uint8_t>& classes) {
  std::vector<std::array<double, 256>> counts(kRansClassesMax);
  std::vector<double> totals(kRansClassesMax);
  for (size_t i = 0; i < codes.size(); ++i) {
    const size_t at = classes.empty() ? 0 : classes[i];
    ++counts[at][codes[i]];
    ++totals[at];
  }
  double bits = 0;
  for (size_t at = 0; at < counts.size(); ++at) {
    for (const double count : counts[at]) {
      if (count > 0) bits += count * std::log2(totals[at] / count);
    }
  }
  return bits;
}

RansStream RoundTrip(const std::vector<uint8_t>& codes, const std::vector<uint8_t>& classes,
                     int class_count, int levels) {
  const auto stream = RansEncode(codes, classes, class_count, levels, kNoLimit);
  EXPECT_TRUE(stream.has_value());
  if (!stream.has_value()) return {};
  std::vector<uint8_t> decoded(codes.size(), 0xee);
  const auto table_bytes =
      RansDecode(stream->bytes, classes, class_count, levels, absl::MakeSpan(decoded));
  EXPECT_TRUE(table_bytes.ok()) << table_bytes.status();
  if (table_bytes.ok()) {
    EXPECT_EQ(*table_bytes, stream->table_bytes);
  }
  EXPECT_TRUE(decoded == codes);
  return *stream;
}

TEST(Rans_, NoCodes_AreAFewBytes) {
  EXPECT_EQ(RoundTrip({}, {}, 1, 16).bytes.size(), 1 + 1 + 4u);
  EXPECT_EQ(RoundTrip({}, {}, 64, 16).bytes.size(), 1 + 64 + 4u);
}

TEST(Rans_, OneCode_RoundTrips) {
  for (const int levels : {2, 3, 16, 255, 256}) {
    const int stride = levels > 16 ? 17 : 1;  // all 256 of them take minutes under sanitizers
    for (int code = 0; code < levels; code += stride) {
      RoundTrip({static_cast<uint8_t>(code)}, {}, 1, levels);
    }
    RoundTrip({static_cast<uint8_t>(levels - 1)}, {}, 1, levels);
  }
}

TEST(Rans_, EqualCodes_CostNothingEach) {
  for (const uint8_t code : std::vector<uint8_t>{0, 1, 9, 15}) {
    EXPECT_LE(RoundTrip(std::vector<uint8_t>(100000, code), {}, 1, 16).bytes.size(), 8u);
  }
}

TEST(Rans_, EveryLengthAndNumberOfStates_RoundTrips) {
  for (size_t n = 0; n < 200; ++n) RoundTrip(Bell(n, 16, 7.3, 2, 1), {}, 1, 16);
  // 1 to 32 states, each with a last row that is not full.
  for (size_t n = 100; n < 300000; n = n * 3 / 2 + 1) RoundTrip(Bell(n, 8, 3.5, 1, 2), {}, 1, 8);
}

TEST(Rans_, AllSymbols_RoundTrip) {
  std::vector<uint8_t> codes(70001);
  for (size_t i = 0; i < codes.size(); ++i) codes[i] = static_cast<uint8_t>(i * i + i / 256);
  RoundTrip(codes, {}, 1, 256);
  // And where each occurs once beside one that fills the table.
  std::fill(codes.begin() + 256, codes.end(), uint8_t{255});
  for (size_t i = 0; i < 256; ++i) codes[i] = static_cast<uint8_t>(i);
  RoundTrip(codes, {}, 1, 256);
}

TEST(Rans_, ManyClasses_EachHasItsTable) {
  base::Prng prng = Generator(4);
  for (const int class_count : {1, 2, 7, 64}) {
    for (const size_t n : {0, 1, 63, 5000, 100000}) {
      std::vector<uint8_t> classes(n);
      std::vector<uint8_t> codes(n);
      for (size_t i = 0; i < n; ++i) {
        classes[i] = static_cast<uint8_t>(prng.Below(static_cast<uint64_t>(class_count)));
        const float u = prng.UniformFloat() + prng.UniformFloat() - 1;
        codes[i] = static_cast<uint8_t>(16 + std::lround(u * u * u * (classes[i] % 16)));
      }
      RoundTrip(codes, classes, class_count, 32);
    }
  }
}

TEST(Rans_, Size_IsWithinTwoHundredthsOfABitOfTheEntropy) {
  constexpr size_t kN = 65536;
  for (const int levels : {2, 3, 4, 8, 10, 16, 21, 32}) {
    for (const double spread : {0.05, 0.1, 0.2, 0.5}) {
      const auto codes = Bell(kN, levels, levels * 0.48, levels * spread, 5);
      const double bits = static_cast<double>(RoundTrip(codes, {}, 1, levels).bytes.size()) * 8;
      EXPECT_LT(bits / kN, EntropyBits(codes, {}) / kN + 0.02) << levels << " " << spread;
    }
  }
}

TEST(Rans_, SizeWithClasses_IsWithinTwoHundredthsOfABitOfTheEntropy) {
  constexpr size_t kN = 65536;
  std::vector<uint8_t> codes;
  std::vector<uint8_t> classes;
  for (uint8_t c = 0; c < 8; ++c) {
    for (const uint8_t code : Bell(kN / 8, 16, 7.7, 0.3 * (c + 1), c)) {
      codes.push_back(code);
      classes.push_back(c);
    }
  }
  const double bits = static_cast<double>(RoundTrip(codes, classes, 8, 16).bytes.size()) * 8;
  EXPECT_LT(bits / kN, EntropyBits(codes, classes) / kN + 0.02);
}

TEST(Rans_, LowRate_OverheadIsBelowFivePercent) {
  constexpr size_t kN = 1 << 20;
  for (const int levels : {3, 15, 31}) {
    for (const double rate : {0.0015, 0.0044, 0.01, 0.03}) {
      const auto codes = Sparse(kN, levels, rate, 6);
      const double bits = static_cast<double>(RoundTrip(codes, {}, 1, levels).bytes.size()) * 8;
      const double entropy = EntropyBits(codes, {});
      RecordProperty("bits", std::to_string(bits / kN));
      EXPECT_LT(bits, entropy * 1.05) << levels << " " << entropy / kN;
    }
  }
}

TEST(Rans_, SmallClasses_HaveParametricOrSharedTables) {
  std::vector<uint8_t> codes;
  std::vector<uint8_t> classes;
  for (uint8_t c = 0; c < 30; ++c) {
    for (const uint8_t code : Bell(64, 64, 31.5, 9, c)) {
      codes.push_back(code);
      classes.push_back(c);
    }
  }
  EXPECT_LT(RoundTrip(codes, classes, 30, 64).table_bytes, 30 * 3 + 1u);
}

TEST(Rans_, Limit_IsKept) {
  const auto codes = Bell(5000, 16, 7, 2, 7);
  const size_t size = RansEncode(codes, {}, 1, 16, kNoLimit)->bytes.size();
  for (size_t limit = 0; limit < size + 3; ++limit) {
    const auto stream = RansEncode(codes, {}, 1, 16, limit);
    ASSERT_EQ(stream.has_value(), limit > size) << limit;
    if (stream.has_value()) {
      EXPECT_EQ(stream->bytes.size(), size);
    }
  }
}

struct Sample {
  std::vector<uint8_t> codes;
  std::vector<uint8_t> classes;
  int class_count;
  int levels;
};

std::vector<Sample> Samples() {
  std::vector<Sample> samples;
  samples.push_back({Bell(300, 16, 7, 2, 8), {}, 1, 16});
  samples.push_back({Sparse(9000, 21, 0.01, 9), {}, 1, 21});
  samples.push_back({std::vector<uint8_t>(50, 3), {}, 1, 5});
  Sample many{Bell(900, 64, 30, 5, 10), std::vector<uint8_t>(900), 9, 64};
  for (size_t i = 0; i < many.classes.size(); ++i) many.classes[i] = static_cast<uint8_t>(i / 100);
  samples.push_back(std::move(many));
  return samples;
}

TEST(RansDecode_, CorruptByte_IsAnErrorOrCodesBelowTheLevels) {
  for (const Sample& sample : Samples()) {
    std::string bytes =
        RansEncode(sample.codes, sample.classes, sample.class_count, sample.levels, kNoLimit)
            ->bytes;
    std::vector<uint8_t> decoded(sample.codes.size());
    size_t refused = 0;
    size_t tried = 0;
    for (char& byte : bytes) {
      const char good = byte;
      for (const int flipped : {1, 2, 4, 8, 16, 32, 64, 128, 255}) {
        byte = static_cast<char>(good ^ flipped);
        ++tried;
        const auto result = RansDecode(bytes, sample.classes, sample.class_count, sample.levels,
                                       absl::MakeSpan(decoded));
        if (!result.ok()) {
          EXPECT_EQ(result.status().code(), absl::StatusCode::kDataLoss);
          EXPECT_FALSE(result.status().message().empty());
          ++refused;
        } else {
          for (const uint8_t code : decoded) ASSERT_LT(code, sample.levels);
        }
      }
      byte = good;
    }
    // What the coder itself cannot see, the checksums of chunk and codes do.
    EXPECT_GT(refused, tried * 9 / 10);
  }
}

TEST(RansDecode_, AnyOtherLength_IsDataLoss) {
  for (const Sample& sample : Samples()) {
    std::string bytes =
        RansEncode(sample.codes, sample.classes, sample.class_count, sample.levels, kNoLimit)
            ->bytes;
    std::vector<uint8_t> decoded(sample.codes.size());
    const auto decode = [&](absl::string_view changed) {
      return RansDecode(changed, sample.classes, sample.class_count, sample.levels,
                        absl::MakeSpan(decoded))
          .status()
          .code();
    };
    for (size_t size = 0; size < bytes.size(); ++size) {
      ASSERT_EQ(decode(absl::string_view(bytes).substr(0, size)), absl::StatusCode::kDataLoss);
    }
    for (int more = 1; more < 5; ++more) {
      bytes.push_back(1);
      ASSERT_EQ(decode(bytes), absl::StatusCode::kDataLoss);
    }
  }
}

struct BadTable {
  std::string name;
  std::string bytes;
  std::string message;
};

TEST(ParseRansTables_, HostileTable_IsRefusedByName) {
  const std::vector<BadTable> bad = {
      {"nothing", "", "cut off"},
      {"tag_6", "\x06", "tag 6"},
      {"same_as_itself", std::string(1, 64), "tag 64"},
      {"shift_5", std::string("\x15\x02\x03", 3), "tag 21"},
      {"explicit_cut", std::string("\x10\x02", 2), "cut off"},
      {"explicit_no_frequency", std::string("\x10\x02\x03", 3), "cut off"},
      {"explicit_half_frequency", std::string("\x10\x02\x03\x80", 4), "cut off"},
      {"explicit_zeros_cut", std::string("\x10\x02\x05\x00", 4), "cut off"},
      {"explicit_zeros_to_the_end", std::string("\x10\x02\x05\x00\x03", 5), "3 more"},
      {"explicit_reversed", std::string("\x10\x05\x04", 3), "codes 5 to 4"},
      {"explicit_beyond", std::string("\x10\x05\x10", 3), "of 16 levels"},
      {"explicit_zero_alone", std::string("\x10\x00\x00", 3), "codes 0 to 0"},
      {"explicit_too_much", std::string("\x10\x02\x03\x80\x20", 5), "sum to 4096"},
      {"explicit_far_too_much", std::string("\x10\x02\x03\xff\xff", 5), "sum to 32767"},
      {"explicit_shifted", std::string("\x14\x02\x03\x80\x02", 5), "sum to 256"},
      {"parametric_cut", std::string("\x02\x02", 2), "cut off"},
      {"parametric_mode", std::string("\x02\x10\x02", 3), "mode 16"},
      {"parametric_half_mode", std::string("\x05\x0f\x02", 3), "mode 15"},
      {"parametric_rate", std::string("\x04\x02\x68", 3), "rate 104"},
  };
  for (const BadTable& table : bad) {
    std::vector<RansFrequencies> tables;
    const auto size = ParseRansTables(table.bytes, 1, 16, 12, tables);
    ASSERT_FALSE(size.ok()) << table.name;
    EXPECT_EQ(size.status().code(), absl::StatusCode::kDataLoss) << table.name;
    EXPECT_THAT(std::string(size.status().message()), testing::HasSubstr(table.message))
        << table.name;
  }
}

TEST(ParseRansTables_, ShiftedFrequencies_AreInUnitsOfTwoToTheShift) {
  std::vector<RansFrequencies> tables;
  const std::string bytes("\x12\x02\x06\x80\x02\x00\x01\x05!", 9);
  ASSERT_EQ(*ParseRansTables(bytes, 1, 16, 12, tables), 8u);
  EXPECT_EQ(tables[0][2], 256 * 4);
  EXPECT_EQ(tables[0][3], 0);
  EXPECT_EQ(tables[0][4], 0);
  EXPECT_EQ(tables[0][5], 5 * 4);
  EXPECT_EQ(tables[0][6], 4096 - 256 * 4 - 5 * 4);
}

TEST(ParseRansTables_, EveryParametricTable_SumsToTheScaleWithoutAGap) {
  for (const int levels : {2, 3, 16, 255, 256}) {
    for (const int scale : {10, 12, 14}) {
      for (int family = 2; family <= 5; ++family) {
        for (int mode = 0; mode + family % 2 < levels; mode += 1 + levels / 8) {
          for (int rate = 0; rate < 104; ++rate) {
            const std::string bytes = {static_cast<char>(family), static_cast<char>(mode),
                                       static_cast<char>(rate)};
            std::vector<RansFrequencies> tables;
            ASSERT_TRUE(ParseRansTables(bytes, 1, levels, scale, tables).ok());
            uint32_t sum = 0;
            for (int c = 0; c < 256; ++c) {
              ASSERT_EQ(tables[0][c] > 0, c < levels);
              sum += tables[0][c];
            }
            ASSERT_EQ(sum, 1u << scale);
          }
        }
      }
    }
  }
}

}  // namespace
}  // namespace quantfl::codec
