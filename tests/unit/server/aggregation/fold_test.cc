#include "server/aggregation/fold.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "common/base/prng.h"
#include "tests/support/instruction_sets.h"

namespace quantfl::aggregation {
namespace {

using codec::TensorPolicy;
using testing::HasSubstr;

const std::string kDigest(32, 'd');
constexpr uint32_t kMaxExamples = 6000;

class InMemory : public UpdateSource {
 public:
  InMemory(const std::vector<float>& delta, const codec::Layout& layout, const codec::Spec& spec,
           uint32_t weight, const base::PrngKey& key = {})
      : update(*codec::Encode(delta, layout, spec, key)),
        header_(*codec::ParseHeader(update.header, layout)),
        weight_(weight) {}
  const codec::UpdateHeader& header() const override { return header_; }
  uint32_t weight() const override { return weight_; }
  absl::StatusOr<std::string> ReadChunk(uint32_t index) const override {
    return update.chunks[index];
  }

  codec::EncodedUpdate update;

 private:
  codec::UpdateHeader header_;
  uint32_t weight_;
};

using Updates = std::vector<std::unique_ptr<InMemory>>;

std::vector<const UpdateSource*> Pointers(const Updates& updates) {
  std::vector<const UpdateSource*> pointers;
  for (const auto& update : updates) pointers.push_back(update.get());
  return pointers;
}

codec::Layout TestLayout() {
  // Long, short and odd segments, and more than one chunk.
  return *codec::Layout::Create({{{9001}, TensorPolicy::kQuantise},
                                 {{5}, TensorPolicy::kFp32},
                                 {{3, 7}, TensorPolicy::kQuantise},
                                 {{5000}, TensorPolicy::kFp32},
                                 {{211, 1000}, TensorPolicy::kQuantise}},
                                kDigest);
}

const std::vector<int8_t> kBounds = {-4, 0, 1, -4, -2};

std::vector<float> Draw(const codec::Layout& layout, uint64_t seed) {
  base::Prng prng({.run_seed = seed});
  std::vector<float> delta(layout.n());
  for (size_t t = 0; t < layout.tensors().size(); ++t) {
    const codec::Layout::Tensor& tensor = layout.tensors()[t];
    const float scale = std::ldexp(1.0f, kBounds[t] - static_cast<int>(seed % 3) * 9);
    for (uint64_t i = 0; i < tensor.size; ++i) {
      // Not up to the bound itself: rounding may go beyond the largest value.
      delta[tensor.offset + i] = (2 * prng.UniformFloat() - 1) * scale * 0.95f;
    }
  }
  return delta;
}

FoldOptions Options(uint32_t cohort, const std::vector<int8_t>& bounds = kBounds,
                    uint32_t max_examples = kMaxExamples) {
  return {.bound_exponents = bounds,
          .fraction_bits = *FractionBits(cohort, max_examples),
          .cohort = cohort,
          .max_examples = max_examples};
}

// Half to even, in integers: value * weight * 2^shift.
__int128 ExactFixedPoint(float value, uint32_t weight, int shift) {
  int power = 0;
  const auto mantissa = static_cast<int64_t>(std::ldexp(std::frexp(value, &power), 24));
  const __int128 product = static_cast<__int128>(mantissa) * weight;
  const int right = -(power - 24 + shift);
  if (right <= 0) return product << -right;
  if (right > 100) return 0;
  const __int128 unit = static_cast<__int128>(1) << right;
  __int128 quotient = product >> right;  // floor
  const __int128 rest = product - (quotient << right);
  if (2 * rest > unit || (2 * rest == unit && (quotient & 1) != 0)) ++quotient;
  return quotient;
}

std::vector<float> Oracle(const Updates& updates, const codec::Layout& layout,
                          const FoldOptions& options) {
  std::vector<__int128> sums(layout.n());
  uint64_t total_weight = 0;
  for (const auto& update : updates) {
    const std::vector<float> values =
        *codec::Decode(update->update.header, update->update.chunks, layout);
    total_weight += update->weight();
    for (size_t t = 0; t < layout.tensors().size(); ++t) {
      const codec::Layout::Tensor& tensor = layout.tensors()[t];
      const int shift = options.fraction_bits - options.bound_exponents[t];
      for (uint64_t i = tensor.offset; i < tensor.offset + tensor.size; ++i) {
        sums[i] += ExactFixedPoint(values[i], update->weight(), shift);
      }
    }
  }
  std::vector<float> mean(layout.n());
  for (size_t t = 0; t < layout.tensors().size(); ++t) {
    const codec::Layout::Tensor& tensor = layout.tensors()[t];
    for (uint64_t i = tensor.offset; i < tensor.offset + tensor.size; ++i) {
      const double quotient = static_cast<double>(sums[i]) / static_cast<double>(total_weight);
      mean[i] = static_cast<float>(
          std::ldexp(quotient, options.bound_exponents[t] - options.fraction_bits));
    }
  }
  return mean;
}

void ExpectSameBits(const std::vector<float>& a, const std::vector<float>& b) {
  ASSERT_EQ(a.size(), b.size());
  for (size_t i = 0; i < a.size(); ++i) {
    ASSERT_EQ(std::bit_cast<uint32_t>(a[i]), std::bit_cast<uint32_t>(b[i])) << "parameter " << i;
  }
}

Updates Make(const codec::Layout& layout, const codec::Spec& spec, int count) {
  Updates updates;
  for (int u = 0; u < count; ++u) {
    const uint32_t weight = 1 + static_cast<uint32_t>(u) * 1999 % kMaxExamples;
    updates.push_back(
        std::make_unique<InMemory>(Draw(layout, static_cast<uint64_t>(u)), layout, spec, weight));
  }
  return updates;
}

class FoldTest : public testing::TestWithParam<std::string> {
 protected:
  // One codebook for the whole model rounds values of a tensor beyond that tensor's own bound.
  std::vector<int8_t> bounds() const {
    return spec().scope == codec::Scope::kModel ? std::vector<int8_t>(5, 2) : kBounds;
  }
  codec::Spec spec() const { return *codec::ParseSpec(GetParam()); }
};

TEST_P(FoldTest, EqualsTheExactSum_Rounded_WithEachInstructionSet) {
  const codec::Layout layout = TestLayout();
  const Updates updates = Make(layout, spec(), 5);
  const FoldOptions options = Options(5, bounds());
  const std::vector<float> expected = Oracle(updates, layout, options);
  for (const int64_t set : codec::InstructionSets()) {
    const codec::UseInstructionSet use(set);
    const auto mean = Fold(Pointers(updates), layout, options);
    ASSERT_TRUE(mean.ok()) << mean.status();
    ExpectSameBits(*mean, expected);
  }
}

TEST_P(FoldTest, AnyOrderAndAnyPartialFolds_GiveTheSameBits) {
  const codec::Layout layout = TestLayout();
  const Updates updates = Make(layout, spec(), 6);
  const FoldOptions options = Options(8, bounds());
  std::vector<const UpdateSource*> order = Pointers(updates);
  const std::vector<float> expected = *Fold(order, layout, options);
  base::Prng prng({.run_seed = 77});
  for (int trial = 0; trial < 3; ++trial) {
    prng.Shuffle(order);
    ExpectSameBits(*Fold(order, layout, options), expected);

    // Two partial folds, one of them over the whole update and one merged from two.
    std::vector<PartialFold> parts(3, PartialFold(0, layout.n()));
    for (size_t u = 0; u < order.size(); ++u) {
      PartialFold& part = parts[prng.Below(parts.size())];
      for (uint32_t index = 0; index < order[u]->header().chunk_count; ++index) {
        const std::string bytes = *order[u]->ReadChunk(index);
        const codec::ChunkView chunk = *codec::ParseChunk(bytes, order[u]->header(), layout, index);
        ASSERT_TRUE(
            part.Accumulate(chunk, order[u]->header(), order[u]->weight(), layout, options).ok());
      }
      part.CountUpdate(order[u]->weight());
    }
    ASSERT_TRUE(parts[2].MergeWith(parts[0], options).ok());
    ASSERT_TRUE(parts[2].MergeWith(parts[1], options).ok());
    EXPECT_EQ(parts[2].updates(), 6u);
    ExpectSameBits(*std::move(parts[2]).Mean(layout, options), expected);
  }
}

INSTANTIATE_TEST_SUITE_P(Specs, FoldTest,
                         testing::Values("fp32", "fp16", "int8", "bu:2", "bu:4", "bu:5", "bu:16",
                                         "bu:40", "bu:256", "bu:16,repr=mean",
                                         "bu:16,round=stochastic", "bq:8", "bu:4,scope=block:8",
                                         "bu:16,round=stochastic,scope=block:64",
                                         "bq:5,scope=block:4104", "bu:5,scope=model",
                                         "bq:16,scope=model", "uniform:15",
                                         "uniform:7,repr=gain,step=1.5rms,zero=0.6",
                                         "uniform:255,step=0.1rms,round=stochastic,pack=rans"));

// Of stochastic rounding: clients round the same delta with numbers of their own.
TEST(Fold_, SquaredErrorOfTheMean_FallsAsOneOverTheClients) {
  const codec::Layout layout =
      *codec::Layout::Create({{{20'000}, TensorPolicy::kQuantise}}, kDigest);
  std::vector<float> delta(layout.n());
  base::Prng prng({.run_seed = 8});
  for (float& x : delta) x = static_cast<float>(prng.Gaussian()) * 1e-3f;
  for (const char* text : {"bu:4,round=stochastic", "uniform:15,step=2rms,round=stochastic",
                           "uniform:255,step=6rms,round=stochastic,pack=rans"}) {
    const codec::Spec spec = *codec::ParseSpec(text);
    double of_one = 0;
    for (const uint32_t clients : {1u, 4u, 16u, 64u}) {
      Updates updates;
      for (uint32_t u = 0; u < clients; ++u) {
        updates.push_back(std::make_unique<InMemory>(
            delta, layout, spec, 600, base::PrngKey{.run_seed = 9, .client_index = u}));
      }
      const auto mean = Fold(Pointers(updates), layout, Options(clients, {0}, 600));
      ASSERT_TRUE(mean.ok()) << mean.status();
      double error = 0;
      for (size_t i = 0; i < delta.size(); ++i) {
        const double e = static_cast<double>((*mean)[i]) - static_cast<double>(delta[i]);
        error += e * e;
      }
      if (clients == 1) of_one = error;
      // Of 20,000 parameters, few of which are rounded up at the lowest rate.
      EXPECT_NEAR(error * clients / of_one, 1, 0.1) << text << ", " << clients << " clients";
    }
  }
}

TEST(Fold_, DifferentSpecsOfEqualChunks_FoldTogether) {
  const codec::Layout layout = *codec::Layout::Create({{{50}, TensorPolicy::kQuantise}}, kDigest);
  const FoldOptions options = Options(4, {0});
  Updates updates;
  uint32_t weight = 1;
  for (const codec::Spec& spec : {codec::BuSpec(2), codec::BuSpec(100), codec::Fp32Spec()}) {
    std::vector<float> delta(50);
    for (size_t i = 0; i < 50; ++i) delta[i] = static_cast<float>(i) * 0.01f;
    updates.push_back(std::make_unique<InMemory>(delta, layout, spec, weight++));
  }
  ExpectSameBits(*Fold(Pointers(updates), layout, options), Oracle(updates, layout, options));
}

TEST(Fold_, ModelScope_CodebookBeyondATensorsBound_CountsOnlyWhatOccurs) {
  const codec::Layout layout = *codec::Layout::Create(
      {{{40}, TensorPolicy::kQuantise}, {{40}, TensorPolicy::kQuantise}}, kDigest);
  std::vector<float> delta(80);
  for (size_t i = 0; i < 80; ++i) delta[i] = static_cast<float>(i) * (i < 40 ? 1e-3f : 1.0f);
  for (const char* text : {"bu:256,scope=model", "bq:8,scope=model"}) {
    Updates updates;
    updates.push_back(std::make_unique<InMemory>(delta, layout, *codec::ParseSpec(text), 9u));
    const FoldOptions fits = Options(1, {0, 7});
    const auto mean = Fold(Pointers(updates), layout, fits);
    ASSERT_TRUE(mean.ok()) << mean.status();
    ExpectSameBits(*mean, Oracle(updates, layout, fits));
    const auto refused = Fold(Pointers(updates), layout, Options(1, {0, 5}));
    EXPECT_EQ(refused.status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(refused.status().message()), HasSubstr("tensor 1"));
  }
}

TEST(Fold_, EqualUpdates_GiveTheirValue) {
  const codec::Layout layout = *codec::Layout::Create({{{3}, TensorPolicy::kFp32}}, kDigest);
  const std::vector<float> delta = {0.1f, -0.25f, 1.0f};
  Updates updates;
  for (uint32_t u = 0; u < 3; ++u) {
    updates.push_back(std::make_unique<InMemory>(delta, layout, codec::Fp32Spec(), 100 + u));
  }
  ExpectSameBits(*Fold(Pointers(updates), layout, Options(3, {0})), delta);
}

TEST(Fold_, WrongInput_IsRefusedWithReason) {
  const codec::Layout layout = TestLayout();
  const Updates updates = Make(layout, codec::BuSpec(16), 3);
  const std::vector<const UpdateSource*> sources = Pointers(updates);
  const auto expect = [&](absl::Span<const UpdateSource* const> from, const FoldOptions& options,
                          absl::StatusCode code, const std::string& message) {
    const auto mean = Fold(from, layout, options);
    EXPECT_EQ(mean.status().code(), code) << mean.status();
    EXPECT_THAT(std::string(mean.status().message()), HasSubstr(message));
  };
  expect({}, Options(3), absl::StatusCode::kFailedPrecondition, "no update");
  expect(sources, Options(2), absl::StatusCode::kResourceExhausted, "3 updates");
  expect(sources, Options(3, kBounds, 100), absl::StatusCode::kResourceExhausted,
         "max_examples is 100");
  expect(sources, Options(3, {0, 0}), absl::StatusCode::kInvalidArgument, "2 bounds for 5");
  // The last tensor's values reach 1/4.
  expect(sources, Options(3, {-4, 0, 1, -4, -3}), absl::StatusCode::kInvalidArgument, "tensor 4");
  expect(sources, Options(3, {-4, -30, 1, -4, -2}), absl::StatusCode::kInvalidArgument, "tensor 1");
  FoldOptions fine = Options(3);
  ++fine.fraction_bits;
  expect(sources, fine, absl::StatusCode::kInvalidArgument, "fraction bits");
  fine.fraction_bits = -1;
  expect(sources, fine, absl::StatusCode::kInvalidArgument, "fraction bits");

  const InMemory nobody(Draw(layout, 1), layout, codec::BuSpec(16), 0);
  expect(std::vector<const UpdateSource*>{&nobody}, Options(3), absl::StatusCode::kInvalidArgument,
         "weight of 0");
}

TEST(Fold_, CorruptChunk_IsDataLossNamingTheUpdate) {
  const codec::Layout layout = TestLayout();
  Updates updates = Make(layout, codec::BuSpec(16), 3);
  std::string& chunk = updates[2]->update.chunks[0];
  chunk[100] = static_cast<char>(chunk[100] ^ 4);
  const auto mean = Fold(Pointers(updates), layout, Options(3));
  EXPECT_EQ(mean.status().code(), absl::StatusCode::kDataLoss);
  EXPECT_THAT(std::string(mean.status().message()), HasSubstr("update 2: chunk 0"));
}

TEST(PartialFold_, LargestSums_DoNotOverflow) {
  const codec::Layout layout =
      *codec::Layout::Create({{{2}, TensorPolicy::kFp32}, {{2}, TensorPolicy::kQuantise}}, kDigest);
  const uint32_t weight = kMaxExamplesLimit;
  const FoldOptions options = Options(kCohortLimit, {7, 7}, weight);
  EXPECT_EQ(options.fraction_bits, 17);
  const InMemory update({128, -128, 128, 128}, layout, codec::BuSpec(2), weight);
  PartialFold fold(0, 4);
  const codec::ChunkView chunk =
      *codec::ParseChunk(update.update.chunks[0], update.header(), layout, 0);
  ASSERT_TRUE(fold.Accumulate(chunk, update.header(), weight, layout, options).ok());
  fold.CountUpdate(weight);
  while (fold.updates() < kCohortLimit) {
    const PartialFold same = fold;
    ASSERT_TRUE(fold.MergeWith(same, options).ok());
  }
  // 2^20 updates of 2^24 examples at the bound, 2^17 units.
  EXPECT_EQ(fold.sums(), (std::vector<int64_t>{int64_t{1} << 61, -(int64_t{1} << 61),
                                               int64_t{1} << 61, int64_t{1} << 61}));
  const PartialFold same = fold;
  const absl::Status more = fold.MergeWith(same, options);
  EXPECT_EQ(more.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(more.message()), HasSubstr("2097152 updates"));
  ExpectSameBits(*std::move(fold).Mean(layout, options), {128, -128, 128, 128});
}

TEST(PartialFold_, WrongInput_IsRefused) {
  const codec::Layout layout = TestLayout();
  const InMemory update(Draw(layout, 1), layout, codec::BuSpec(16), 5);
  const codec::ChunkView chunk =
      *codec::ParseChunk(update.update.chunks[0], update.header(), layout, 0);
  const FoldOptions options = Options(4);
  const auto invalid = absl::StatusCode::kInvalidArgument;
  EXPECT_EQ(PartialFold(0, 100).Accumulate(chunk, update.header(), 5, layout, options).code(),
            invalid);
  EXPECT_EQ(
      PartialFold(1, layout.n()).Accumulate(chunk, update.header(), 5, layout, options).code(),
      invalid);
  PartialFold fold(0, layout.n());
  EXPECT_EQ(fold.Accumulate(chunk, update.header(), 0, layout, options).code(), invalid);
  EXPECT_EQ(fold.Accumulate(chunk, update.header(), kMaxExamples + 1, layout, options).code(),
            invalid);
  EXPECT_EQ(fold.Accumulate(chunk, update.header(), 5, layout, Options(4, {0})).code(), invalid);
  EXPECT_EQ(fold.MergeWith(PartialFold(0, 7), options).code(), invalid);
  EXPECT_EQ(fold.MergeWith(PartialFold(7, layout.n()), options).code(), invalid);
  EXPECT_EQ(std::move(fold).Mean(layout, options).status().code(),
            absl::StatusCode::kFailedPrecondition);
  PartialFold beyond(layout.n(), 3);
  beyond.CountUpdate(1);
  EXPECT_EQ(std::move(beyond).Mean(layout, options).status().code(), invalid);
}

TEST(FractionBits_, IsTheLargestThatFits) {
  base::Prng prng({.run_seed = 4});
  for (int trial = 0; trial < 1000; ++trial) {
    const uint32_t cohort = 1 + static_cast<uint32_t>(prng.Below(uint64_t{1} << (1 + trial % 20)));
    const uint32_t most = 1 + static_cast<uint32_t>(prng.Below(uint64_t{1} << (1 + trial % 24)));
    const int bits = *FractionBits(cohort, most);
    const __int128 product = static_cast<__int128>(cohort) * most;
    EXPECT_LT(product << bits, static_cast<__int128>(1) << 62);
    EXPECT_GE(product << (bits + 1), static_cast<__int128>(1) << 62);
  }
  EXPECT_EQ(*FractionBits(1, 1), 61);
  EXPECT_EQ(*FractionBits(kCohortLimit, kMaxExamplesLimit), 17);
}

TEST(FractionBits_, BeyondTheLimits_IsRefused) {
  for (const auto& [cohort, most] : std::vector<std::pair<uint32_t, uint32_t>>{
           {0, 1}, {1, 0}, {kCohortLimit + 1, 1}, {1, kMaxExamplesLimit + 1}}) {
    EXPECT_EQ(FractionBits(cohort, most).status().code(), absl::StatusCode::kInvalidArgument);
  }
}

TEST(BoundExponents_, AreFourTimesTheLargest_AtLeastAHalf_RoundedUp) {
  struct Row {
    float largest;
    int8_t exponent;
  };
  for (const Row& row : std::vector<Row>{{0, -1},
                                         {1e-30f, -1},
                                         {std::ldexp(1.0f, -3), -1},
                                         {std::ldexp(1.1f, -3), 0},
                                         {0.3f, 1},
                                         {-0.5f, 1},
                                         {0.51f, 2},
                                         {1, 2},
                                         {-3, 4},
                                         {1e38f, 100}}) {
    const codec::Layout layout = *codec::Layout::Create(
        {{{2}, TensorPolicy::kQuantise}, {{1}, TensorPolicy::kFp32}}, kDigest);
    EXPECT_EQ(BoundExponents(std::vector<float>{0, row.largest, 1}, layout, codec::BuSpec(16), {}),
              (std::vector<int8_t>{row.exponent, 10}))
        << row.largest;
  }
}

TEST(BoundExponents_, FollowFactorAndLeast) {
  struct Row {
    BoundSpec bound;
    std::vector<int8_t> exponents;  // of tensors whose largest magnitudes are 0 and 3
  };
  const codec::Layout layout = *codec::Layout::Create(
      {{{2}, TensorPolicy::kQuantise}, {{1}, TensorPolicy::kQuantise}}, kDigest);
  for (const Row& row : std::vector<Row>{{{1, 0x1p-20}, {-20, 2}},
                                         {{0x1p-10, 0x1p-20}, {-20, -8}},
                                         {{1, 0.06}, {-4, 2}},
                                         {{1, 5}, {3, 3}},
                                         {{0x1p20, 0x1p20}, {20, 22}}}) {
    ASSERT_TRUE(Validate(row.bound).ok());
    EXPECT_EQ(BoundExponents(std::vector<float>{0, 0, -3}, layout, codec::BuSpec(16), row.bound),
              row.exponents)
        << row.bound.factor << " " << row.bound.least;
  }
}

TEST(BoundSpec_, OutsideItsRange_IsRefusedByName) {
  for (const auto& [bound, name] :
       std::vector<std::pair<BoundSpec, std::string>>{{{0, 1}, "bound_factor = 0"},
                                                      {{0x1p21, 1}, "bound_factor"},
                                                      {{std::nan(""), 1}, "bound_factor"},
                                                      {{4, 0x1p-21}, "bound_min"},
                                                      {{4, HUGE_VAL}, "bound_min = inf"}}) {
    const absl::Status status = Validate(bound);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(status.message()), HasSubstr(name));
  }
}

// A batch normalisation's running mean begins at 0, and a first batch takes it anywhere.
TEST(BoundExponents_, OfRunningStatistics_LeavesThemRoomToMove) {
  const codec::Layout layout = *codec::Layout::Create(
      {{{2, 1}, TensorPolicy::kQuantise}, {{2}, TensorPolicy::kFp32}}, kDigest);
  EXPECT_EQ(BoundExponents(std::vector<float>{0, 0, 0, 0}, layout, codec::BuSpec(16), {}),
            (std::vector<int8_t>{-1, 10}));
  EXPECT_EQ(BoundExponents(std::vector<float>{0, 0, 5000, 0}, layout, codec::BuSpec(16), {}),
            (std::vector<int8_t>{-1, 15}));
}

TEST(BoundExponents_, OfCoefficients_IsLargerWhereThereAreKernels) {
  const codec::Layout layout = *codec::Layout::Create({{{1, 1, 3, 3}, TensorPolicy::kQuantise},
                                                       {{1, 1, 5, 5}, TensorPolicy::kQuantise},
                                                       {{2}, TensorPolicy::kQuantise}},
                                                      kDigest);
  const std::vector<float> ones(layout.n(), 1.0f);
  EXPECT_EQ(BoundExponents(ones, layout, *codec::ParseSpec("int8"), {}),
            (std::vector<int8_t>{2, 2, 2}));
  EXPECT_EQ(BoundExponents(ones, layout, *codec::ParseSpec("int8,transform=dct"), {}),
            (std::vector<int8_t>{4, 5, 2}));
}

codec::Layout KernelLayout() {
  return *codec::Layout::Create({{{6, 5, 3, 3}, TensorPolicy::kQuantise},
                                 {{5}, TensorPolicy::kFp32},
                                 {{4, 8}, TensorPolicy::kQuantise}},
                                kDigest);
}

std::vector<float> Drawn(uint64_t n, uint32_t seed) {
  base::Prng prng({.run_seed = seed, .purpose = base::PrngPurpose::kSynthetic});
  std::vector<float> delta(n);
  for (float& x : delta) x = prng.UniformFloat() - 0.5f;
  return delta;
}

class FoldCoefficients : public testing::TestWithParam<const char*> {};
INSTANTIATE_TEST_SUITE_P(Quantisers, FoldCoefficients,
                         testing::Values("int8,pack=rans,transform=dct",
                                         "uniform:63,pack=rans,transform=dct",
                                         "bu:64,transform=dct",
                                         "bu:64,scope=block:16,pack=rans,transform=dct",
                                         "bq:32,transform=dct"));

TEST_P(FoldCoefficients, AreSummedAndTransformedBackOnce) {
  const codec::Layout layout = KernelLayout();
  const codec::Spec spec = *codec::ParseSpec(GetParam());
  Updates updates;
  std::vector<double> expected(layout.n());
  for (const uint32_t weight : {1u, 2u, 5u}) {
    const std::vector<float> delta = Drawn(layout.n(), weight);
    updates.push_back(std::make_unique<InMemory>(delta, layout, spec, weight));
    const codec::EncodedUpdate& encoded = updates.back()->update;
    const std::vector<float> values = *codec::Decode(encoded.header, encoded.chunks, layout);
    for (size_t i = 0; i < values.size(); ++i) {
      expected[i] += static_cast<double>(values[i]) * weight / 8;
    }
  }
  FoldOptions options;
  options.bound_exponents = BoundExponents(std::vector<float>(layout.n(), 1.0f), layout, spec, {});
  options.cohort = 3;
  options.max_examples = 8;
  options.fraction_bits = *FractionBits(options.cohort, options.max_examples);
  std::vector<const UpdateSource*> pointers = Pointers(updates);
  const auto mean = Fold(pointers, layout, options);
  ASSERT_TRUE(mean.ok()) << mean.status();
  for (size_t i = 0; i < expected.size(); ++i) EXPECT_NEAR((*mean)[i], expected[i], 1e-6) << i;
  std::reverse(pointers.begin(), pointers.end());
  EXPECT_EQ(*Fold(pointers, layout, options), *mean);
}

TEST(Fold_, CoefficientsAndValues_DoNotMix) {
  const codec::Layout layout = KernelLayout();
  Updates updates;
  for (const char* text : {"int8", "int8,transform=dct"}) {
    updates.push_back(
        std::make_unique<InMemory>(Drawn(layout.n(), 1), layout, *codec::ParseSpec(text), 1));
  }
  FoldOptions options;
  options.bound_exponents.assign(3, 4);
  options.cohort = 2;
  options.max_examples = 1;
  options.fraction_bits = *FractionBits(options.cohort, options.max_examples);
  const absl::Status status = Fold(Pointers(updates), layout, options).status();
  EXPECT_TRUE(absl::IsFailedPrecondition(status)) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("transform=dct"));
}

}  // namespace
}  // namespace quantfl::aggregation
