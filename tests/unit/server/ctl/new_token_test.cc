#include "server/ctl/new_token.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "common/rpc/tokens.h"

namespace quantfl::ctl {
namespace {

TEST(NewToken, AddsAHashThatTheTokenMatches) {
  base::MemoryEnv env;
  ASSERT_TRUE(env.WriteFileAtomically("tokens", "# of the test bed").ok());
  const auto first = NewToken("pi-01", "trainer", "tokens", env);
  const auto second = NewToken("box", "evaluator", "tokens", env);
  ASSERT_TRUE(first.ok()) << first.status();
  ASSERT_TRUE(second.ok()) << second.status();
  EXPECT_EQ(first->size(), 43u);
  EXPECT_NE(*first, *second);
  const std::string text = *env.ReadFile("tokens", 1 << 20);
  EXPECT_THAT(text, ::testing::StartsWith("# of the test bed\npi-01 trainer "));
  EXPECT_THAT(text, ::testing::Not(::testing::HasSubstr(*first)));
  const auto table = rpc::TokenTable::Parse(text, "tokens");
  ASSERT_TRUE(table.ok()) << table.status();
  EXPECT_EQ(table->Find(*first)->device, "pi-01");
  EXPECT_EQ(table->Find(*second)->role, federation::Role::kEvaluator);
}

TEST(NewToken, WrongNamesRolesAndFiles_ChangeNothing) {
  base::MemoryEnv env;
  EXPECT_FALSE(NewToken("a b", "trainer", "tokens", env).ok());
  EXPECT_FALSE(NewToken("a", "king", "tokens", env).ok());
  EXPECT_FALSE(env.Exists("tokens"));
  ASSERT_TRUE(env.WriteFileAtomically("tokens", "nonsense\n").ok());
  EXPECT_FALSE(NewToken("a", "trainer", "tokens", env).ok());
  EXPECT_EQ(*env.ReadFile("tokens", 100), "nonsense\n");
}

}  // namespace
}  // namespace quantfl::ctl
