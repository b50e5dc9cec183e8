#include "common/base/digest.h"

#include <set>
#include <string>
#include <utility>

#include "absl/hash/hash.h"
#include "absl/strings/ascii.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace quantfl::base {
namespace {

using ::testing::HasSubstr;

// FIPS 180-4's examples.
constexpr char kEmptyHex[] = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
constexpr char kAbcHex[] = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

TEST(Sha256Test, KnownAnswers) {
  EXPECT_EQ(Sha256("").Hex(), kEmptyHex);
  EXPECT_EQ(Sha256("abc").Hex(), kAbcHex);
  EXPECT_EQ(Sha256(std::string(1000000, 'a')).Hex(),
            "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
}

TEST(Sha256HasherTest, Parts_GiveTheDigestOfTheWhole) {
  Sha256Hasher hasher;
  hasher.Update("a");
  hasher.Update("");
  hasher.Update("bc");
  EXPECT_EQ(std::move(hasher).Finish().Hex(), kAbcHex);
}

TEST(Sha256HasherTest, Move_TakesTheStateAlong) {
  Sha256Hasher first;
  first.Update("ab");
  Sha256Hasher second(std::move(first));
  second.Update("c");
  Sha256Hasher third;
  third.Update("something else");
  third = std::move(second);
  EXPECT_EQ(std::move(third).Finish().Hex(), kAbcHex);
}

TEST(Sha256HasherDeathTest, UseAfterFinish_IsAProgrammersError) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  Sha256Hasher hasher;
  std::move(hasher).Finish();
  EXPECT_DEATH(hasher.Update("a"), "check failed");
}

TEST(DigestTest, Hex_RoundTripsInBothCases) {
  const Digest digest = Sha256("abc");
  const auto lower = Digest::FromHex(kAbcHex);
  ASSERT_TRUE(lower.ok()) << lower.status();
  EXPECT_EQ(*lower, digest);
  const auto upper = Digest::FromHex(absl::AsciiStrToUpper(kAbcHex));
  ASSERT_TRUE(upper.ok()) << upper.status();
  EXPECT_EQ(*upper, digest);
  EXPECT_EQ(digest.ShortHex(), "ba7816bf8f01");
}

TEST(DigestTest, FromHex_WrongLengthOrDigit_IsInvalid) {
  const auto short_one = Digest::FromHex("ba78");
  EXPECT_EQ(short_one.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(short_one.status().message()), HasSubstr("64"));
  EXPECT_FALSE(Digest::FromHex(std::string(65, '0')).ok());

  std::string wrong = kAbcHex;
  wrong[10] = '\n';
  const auto status = Digest::FromHex(wrong).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), HasSubstr("character 11"));
  // Never the raw byte: messages end in logs.
  EXPECT_THAT(std::string(status.message()), HasSubstr("\\n"));
}

TEST(DigestTest, Bytes_RoundTripAndHaveOneLength) {
  const Digest digest = Sha256("abc");
  const auto copy = Digest::FromBytes(digest.AsBytes());
  ASSERT_TRUE(copy.ok()) << copy.status();
  EXPECT_EQ(*copy, digest);
  for (const size_t size : {0, 31, 33}) {
    EXPECT_EQ(Digest::FromBytes(std::string(size, 'x')).status().code(),
              absl::StatusCode::kInvalidArgument)
        << size;
  }
}

TEST(DigestTest, IsZero_OnlyWhenEveryByteIs) {
  Digest digest;
  EXPECT_TRUE(digest.IsZero());
  digest.bytes[31] = 1;
  EXPECT_FALSE(digest.IsZero());
}

TEST(DigestTest, OrderAndHash_FollowTheBytes) {
  EXPECT_LT(Digest(), Sha256("abc"));
  EXPECT_LT(Sha256("abc"), Sha256(""));
  EXPECT_EQ(absl::HashOf(Sha256("abc")), absl::HashOf(*Digest::FromHex(kAbcHex)));
}

TEST(ConstantTimeEqualTest, EqualOnlyIfSizeAndBytesAre) {
  EXPECT_TRUE(ConstantTimeEqual("", ""));
  EXPECT_TRUE(ConstantTimeEqual("token", "token"));
  EXPECT_FALSE(ConstantTimeEqual("token", "tokem"));
  EXPECT_FALSE(ConstantTimeEqual("token", "Token"));
  EXPECT_FALSE(ConstantTimeEqual("token", "toke"));
  EXPECT_FALSE(ConstantTimeEqual("", "t"));
}

TEST(SecureRandomBytesTest, HaveTheSizeAndDoNotRepeat) {
  EXPECT_EQ(SecureRandomBytes(0), "");
  std::set<std::string> seen;
  for (int i = 0; i < 100; ++i) {
    const std::string bytes = SecureRandomBytes(16);
    EXPECT_EQ(bytes.size(), 16u);
    EXPECT_TRUE(seen.insert(bytes).second);
  }
}

}  // namespace
}  // namespace quantfl::base
