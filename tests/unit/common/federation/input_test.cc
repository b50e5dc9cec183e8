#include "common/federation/input.h"

#include <limits>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace quantfl::federation {
namespace {

using ::testing::HasSubstr;

TEST(PerChannelTest, ToString_ReadsBackTheSame) {
  for (const PerChannel& numbers :
       {PerChannel(0.5), PerChannel{0.485, 0.456, 0.406}, PerChannel{1.0 / 3, -1e300, 5e-324}}) {
    const absl::StatusOr<PerChannel> read = ParsePerChannel(ToString(numbers));
    ASSERT_TRUE(read.ok()) << read.status();
    EXPECT_EQ(*read, numbers);
  }
  EXPECT_EQ(ToString({0.485, 0.456, 0.406}), "0.485,0.456,0.406");
  EXPECT_EQ(ParsePerChannel(" 1, 2.5")->values, (std::vector<double>{1, 2.5}));
}

TEST(PerChannelTest, Parse_WhatIsNoNumbers_IsRefused) {
  std::string many = "1";
  for (uint32_t i = 0; i < kInputChannelsMax; ++i) many += ",1";
  for (const std::string& text : {std::string(), std::string("zero"), std::string("1,,2"),
                                  std::string("nan"), std::string("1e999"), many}) {
    EXPECT_EQ(ParsePerChannel(text).status().code(), absl::StatusCode::kInvalidArgument) << text;
  }
}

TEST(InputSpecTest, Validate_NamesFieldValueAndLimit) {
  constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();
  EXPECT_TRUE(ValidateInput({}).ok());
  EXPECT_TRUE(ValidateInput({.mean = {0.485, 0.456, 0.406},
                             .stddev = 0.2,
                             .channels = 3,
                             .height = 128,
                             .width = 96,
                             .augment = {.crop_padding = 4, .flip = true}})
                  .ok());
  const std::pair<InputSpec, std::string> cases[] = {
      {{.stddev = 0}, "input.stddev = 0: it is 1e-06 to 1e+06"},
      {{.mean = kNaN}, "input.mean = nan"},
      {{.mean = {0, 1e7}}, "input.mean = 1e+07"},
      {{.mean = PerChannel(std::vector<double>())}, "input.mean has 0 numbers"},
      {{.mean = {0, 1}, .channels = 3},
       "input.mean has 2 numbers: it is one, or one for each of the 3"},
      {{.mean = {0, 1}, .stddev = {1, 1, 1}}, "input.mean has 2 numbers, input.stddev has 3"},
      {{.channels = 1025}, "input.channels = 1025: it is 0 to 1024"},
      {{.height = 5000, .width = 1}, "input.height = 5000: it is 0 to 4096"},
      {{.height = 32}, "input.height = 32 and input.width = 0"},
      {{.augment = {.crop_padding = 2000}}, "input.crop_padding = 2000: it is 0 to 1024"},
  };
  for (const auto& [input, message] : cases) {
    const absl::Status status = ValidateInput(input);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << message;
    EXPECT_THAT(std::string(status.message()), HasSubstr(message));
  }
}

}  // namespace
}  // namespace quantfl::federation
