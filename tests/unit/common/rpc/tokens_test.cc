#include "common/rpc/tokens.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "absl/strings/str_cat.h"

namespace quantfl::rpc {
namespace {

using ::testing::HasSubstr;

std::string Hash(absl::string_view token) { return base::Sha256(token).Hex(); }

TEST(TokenTableTest, Find_GivesDeviceAndRoleOfTheToken) {
  const auto table =
      TokenTable::Parse(absl::StrCat("# test bed\n\n  pi-07\ttrainer ", Hash("secret-of-pi-07"),
                                     "\r\njudge evaluator ", Hash("secret-of-judge"),
                                     "\nalice operator ", Hash("secret-of-alice")),
                        "tokens");
  ASSERT_TRUE(table.ok()) << table.status();
  EXPECT_EQ(table->size(), 3u);
  EXPECT_EQ(table->Find("secret-of-pi-07")->device, "pi-07");
  EXPECT_EQ(table->Find("secret-of-pi-07")->role, federation::Role::kTrainer);
  EXPECT_EQ(table->Find("secret-of-judge")->role, federation::Role::kEvaluator);
  EXPECT_EQ(table->Find("secret-of-alice")->role, std::nullopt);
}

TEST(TokenTableTest, UnknownToken_IsUnauthenticatedAndNotShown) {
  const auto table = TokenTable::Parse(absl::StrCat("a trainer ", Hash("right")), "tokens");
  ASSERT_TRUE(table.ok());
  EXPECT_FALSE(table->Find("").ok());
  for (const std::string token : {"wrong", "righ", "right "}) {
    const absl::Status status = table->Find(token).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kUnauthenticated);
    EXPECT_EQ(std::string(status.message()).find(token), std::string::npos);
  }
  EXPECT_FALSE(table->Find(std::string(1 << 20, 'x')).ok());
  // The hash itself opens nothing.
  EXPECT_FALSE(table->Find(Hash("right")).ok());
}

TEST(TokenTableTest, EveryMistake_IsNamedWithFileAndLine) {
  const std::string hash = Hash("x");
  const std::pair<std::string, std::string> cases[] = {
      {"a trainer", "2 fields"},
      {absl::StrCat("a trainer ", hash, " more"), "4 fields"},
      {absl::StrCat("a/b trainer ", hash), "device name"},
      {absl::StrCat("a boss ", hash), "role \"boss\""},
      {"a trainer 1234", "4 characters"},
      {absl::StrCat("a trainer ", hash, "\nb trainer ", hash), "same token as in line 2"},
  };
  for (const auto& [text, expected] : cases) {
    const absl::Status status = TokenTable::Parse(absl::StrCat("\n", text), "dir/tokens").status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << text;
    EXPECT_THAT(std::string(status.message()), HasSubstr("dir/tokens:")) << text;
    EXPECT_THAT(std::string(status.message()), HasSubstr(expected));
  }
}

TEST(ParseTokenTest, TakesTheTokenWithoutTheWhiteSpaceAroundIt) {
  EXPECT_EQ(*ParseToken("  0123456789abcdef\n"), "0123456789abcdef");
}

TEST(ParseTokenTest, RefusesWhatIsNoToken) {
  EXPECT_FALSE(ParseToken("").ok());
  EXPECT_FALSE(ParseToken("short").ok());
  EXPECT_FALSE(ParseToken("0123456789 abcdef").ok());
  EXPECT_FALSE(ParseToken(std::string(257, 'a')).ok());
  EXPECT_FALSE(ParseToken(std::string(32, '\x7f')).ok());
}

}  // namespace
}  // namespace quantfl::rpc
