// Rate control: never above what was asked for, and close to it.

#include "common/codec/rate.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <string>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "common/base/prng.h"

namespace quantfl::codec {
namespace {

using testing::HasSubstr;

const std::string kDigest(32, 'd');

Layout SomeLayout(uint64_t n) {
  return *Layout::Create({{{n * 2 / 3}, TensorPolicy::kQuantise},
                          {{7}, TensorPolicy::kFp32},
                          {{n - n * 2 / 3}, TensorPolicy::kQuantise}},
                         kDigest);
}

// Peaked, with tensors of different scales and rare large values.
std::vector<float> Draw(const Layout& layout, uint64_t seed) {
  base::Prng prng({.run_seed = seed});
  std::vector<float> delta(layout.n());
  for (size_t i = 0; i < delta.size(); ++i) {
    const double x = prng.Gaussian();
    delta[i] = static_cast<float>(1e-4 * x * (1 + x * x) * (i < layout.n() / 2 ? 1 : 3));
  }
  return delta;
}

base::PrngKey KeyOf(uint64_t seed) {
  return {.run_seed = seed, .purpose = base::PrngPurpose::kRounding};
}

double Nmse(const EncodedUpdate& update) { return update.squared_error / update.squared_norm; }

TEST(MaxBytes_, IsNeverExceeded_AndWithinTwoPercentWhereStepsAreContinuous) {
  base::Prng prng({.run_seed = 99});
  for (uint64_t seed = 0; seed < 24; ++seed) {
    const Layout layout = SomeLayout(5000 + prng.Below(40000));
    const std::vector<float> delta = Draw(layout, seed);
    for (const char* options : {"", ",round=stochastic", ",repr=gain,zero=0.7"}) {
      // From a twentieth of a bit a parameter to two bits: the finest step takes more.
      const double bits = 0.05 * std::pow(40.0, static_cast<double>(prng.UniformFloat()));
      const auto budget = static_cast<uint64_t>(300 + bits * static_cast<double>(layout.n()) / 8);
      const std::string spec =
          absl::StrCat("uniform", options, ",max_bytes=", budget, ",pack=rans");
      const auto update = Encode(delta, layout, *ParseSpec(spec), KeyOf(seed));
      ASSERT_TRUE(update.ok()) << spec << ": " << update.status();
      EXPECT_LE(update->payload.total(), budget) << spec << ", n = " << layout.n();
      EXPECT_GE(static_cast<double>(update->payload.total()), 0.98 * static_cast<double>(budget))
          << spec << ", n = " << layout.n();
      const UpdateHeader header = *ParseHeader(update->header, layout);
      EXPECT_TRUE(Fulfils(header.spec, *ParseSpec(spec)));
      EXPECT_GT(header.spec.step, 0);
    }
  }
}

TEST(MaxBytes_, BuAndBq_TakeTheMostLevelsThatFit) {
  const Layout layout = SomeLayout(9000);
  const std::vector<float> delta = Draw(layout, 5);
  for (const std::string head : {"bu", "bq"}) {
    for (const std::string tail : {"", ",pack=rans", ",scope=model,pack=rans"}) {
      for (const uint64_t budget : {uint64_t{1500}, uint64_t{2500}, uint64_t{4600}}) {
        const Spec spec = *ParseSpec(absl::StrCat(head, ":64", tail, ",max_bytes=", budget));
        const auto update = Encode(delta, layout, spec, {});
        ASSERT_TRUE(update.ok()) << update.status();
        EXPECT_LE(update->payload.total(), budget);
        const Spec chosen = ParseHeader(update->header, layout)->spec;
        EXPECT_TRUE(Fulfils(chosen, spec)) << ToString(chosen);
        if (chosen.levels == 64) continue;
        Spec more = chosen;
        ++more.levels;
        EXPECT_GT(Encode(delta, layout, more, {})->payload.total(), budget) << ToString(more);
      }
    }
  }
}

TEST(MaxBytes_, TooSmall_NamesTheSmallestThatFits_WhichDoes) {
  const Layout layout = SomeLayout(3000);
  const std::vector<float> delta = Draw(layout, 6);
  for (const std::string spec :
       {"uniform,pack=rans", "uniform,round=stochastic,pack=rans", "bu:16", "bq:256,pack=rans"}) {
    const auto refused = Encode(delta, layout, *ParseSpec(spec + ",max_bytes=100"), {});
    ASSERT_EQ(refused.status().code(), absl::StatusCode::kInvalidArgument) << spec;
    const std::string message(refused.status().message());
    EXPECT_THAT(message, HasSubstr("max_bytes = 100 is too small: the smallest that fits is "));
    uint64_t smallest = 0;
    const std::vector<std::string> words = absl::StrSplit(message, ' ');
    ASSERT_TRUE(absl::SimpleAtoi(words.back(), &smallest)) << message;
    const auto fits =
        Encode(delta, layout, *ParseSpec(absl::StrCat(spec, ",max_bytes=", smallest)), {});
    ASSERT_TRUE(fits.ok()) << fits.status();
    EXPECT_EQ(fits->payload.total(), smallest);
    const Spec less = *ParseSpec(absl::StrCat(spec, ",max_bytes=", smallest - 1));
    EXPECT_FALSE(Encode(delta, layout, less, {}).ok());
  }
}

TEST(MaxBytes_, MoreThanTheFinestStepTakes_GivesTheFinest_InWhichNothingClips) {
  const Layout layout = SomeLayout(3000);
  const std::vector<float> delta = Draw(layout, 7);
  const EncodedUpdate update =
      *Encode(delta, layout, *ParseSpec("uniform:63,max_bytes=1000000,pack=rans"), {});
  const std::vector<float> decoded = *Decode(update.header, update.chunks, layout);
  const float step = ParseHeader(update.header, layout)->spec.step;
  for (size_t i = 0; i < delta.size(); ++i) {
    ASSERT_LE(std::fabs(decoded[i] - delta[i]), step * 0.5001f) << i;
  }
}

TEST(TargetNmse_, IsReached_AndNotMuchMore) {
  const Layout layout = SomeLayout(30000);
  for (uint64_t seed = 0; seed < 6; ++seed) {
    const std::vector<float> delta = Draw(layout, seed);
    for (const char* options : {"", ",round=stochastic", ",pack=rans"}) {
      for (const double target : {0.01, 0.05, 0.34}) {
        const std::string spec = absl::StrCat("uniform", options, ",target_nmse=", target);
        const auto update = Encode(delta, layout, *ParseSpec(spec), KeyOf(seed));
        ASSERT_TRUE(update.ok()) << spec << ": " << update.status();
        EXPECT_LE(Nmse(*update), static_cast<double>(static_cast<float>(target))) << spec;
        EXPECT_GE(Nmse(*update), 0.97 * target) << spec;
      }
    }
    for (const char* head : {"bu:256", "bq:256", "bu:256,repr=mean"}) {
      const Spec spec = *ParseSpec(absl::StrCat(head, ",target_nmse=0.2"));
      const EncodedUpdate update = *Encode(delta, layout, spec, {});
      EXPECT_LE(Nmse(update), 0.2);
      Spec fewer = ParseHeader(update.header, layout)->spec;
      EXPECT_TRUE(Fulfils(fewer, spec));
      --fewer.levels;
      EXPECT_GT(Nmse(*Encode(delta, layout, fewer, {})), 0.2) << ToString(fewer);
    }
  }
}

TEST(TargetNmse_, OutOfReach_NamesTheLeast) {
  const Layout layout = SomeLayout(3000);
  const std::vector<float> delta = Draw(layout, 8);
  for (const char* spec : {"uniform:15,target_nmse=1e-06", "bu:16,target_nmse=1e-06"}) {
    const auto update = Encode(delta, layout, *ParseSpec(spec), {});
    EXPECT_EQ(update.status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(update.status().message()),
                HasSubstr("target_nmse = 1e-06 is too small: the smallest that can be reached is"));
  }
}

TEST(RateControl_, UpdateOfZeros_IsEncoded) {
  const Layout layout = SomeLayout(3000);
  const std::vector<float> zeros(layout.n());
  for (const char* spec : {"uniform,max_bytes=400,pack=rans", "uniform,target_nmse=0.1",
                           "bu:256,target_nmse=0.1", "bu:256,max_bytes=600"}) {
    const auto update = Encode(zeros, layout, *ParseSpec(spec), {});
    ASSERT_TRUE(update.ok()) << spec << ": " << update.status();
    EXPECT_EQ(*Decode(update->header, update->chunks, layout), zeros);
  }
  EXPECT_FALSE(Encode(zeros, layout, *ParseSpec("uniform,max_bytes=20,pack=rans"), {}).ok());
}

}  // namespace
}  // namespace quantfl::codec
