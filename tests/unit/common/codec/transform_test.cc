// Kernels as coefficients: against the definition computed with the C library, and through the
// codec.

#include "common/codec/transform.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <numbers>
#include <string>
#include <vector>

#include "common/base/prng.h"
#include "common/codec/update.h"
#include "common/codec/wire.h"
#include "tests/support/seal.h"

namespace quantfl::codec {
namespace {

using testing::HasSubstr;

Layout OneTensor(std::vector<uint64_t> shape, TensorPolicy policy = TensorPolicy::kQuantise) {
  return *Layout::Create({{std::move(shape), policy}}, std::string(32, 's'));
}

std::vector<float> Draw(uint64_t n, uint32_t seed) {
  base::Prng prng({.run_seed = seed, .purpose = base::PrngPurpose::kSynthetic});
  std::vector<float> values(n);
  for (float& x : values) x = prng.UniformFloat() - 0.5f;
  return values;
}

double Basis(uint64_t side, uint64_t i, uint64_t j) {
  const double k = static_cast<double>(side);
  const double angle =
      std::numbers::pi * static_cast<double>(i) * (2 * static_cast<double>(j) + 1) / (2 * k);
  return std::sqrt((i == 0 ? 1 : 2) / k) * std::cos(angle);
}

TEST(ForwardTransform_, Kernels_HaveTheCoefficientsOfTheDefinition) {
  for (const uint64_t side : {3, 5, 7}) {
    const Layout layout = OneTensor({2, 3, side, side});
    const std::vector<float> values = Draw(layout.n(), 1);
    std::vector<float> coefficients = values;
    ForwardTransform(layout, absl::MakeSpan(coefficients));
    for (uint64_t kernel = 0; kernel < layout.n(); kernel += side * side) {
      for (uint64_t a = 0; a < side; ++a) {
        for (uint64_t b = 0; b < side; ++b) {
          double expected = 0;
          for (uint64_t i = 0; i < side; ++i) {
            for (uint64_t j = 0; j < side; ++j) {
              expected += Basis(side, a, i) * Basis(side, b, j) *
                          static_cast<double>(values[kernel + i * side + j]);
            }
          }
          EXPECT_NEAR(coefficients[kernel + a * side + b], expected, 1e-6);
        }
      }
    }
  }
}

TEST(InverseTransform_, OfCoefficients_GivesTheValuesAndTheSquaredErrorIsKept) {
  for (const uint64_t side : {3, 5, 7}) {
    const Layout layout = OneTensor({4, 5, side, side});
    const std::vector<float> values = Draw(layout.n(), 2);
    std::vector<float> changed = values;
    ForwardTransform(layout, absl::MakeSpan(changed));
    double norm = 0;
    double coefficients_norm = 0;
    for (size_t i = 0; i < values.size(); ++i) {
      norm += static_cast<double>(values[i]) * static_cast<double>(values[i]);
      coefficients_norm += static_cast<double>(changed[i]) * static_cast<double>(changed[i]);
    }
    EXPECT_NEAR(coefficients_norm, norm, 1e-6 * norm);
    InverseTransform(layout, absl::MakeSpan(changed));
    for (size_t i = 0; i < values.size(); ++i) EXPECT_NEAR(changed[i], values[i], 1e-6f);
  }
}

TEST(ForwardTransform_, OtherTensors_AreLeftAlone) {
  for (const std::vector<uint64_t>& shape : std::vector<std::vector<uint64_t>>{
           {3, 3}, {2, 3, 3}, {2, 2, 1, 1}, {2, 2, 3, 5}, {2, 2, 4, 4}, {2, 2, 9, 9}, {9}, {}}) {
    const Layout layout = OneTensor(shape);
    std::vector<float> values = Draw(layout.n(), 3);
    const std::vector<float> before = values;
    ForwardTransform(layout, absl::MakeSpan(values));
    InverseTransform(layout, absl::MakeSpan(values));
    EXPECT_EQ(values, before);
    EXPECT_EQ(CoefficientExponent(layout.tensors()[0]), 0);
  }
  const Layout fp32 = OneTensor({2, 2, 3, 3}, TensorPolicy::kFp32);
  std::vector<float> values = Draw(fp32.n(), 4);
  const std::vector<float> before = values;
  ForwardTransform(fp32, absl::MakeSpan(values));
  EXPECT_EQ(values, before);
}

TEST(CoefficientExponent_, NoKernelWithinItsBound_HasLargerCoefficients) {
  for (const uint64_t side : {3, 5, 7}) {
    const Layout layout = OneTensor({1, 1, side, side});
    const float bound = std::ldexp(1.0f, CoefficientExponent(layout.tensors()[0]));
    // Each basis function's own signs: what makes its coefficient largest.
    for (uint64_t a = 0; a < side; ++a) {
      for (uint64_t b = 0; b < side; ++b) {
        std::vector<float> values(side * side);
        for (uint64_t i = 0; i < values.size(); ++i) {
          values[i] = Basis(side, a, i / side) * Basis(side, b, i % side) < 0 ? -1.0f : 1.0f;
        }
        ForwardTransform(layout, absl::MakeSpan(values));
        for (const float c : values) EXPECT_LE(std::fabs(c), bound);
      }
    }
  }
}

TEST(EncodeTransform_, Update_DecodesToValuesWithTheStatedError) {
  const Layout layout = *Layout::Create({{{16, 8, 3, 3}, TensorPolicy::kQuantise},
                                         {{16}, TensorPolicy::kFp32},
                                         {{10, 16}, TensorPolicy::kQuantise}},
                                        std::string(32, 's'));
  const std::vector<float> delta = Draw(layout.n(), 5);
  for (const char* text :
       {"int8,transform=dct", "int8,pack=rans,context=own,transform=dct", "bu:256,transform=dct",
        "bu:256,scope=block:64,pack=rans,context=own,transform=dct", "bq:256,transform=dct"}) {
    const EncodedUpdate update = *Encode(delta, layout, *ParseSpec(text), {});
    EXPECT_EQ(ParseHeader(update.header, layout)->spec.transform, Transform::kDct);
    const auto values = Decode(update.header, update.chunks, layout);
    ASSERT_TRUE(values.ok()) << values.status();
    double error = 0;
    for (size_t i = 0; i < delta.size(); ++i) {
      const double e = static_cast<double>((*values)[i]) - static_cast<double>(delta[i]);
      error += e * e;
    }
    EXPECT_NEAR(error, update.squared_error, 1e-3 * update.squared_error);
    EXPECT_LT(error, 1e-3 * update.squared_norm);
  }
}

TEST(EncodeTransform_, SmoothKernels_TakeFewerBytes) {
  // Each kernel is nearly constant, so one coefficient of nine is not nearly zero.
  const Layout layout = OneTensor({32, 32, 3, 3});
  std::vector<float> delta = Draw(layout.n(), 6);
  for (size_t i = 0; i < delta.size(); ++i) delta[i] = delta[i] / 64 + delta[i / 9 * 9];
  const auto bytes = [&](const char* text) {
    return Encode(delta, layout, *ParseSpec(text), {})->payload.total();
  };
  EXPECT_LT(2 * bytes("int8,pack=rans,context=own,transform=dct"),
            bytes("int8,pack=rans,context=own"));
}

TEST(EncodeTransform_, CoefficientBeyondFp32_IsRefused) {
  const Layout layout = OneTensor({1, 1, 3, 3});
  const std::vector<float> delta(9, std::numeric_limits<float>::max());
  const auto update = Encode(delta, layout, *ParseSpec("int8,transform=dct"), {});
  EXPECT_TRUE(absl::IsInvalidArgument(update.status()));
  EXPECT_THAT(std::string(update.status().message()), HasSubstr("after the transform"));
}

TEST(DecodeTransform_, ValueBeyondFp32_IsDataLoss) {
  // The bytes of values, announced as coefficients: these are finite, what they stand for is not.
  const Layout layout = OneTensor({1, 1, 3, 3});
  EncodedUpdate update =
      *Encode(std::vector<float>(9, std::numeric_limits<float>::max() / 2), layout, Int8Spec(), {});
  ASSERT_TRUE(Decode(update.header, update.chunks, layout).ok());
  wire::Store(update.header, wire::kTransform, Transform::kDct);
  Seal(update.header);
  const absl::Status status = Decode(update.header, update.chunks, layout).status();
  EXPECT_TRUE(absl::IsDataLoss(status)) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("parameter 0 is not finite"));
}

}  // namespace
}  // namespace quantfl::codec
