#include "common/data/transform.h"

#include <map>
#include <string>
#include <tuple>

#include "common/data/input_metadata.h"
#include "common/model/safetensors.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace quantfl::data {
namespace {

using federation::InputSpec;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

Dataset Noise(uint32_t count, uint32_t channels, uint32_t height, uint32_t width) {
  Dataset data;
  data.channels = channels;
  data.height = height;
  data.width = width;
  data.labels.resize(count);
  data.pixels.resize(count * data.example_bytes());
  base::Prng prng({.run_seed = 2, .purpose = base::PrngPurpose::kSynthetic});
  // No pixel is black: padding is told apart.
  for (uint8_t& pixel : data.pixels) pixel = static_cast<uint8_t>(1 + prng.Below(255));
  return data;
}

Transform Make(const InputSpec& input, const Dataset& data) {
  absl::StatusOr<Transform> transform = Transform::Create(input, data);
  EXPECT_TRUE(transform.ok()) << transform.status();
  return *std::move(transform);
}

std::vector<float> Apply(const Transform& transform, const Dataset& data, uint64_t example) {
  std::vector<float> out(transform.values());
  transform.Apply(data, example, out.data());
  return out;
}

constexpr base::PrngKey kKey = {.run_seed = 3, .round = 2, .client_index = 1};

std::vector<float> Augmented(const Transform& transform, const Dataset& data, uint64_t example,
                             uint32_t pass, base::PrngKey key = kKey) {
  std::vector<float> out(transform.values());
  transform.ApplyAugmented(data, example, key, pass, out.data());
  return out;
}

TEST(TransformTest, Apply_EachChannelIsNormalisedByItsOwnNumbers) {
  Dataset data;
  data.channels = 3;
  data.height = 1;
  data.width = 2;
  data.labels = {0, 0};
  data.pixels = {9, 9, 9, 9, 9, 9, 0, 255, 51, 102, 255, 0};
  const Transform transform = Make({.mean = {0, 0.2, 0.5}, .stddev = {1, 0.1, 0.25}}, data);
  EXPECT_EQ(transform.shape(), (std::vector<uint64_t>{3, 1, 2}));
  EXPECT_FALSE(transform.augments());
  const auto near = [](float v) { return testing::FloatNear(v, 1e-6f); };
  EXPECT_THAT(Apply(transform, data, 1),
              ElementsAre(near(0), near(1), near(0), near(2), near(2), near(-2)));
}

TEST(TransformTest, Apply_GreyStandsInEachChannel) {
  const Dataset data = Noise(2, 1, 3, 4);
  const Transform transform =
      Make({.mean = {0.1, 0.2, 0.3}, .stddev = {1, 2, 3}, .channels = 3}, data);
  const std::vector<float> out = Apply(transform, data, 1);
  ASSERT_EQ(out.size(), 36u);
  for (int c = 0; c < 3; ++c) {
    const auto k = static_cast<float>(c + 1);
    for (int i = 0; i < 12; ++i) {
      EXPECT_FLOAT_EQ(out[12 * c + i],
                      (static_cast<float>(data.pixels[12 + i]) / 255 - 0.1f * k) / k);
    }
  }
}

// By hand, from the formula: of a row 0, 255 the places 0, 0.25, 0.75, 1.
TEST(TransformTest, Resize_IsBilinearWithCornersNotAligned) {
  Dataset data;
  data.height = 1;
  data.width = 2;
  data.labels = {0};
  data.pixels = {0, 255};
  EXPECT_THAT(
      Apply(Make({.height = 1, .width = 4}, data), data, 0),
      ElementsAre(0, testing::FloatEq(0.25f), testing::FloatEq(0.75f), testing::FloatEq(1)));
  data.width = 4;
  data.pixels = {0, 51, 102, 255};
  // Without antialiasing: between the second and third of each two.
  const std::vector<float> half = Apply(Make({.height = 2, .width = 2}, data), data, 0);
  EXPECT_THAT(half, ElementsAre(testing::FloatEq(0.1f), testing::FloatEq(0.7f),
                                testing::FloatEq(0.1f), testing::FloatEq(0.7f)));
}

// What was drawn is one of the windows, each of them about as often, flipped every other time.
TEST(TransformTest, ApplyAugmented_IsAWindowOfThePaddedImage_EachAsOften) {
  for (const auto& [height, width] : {std::pair(5u, 6u), std::pair(7u, 9u)}) {
    const Dataset data = Noise(500, 3, 5, 6);
    InputSpec input = {.mean = {0.5, 0.4, 0.3}, .stddev = {0.2, 0.3, 0.4}, .channels = 3};
    input.height = height;
    input.width = width;
    const Transform plain = Make(input, data);
    input.augment = {.crop_padding = 2, .flip = true};
    const Transform transform = Make(input, data);
    EXPECT_TRUE(transform.augments());
    std::map<std::tuple<int, int, bool>, int> seen;
    for (uint32_t pass = 0; pass < 10; ++pass) {
      for (uint64_t i = 0; i < 500; ++i) {
        const std::vector<float> base = Apply(plain, data, i);
        const std::vector<float> got = Augmented(transform, data, i, pass);
        int matches = 0;
        for (int dy = -2; dy <= 2; ++dy) {
          for (int dx = -2; dx <= 2; ++dx) {
            for (const bool flip : {false, true}) {
              bool same = true;
              for (uint32_t c = 0; same && c < 3; ++c) {
                const float black =
                    static_cast<float>((0.0 - input.mean.at(c)) / input.stddev.at(c));
                for (int y = 0; same && y < static_cast<int>(height); ++y) {
                  for (int x = 0; same && x < static_cast<int>(width); ++x) {
                    const int from_y = y + dy;
                    const int from_x = (flip ? static_cast<int>(width) - 1 - x : x) + dx;
                    const bool outside = from_y < 0 || from_y >= static_cast<int>(height) ||
                                         from_x < 0 || from_x >= static_cast<int>(width);
                    const float want =
                        outside ? black : base[(c * height + from_y) * width + from_x];
                    same = std::abs(got[(c * height + y) * width + x] - want) < 1e-5f;
                  }
                }
              }
              if (same) ++matches, ++seen[{dy, dx, flip}];
            }
          }
        }
        ASSERT_EQ(matches, 1) << "example " << i;
      }
    }
    // 5,000 draws of 50: 100 each, give or take ten.
    EXPECT_EQ(seen.size(), 50u);
    for (const auto& [what, times] : seen) {
      EXPECT_GT(times, 55);
      EXPECT_LT(times, 150);
    }
  }
}

TEST(TransformTest, ApplyAugmented_DependsOnKeyPassAndExampleAlone) {
  const Dataset data = Noise(40, 1, 12, 12);
  const Transform transform = Make({.augment = {.crop_padding = 5, .flip = true}}, data);
  const Transform again = Make({.augment = {.crop_padding = 5, .flip = true}}, data);
  base::PrngKey other_purpose = kKey, other_client = kKey, other_round = kKey;
  other_purpose.purpose = base::PrngPurpose::kBatchOrder;
  other_client.client_index = 2;
  other_round.round = 3;
  int same_pass = 0, same_client = 0, same_round = 0;
  for (uint64_t i = 40; i-- > 0;) {
    const std::vector<float> first = Augmented(transform, data, i, 1);
    EXPECT_EQ(first, Augmented(again, data, i, 1));
    EXPECT_EQ(first, Augmented(transform, data, i, 1, other_purpose));
    same_pass += first == Augmented(transform, data, i, 2);
    same_client += first == Augmented(transform, data, i, 1, other_client);
    same_round += first == Augmented(transform, data, i, 1, other_round);
  }
  EXPECT_LT(same_pass, 4);
  EXPECT_LT(same_client, 4);
  EXPECT_LT(same_round, 4);
}

TEST(TransformTest, ApplyAugmented_OfTwoPassesOneIsFlipped) {
  const Dataset data = Noise(64, 1, 6, 6);
  const Transform plain = Make({}, data), transform = Make({.augment = {.flip = true}}, data);
  int first_flipped = 0;
  for (uint64_t i = 0; i < 64; ++i) {
    const std::vector<float> as_it_is = Apply(plain, data, i);
    for (const uint32_t pass : {0u, 2u, 8u}) {
      const bool first = Augmented(transform, data, i, pass) != as_it_is;
      EXPECT_NE(Augmented(transform, data, i, pass + 1) != as_it_is, first) << pass;
      first_flipped += first;
    }
  }
  EXPECT_GT(first_flipped, 64);
  EXPECT_LT(first_flipped, 128);
}

// The same words on every machine: golden.
TEST(TransformTest, ApplyAugmented_DrawsFromTheKeysBlocks) {
  Dataset data;
  data.height = data.width = 9;
  data.labels.resize(7);
  data.pixels.resize(7 * 81);
  data.pixels[6 * 81 + 4 * 9 + 4] = 255;  // the middle of the last one
  const Transform transform = Make({.augment = {.crop_padding = 4, .flip = true}}, data);
  base::PrngKey key = kKey;
  key.purpose = base::PrngPurpose::kAugment;
  const std::array<uint32_t, 4> words = base::PrngBlock(key, (uint64_t{5} << 32) + 6);
  const uint32_t flips = base::PrngBlock(key, (uint64_t{4} << 32) + 6)[2] + 1;  // not as in pass 4
  const auto row = static_cast<int>(4 - (uint64_t{words[0]} * 9 >> 32) + 4);
  auto column = static_cast<int>(4 - (uint64_t{words[1]} * 9 >> 32) + 4);
  if (flips % 2 == 1) column = 8 - column;
  const std::vector<float> out = Augmented(transform, data, 6, 5);
  EXPECT_EQ(out[row * 9 + column], 1.0f);
  EXPECT_EQ(std::count(out.begin(), out.end(), 0.0f), 80);
}

TEST(TransformTest, Apply_Signals_AreNormalisedAlone) {
  Dataset data;
  data.channels = 2;
  data.height = 1;
  data.width = 3;
  data.labels = {0, 0};
  data.features = {9, 9, 9, 9, 9, 9, 1, 2, 3, -1, -2, 1000};
  const Transform transform = Make({.mean = {0, 1}, .stddev = {2, 1}}, data);
  EXPECT_THAT(Apply(transform, data, 1), ElementsAre(0.5f, 1, 1.5f, -2, -3, 999));
  const std::pair<InputSpec, std::string> cases[] = {
      {{.height = 2, .width = 3}, "signals of 2 x 1 x 3, but the run asks for 2 x 2 x 3"},
      {{.augment = {.flip = true}}, "random crops or flips, which images alone have"},
  };
  for (const auto& [input, message] : cases) {
    EXPECT_THAT(std::string(Transform::Create(input, data).status().message()), HasSubstr(message));
  }
}

TEST(TransformTest, Create_WhatDoesNotGoTogether_IsNamed) {
  const Dataset grey = Noise(1, 1, 8, 8), colour = Noise(1, 3, 8, 8);
  const std::tuple<InputSpec, const Dataset&, std::string> cases[] = {
      {{.channels = 1}, colour, "examples of 3 channels, but the network takes 1"},
      {{.mean = {1, 2}}, colour, "input.mean has 2 numbers for 3 channels"},
      {{.stddev = {1, 2, 3}}, grey, "input.stddev has 3 numbers for 1 channels"},
      {{.stddev = 0}, grey, "input.stddev = 0"},
      {{.augment = {.crop_padding = 8}},
       grey,
       "input.crop_padding = 8: it is below the sides of an image, 8 x 8"},
  };
  for (const auto& [input, data, message] : cases) {
    const absl::Status status = Transform::Create(input, data).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << message;
    EXPECT_THAT(std::string(status.message()), HasSubstr(message));
  }
}

TEST(InputMetadataTest, WhatWasWritten_ReadsBack) {
  for (const InputSpec& input :
       {InputSpec{.mean = 0.5, .stddev = 0.25}, InputSpec{.mean = {0.485, 0.456, 0.406},
                                                .stddev = {0.229, 0.224, 0.225},
                                                .height = 128,
                                                .width = 96}}) {
    InputSpec read;
    ASSERT_TRUE(ReadInputMetadata(InputMetadata(input), read).ok());
    EXPECT_EQ(read, input);
  }
}

TEST(InputMetadataTest, OfPublishedNetworks_IsThatOfTheirWeights) {
  for (const char* name : {"mobilenet_v2", "resnet20", "resnet56", "squeezenet1_1"}) {
    const InputSpec input = ArchitectureInput(name);
    EXPECT_EQ(input.mean, (federation::PerChannel{0.485, 0.456, 0.406})) << name;
    EXPECT_EQ(input.stddev, (federation::PerChannel{0.229, 0.224, 0.225})) << name;
    EXPECT_EQ(input.channels, 3u);
    EXPECT_EQ(input.height, 0u);
  }
  EXPECT_EQ(ArchitectureInput("lenet5").mean, 0);
  EXPECT_EQ(ArchitectureInput("lenet5").channels, 1u);
  EXPECT_EQ(ArchitectureInput("custom"), InputSpec());
}

TEST(InputMetadataTest, Damaged_IsDataLossNamingKeyAndValue) {
  const std::pair<std::map<std::string, std::string>, std::string> cases[] = {
      {{{model::kMetadataInputMean, "zero"}}, "metadata quantfl.input_mean is \"zero\""},
      {{{model::kMetadataInputHeight, "-1"}}, "metadata quantfl.input_height is \"-1\""},
      {{{model::kMetadataInputHeight, "9999"}}, "input.height = 9999: it is 0 to 4096"},
      {{{model::kMetadataInputStddev, "1,0"}}, "input.stddev = 0"},
  };
  for (const auto& [metadata, message] : cases) {
    InputSpec input;
    const absl::Status status = ReadInputMetadata(metadata, input);
    EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss) << message;
    EXPECT_THAT(std::string(status.message()), HasSubstr(message));
  }
}

}  // namespace
}  // namespace quantfl::data
