#include "client/model/name_map.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace quantfl::model_tool {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

const model::Schema& Schema() {
  static const auto* const schema = new model::Schema(
      *model::Schema::Create("m", {{"features.0.weight", {2, 2}},
                                   {"features.0.running_mean", {2}, model::Policy::kFp32},
                                   {"features.10.weight", {2, 2}},
                                   {"head.weight", {2, 2}}}));
  return *schema;
}

TEST(NameMapTest, Rules_ApplyToATensorOrAModule_TheFirstThatFits) {
  const absl::StatusOr<std::vector<std::string>> names = ApplyNameMap(
      "# ours\n\n features.10.weight=last.weight # one\r\nfeatures.* = body.*\n", Schema());
  ASSERT_TRUE(names.ok()) << names.status();
  EXPECT_THAT(*names,
              ElementsAre("body.0.weight", "body.0.running_mean", "last.weight", "head.weight"));
  // A module's name is not the beginning of another's.
  EXPECT_THAT(
      *ApplyNameMap("features.1.* = x.*\nhead.* = y.z.*",
                    *model::Schema::Create(
                        "m", {{"features.1.w", {2}}, {"features.10.w", {2}}, {"head.w", {2}}})),
      ElementsAre("x.w", "features.10.w", "y.z.w"));
  EXPECT_THAT(*ApplyNameMap("", Schema()),
              ElementsAre("features.0.weight", "features.0.running_mean", "features.10.weight",
                          "head.weight"));
}

TEST(NameMapTest, Mistakes_AreNamedWithTheirLine) {
  struct Case {
    const char* text;
    const char* message;
  };
  const Case cases[] = {
      {"\nfeatures.0.weight stem\n", "line 2: got \"features.0.weight stem\", expected \"name ="},
      {"= a", "line 1: got \"= a\""},
      {"a =", "line 1: got \"a =\""},
      {"features.* = stem", "line 1: got \"features.* = stem\""},
      {"feat*.weight = a.weight", "line 1: got"},
      {"features.0.wieght = a",
       "line 1: \"features.0.wieght\" is no trainable tensor of the module "
       "that is still to be named; near: features.0.weight"},
      {"zzzzzz = a", "; its first is features.0.weight"},
      {"features.2.* = a.*", "\"features.2.*\" is no trainable tensor"},
      {"head.* = a.*\nhead.* = b.*", "line 2: \"head.*\" is no trainable tensor"},
      {"head.weight = x.running_mean", "line 1: head.weight cannot be x.running_mean"},
      {"features.0.running_mean = x.mean", "line 1: features.0.running_mean cannot be x.mean"},
      {"head.weight = a\nfeatures.10.weight = a",
       "a would be the name of features.10.weight and of head.weight"},
      {"features.10.weight = head.weight",
       "line 1: head.weight would be the name of head.weight and of features.10.weight"},
      // Each is free when the other has gone, but nobody could tell a mistake from it.
      {"features.10.weight = head.weight\nhead.weight = features.10.weight",
       "line 1: head.weight would be the name of head.weight and of features.10.weight"},
  };
  for (const Case& c : cases) {
    const absl::Status status = ApplyNameMap(c.text, Schema()).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << c.text;
    EXPECT_THAT(std::string(status.message()), HasSubstr(c.message)) << c.text;
  }
}

}  // namespace
}  // namespace quantfl::model_tool
