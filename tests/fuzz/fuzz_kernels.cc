// Every instruction set gives the bits of the plain code, whatever the values: the kernels one by
// one, then whole updates.
//   input: what is compared, levels, the size of blocks, then fp32 values or codes
// Outputs are as long as they must be: AddressSanitizer sees what is written behind them.

#include <hwy/targets.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <iterator>
#include <limits>
#include <string>
#include <vector>

#include "common/base/check.h"
#include "common/codec/bit_packing.h"
#include "common/codec/kernels.h"
#include "common/codec/rans.h"
#include "common/codec/update.h"
#include "tests/fuzz/fuzz_support.h"
#include "tests/support/instruction_sets.h"

namespace quantfl::codec::kernels {
namespace {

constexpr size_t kValuesMax = 512;

using Sums = std::array<double, kSumLanes>;

bool SameBits(const Sums& a, const Sums& b) {
  return std::memcmp(a.data(), b.data(), sizeof(a)) == 0;
}

// Calls it with each instruction set that this machine has.
template <typename Function>
void WithEach(Function function) {
  for (const int64_t set : codec::InstructionSets()) {
    const codec::UseInstructionSet use(set);
    function();
  }
}

void CompareNearest(const std::vector<float>& values, uint32_t levels, size_t block_size) {
  const size_t n = values.size();
  const size_t blocks = (n + block_size - 1) / block_size;
  std::vector<Extremes> extremes(blocks);
  const Survey all = reference::SurveyBlocks(values.data(), n, block_size, extremes.data());
  std::vector<Buckets> buckets;
  for (const Extremes& block : extremes) {
    const float step = (block.hi - block.lo) / static_cast<float>(levels);
    if (!std::isfinite(step)) return;  // the encoder refuses it
    buckets.push_back({block.lo, step < std::numeric_limits<float>::min() ? 0.0f : step, levels});
  }
  std::vector<uint8_t> expected(n);
  Sums expected_errors{}, expected_squares{};
  reference::QuantiseBlocks(values.data(), n, block_size, buckets.data(), expected.data(),
                            expected_errors.data(), expected_squares.data());
  WithEach([&] {
    std::vector<Extremes> found(blocks);
    const Survey survey = SurveyBlocks(values.data(), n, block_size, found.data());
    QFL_CHECK(std::bit_cast<uint32_t>(survey.lo) == std::bit_cast<uint32_t>(all.lo));
    QFL_CHECK(std::bit_cast<uint32_t>(survey.hi) == std::bit_cast<uint32_t>(all.hi));
    QFL_CHECK(survey.is_finite);
    QFL_CHECK(std::memcmp(found.data(), extremes.data(), blocks * sizeof(Extremes)) == 0);
    std::vector<uint8_t> codes(n);
    Sums errors{}, squares{};
    QuantiseBlocks(values.data(), n, block_size, buckets.data(), codes.data(), errors.data(),
                   squares.data());
    QFL_CHECK(codes == expected);
    QFL_CHECK(SameBits(errors, expected_errors) && SameBits(squares, expected_squares));
  });
}

void CompareRandom(const std::vector<float>& values, uint32_t levels, uint64_t first) {
  const size_t n = values.size();
  const base::PrngKey key{.run_seed = levels};
  std::vector<uint32_t> words(n);
  reference::RandomWords(key, first, n, words.data());
  const Survey survey = reference::FindExtremes(values.data(), n);
  const double width = static_cast<double>(survey.hi) - static_cast<double>(survey.lo);
  const double largest = static_cast<double>(Extremes{survey.lo, survey.hi}.largest());
  const Positions positions{static_cast<double>(survey.lo), width > 0 ? width / levels : 1.0, -0.5,
                            levels - 1};
  const uint32_t zero = std::clamp(levels / 2, 1u, 127u);
  const Magnitudes magnitudes{largest > 0 ? largest / zero : 1.0, levels % 2 == 0 ? 0.5 : 0.0,
                              levels % 3 == 0 ? 0.75 : 0.0, zero};
  std::vector<uint8_t> expected(n), expected_uniform(n);
  reference::QuantiseStochastic(values.data(), words.data(), n, positions, expected.data());
  reference::QuantiseUniform(values.data(), words.data(), n, magnitudes, expected_uniform.data());
  WithEach([&] {
    std::vector<uint32_t> drawn(n);
    RandomWords(key, first, n, drawn.data());
    QFL_CHECK(drawn == words);
    std::vector<uint8_t> codes(n);
    QuantiseStochastic(values.data(), words.data(), n, positions, codes.data());
    QFL_CHECK(codes == expected);
    QuantiseUniform(values.data(), words.data(), n, magnitudes, codes.data());
    QFL_CHECK(codes == expected_uniform);
  });
}

void CompareFold(absl::string_view bytes, uint32_t levels) {
  const int bits = std::bit_width(levels - 1);
  std::vector<uint8_t> codes(bytes.begin(), bytes.end());
  for (uint8_t& code : codes) code = static_cast<uint8_t>(code & ((1u << bits) - 1));
  const size_t n = codes.size();
  std::vector<int64_t> by_code(size_t{1} << bits);
  for (size_t i = 0; i < by_code.size(); ++i) {
    by_code[i] = static_cast<int64_t>(0x9e3779b97f4a7c15u * (i + levels)) >> 4;
  }
  std::vector<char> expected(PackedBytes(n, bits));
  reference::Pack(codes.data(), n, bits, expected.data());
  std::vector<int64_t> expected_sums(n, 3);
  reference::AddPacked(expected.data(), n, bits, by_code.data(), expected_sums.data());
  std::vector<float> expected_means(n);
  reference::MeansOf(expected_sums.data(), n, levels, 0x1p-40, expected_means.data());
  const uint8_t largest = reference::LargestCode(codes.data(), n);
  WithEach([&] {
    std::vector<char> packed(expected.size());
    Pack(codes.data(), n, bits, packed.data());
    QFL_CHECK(packed == expected);
    std::vector<uint8_t> unpacked(n);
    Unpack(packed.data(), n, bits, unpacked.data());
    QFL_CHECK(unpacked == codes);
    QFL_CHECK(LargestCode(codes.data(), n) == largest);
    std::vector<int64_t> sums(n, 3);
    AddPacked(packed.data(), n, bits, by_code.data(), sums.data());
    QFL_CHECK(sums == expected_sums);
    std::vector<float> means(n);
    MeansOf(sums.data(), n, levels, 0x1p-40, means.data());
    QFL_CHECK(std::memcmp(means.data(), expected_means.data(), n * sizeof(float)) == 0);
  });
}

// `bytes` as a stream: found wrong in the same place, or decoded to the same codes.
void CompareRans(absl::string_view bytes, uint32_t levels) {
  constexpr size_t kCodes = 1000;
  std::vector<uint8_t> expected(kCodes);
  const auto plain = [&] {
    const codec::UseInstructionSet use(HWY_STATIC_TARGET);
    return RansDecode(bytes, {}, 1, static_cast<int>(levels), absl::MakeSpan(expected));
  }();
  WithEach([&] {
    std::vector<uint8_t> codes(kCodes);
    const auto decoded = RansDecode(bytes, {}, 1, static_cast<int>(levels), absl::MakeSpan(codes));
    QFL_CHECK(decoded.status() == plain.status());
    if (plain.ok()) QFL_CHECK(codes == expected);
  });
}

void CompareUpdates(const std::vector<float>& values, const char* text) {
  const size_t n = values.size();
  const Layout layout = *Layout::Create(
      {{{n - n / 3}, TensorPolicy::kQuantise}, {{n / 3 + 1}, TensorPolicy::kQuantise}},
      std::string(32, 'k'));
  std::vector<float> delta = values;
  delta.push_back(0.25f);
  const Spec spec = *ParseSpec(text);
  const auto expected = [&] {
    const codec::UseInstructionSet use(HWY_STATIC_TARGET);
    return Encode(delta, layout, spec, {.run_seed = 1});
  }();
  WithEach([&] {
    const auto update = Encode(delta, layout, spec, {.run_seed = 1});
    QFL_CHECK(update.status() == expected.status());
    if (!update.ok()) return;
    QFL_CHECK(update->header == expected->header && update->chunks == expected->chunks);
    QFL_CHECK(std::bit_cast<uint64_t>(update->squared_error) ==
              std::bit_cast<uint64_t>(expected->squared_error));
  });
}

}  // namespace
}  // namespace quantfl::codec::kernels

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace quantfl::codec::kernels;
  static constexpr const char* kSpecs[] = {
      "bu:16", "bu:5,scope=block:64", "bu:7,round=stochastic", "bu:4,repr=mean",
      "bq:4",  "uniform:15",          "uniform:7,repr=gain",   "int8,round=stochastic",
      "fp16",  "bu:16,scope=model"};
  constexpr size_t kFront = 3;
  if (size < kFront + sizeof(float)) return 0;
  const uint32_t levels = std::max(2u, data[1] + 1u);
  const absl::string_view rest =
      quantfl::fuzz::View(data + kFront, std::min(size - kFront, kValuesMax * sizeof(float)));
  std::vector<float> values(rest.size() / sizeof(float));
  std::memcpy(values.data(), rest.data(), values.size() * sizeof(float));
  for (float& x : values) x = std::isfinite(x) ? x : 1.0f;
  switch (data[0] % 5) {
    case 0:
      CompareNearest(values, levels, 8 * (1 + data[2] % 40u));
      break;
    case 1:
      // Near the counter's carry, too.
      CompareRandom(values, levels, (uint64_t{data[2]} << 28) - data[2]);
      break;
    case 2:
      CompareFold(rest, levels);
      break;
    case 3:
      CompareRans(rest, levels);
      break;
    default:
      CompareUpdates(values, kSpecs[data[2] % std::size(kSpecs)]);
  }
  return 0;
}
