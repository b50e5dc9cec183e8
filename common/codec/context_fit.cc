#include "common/codec/context_fit.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <utility>
#include <vector>

#include "common/base/check.h"
#include "common/codec/kernels.h"

namespace quantfl::codec {
namespace {

// A code's deviation is its distance from the tensor's commonest code, limited.
constexpr int kDeviations = kernels::kDeviationMax + 1;
// Classes are octaves of variance. With one zero code for all tensors they share one interval of
// classes, from variance 2^kLeastLevel on; one code in so many deviates there.
constexpr int kLeastLevel = -10;
constexpr int kSharedClassesMax = 32;
// Else each tensor has classes of its own, around its own variance.
constexpr struct {
  uint64_t size;
  int classes;
} kOwnClasses[] = {{1u << 14, 7}, {1u << 11, 5}, {1u << 8, 3}, {0, 1}};
constexpr int kRefinements = 2;
// Exponents are tried up to this far from what they are.
constexpr int kReach = 3;
static_assert(2 * kReach + 1 <= static_cast<int>(kernels::kTrials));
// Costs are in 1/16 bit, so that the sums of a row of this many codes fit 31 bits.
constexpr uint32_t kCostBits = 4;
constexpr uint64_t kRefinedMax = uint64_t{1} << 21;
// An exponent is chosen by at least so many of its codes that deviate, in each refinement; what a
// class costs is told from so many of a tensor, of at least so many rows.
constexpr uint64_t kRefinedEnough[kRefinements] = {48, 96};
constexpr uint64_t kCodesEnough = 1u << 15;
constexpr uint64_t kRowsEnough = 64;
// How common the codes of a tensor are is told from at least so many.
constexpr uint64_t kCountedEnough = 1u << 16;
// Of so many codes of a class a table takes a few bytes.
constexpr uint64_t kFewCodes = 8192;
constexpr uint64_t kCodesMax = uint64_t{1} << 28;  // places and counts fit 32 bits

// log2(x) in 1/16 bit, for x >= 1: the mantissa's logarithm by a parabola, right to 1/100 bit.
uint32_t Log2(uint64_t x) {
  const uint32_t whole = static_cast<uint32_t>(std::bit_width(x)) - 1;
  const uint32_t m =
      static_cast<uint32_t>((whole >= 8 ? x >> (whole - 8) : x << (8 - whole)) & 255);
  const uint32_t log2 = (whole << 8) + m + (((m * (256 - m)) * 88) >> 16);
  return (log2 + 8) >> (8 - kCostBits);
}

// log2(x) in 2^-16 bit, rounded down, for x >= 1; by repeated squaring.
uint64_t ExactLog2(uint64_t x) {
  const uint32_t whole = static_cast<uint32_t>(std::bit_width(x)) - 1;
  uint64_t mantissa = whole >= 31 ? x >> (whole - 31) : x << (31 - whole);  // 1 to 2, in 2^-31
  uint64_t log2 = whole;
  for (int bit = 0; bit < 16; ++bit) {
    mantissa = (mantissa * mantissa) >> 31;
    log2 <<= 1;
    if (mantissa >> 32 != 0) {
      mantissa >>= 1;
      log2 |= 1;
    }
  }
  return log2;
}

// What one table costs, itself not counted, in 2^-16 bit.
uint64_t Entropy(const std::array<uint64_t, 256>& histogram) {
  uint64_t total = 0;
  for (const uint64_t count : histogram) total += count;
  if (total == 0) return 0;
  const uint64_t all = ExactLog2(total);
  uint64_t entropy = 0;
  for (const uint64_t count : histogram) {
    if (count != 0) entropy += count * (all - ExactLog2(count));
  }
  return entropy;
}

// log2(numerator / denominator), rounded, for positive numbers.
int Level(uint64_t numerator, uint64_t denominator) {
  const unsigned __int128 scaled = static_cast<unsigned __int128>(numerator) * 92682u
                                   << 24;  // sqrt(2) * 2^16 * 2^24
  const unsigned __int128 ratio = scaled / denominator;
  const uint64_t high = static_cast<uint64_t>(ratio >> 64);
  const int width = high != 0 ? 64 + static_cast<int>(std::bit_width(high))
                              : static_cast<int>(std::bit_width(static_cast<uint64_t>(ratio)));
  return width - 1 - 40;
}

// Of a set with this sum of squared deviations. A quarter stands for what rounding hid.
int VarianceLevel(uint64_t squares, uint64_t count) { return Level(4 * squares + 1, 4 * count); }

using Histogram = std::array<uint64_t, 256>;

struct Tensor {
  const uint8_t* codes = nullptr;
  uint64_t size = 0;
  FactorSizes sizes{1, 1, 1};
  uint8_t zero = 0;
  std::array<uint64_t, kDeviations> deviations{};  // how often each occurs; of a sample if large
  uint64_t squares = 0;
  int first = 0;
  int classes = 1;
  int least = 0;  // level of class `first`
  bool has_exponents = false;
  std::array<std::vector<int>, kFactors> levels;  // exponents: about 0 but for rows
  // By place in a row, where it has several positions; else places are columns.
  std::vector<uint32_t> columns;
  std::vector<uint32_t> positions;
  std::vector<int16_t> inner;  // by place in a row: the levels of its column and position together
  uint64_t row_size() const { return sizes[1] * sizes[2]; }
  // So many codes that about so many of them deviate.
  uint64_t Enough(uint64_t deviating) const {
    const uint64_t all = size - std::min(size, deviations[0]) + 1;
    return static_cast<uint64_t>(static_cast<unsigned __int128>(deviating) * size / all);
  }
  int Class(int level) const { return first + std::min(std::max(level - least, 0), classes - 1); }
};

uint8_t Commonest(const Histogram& histogram) {
  return static_cast<uint8_t>(std::max_element(histogram.begin(), histogram.end()) -
                              histogram.begin());
}

// How often `available` can be halved while `enough` are left.
int HalvingsTo(uint64_t enough, uint64_t available) {
  return available < 2 * enough ? 0 : static_cast<int>(std::bit_width(available / enough)) - 1;
}

// Of a tensor's codes: of all, or of runs that lie evenly in it, each counted as often as it stands
// for others, so that the sum is about its size.
Histogram Count(const uint8_t* codes, uint64_t size) {
  constexpr uint64_t kRun = 64;
  const int halvings = HalvingsTo(kCountedEnough, size);
  const uint64_t stride = kRun << halvings;
  // Four counters a code: equal codes in a row would wait for each other.
  std::array<std::array<uint32_t, 256>, 4> parts{};
  for (uint64_t from = 0; from < size; from += stride) {
    const uint64_t end = std::min(size, from + kRun);
    uint64_t i = from;
    for (; i + 4 <= end; i += 4) {
      for (uint64_t j = 0; j < 4; ++j) ++parts[j][codes[i + j]];
    }
    for (; i < end; ++i) ++parts[0][codes[i]];
  }
  Histogram histogram{};
  for (const auto& part : parts) {
    for (size_t c = 0; c < part.size(); ++c) histogram[c] += uint64_t{part[c]} << halvings;
  }
  return histogram;
}

void SetDeviations(const Histogram& histogram, Tensor& tensor) {
  for (size_t c = 0; c < histogram.size(); ++c) {
    const int d = std::min(std::abs(static_cast<int>(c) - int{tensor.zero}), kDeviations - 1);
    tensor.deviations[static_cast<size_t>(d)] += histogram[c];
    tensor.squares += static_cast<uint64_t>(d * d) * histogram[c];
  }
}

// A part of a large tensor stands for all of it: of rows one in 2^rows_log2, of columns one in
// 2^columns_log2 runs of kColumnRun.
constexpr size_t kColumnRun = 64;
struct Sample {
  int rows_log2 = 0;
  int columns_log2 = 0;

  bool HasRow(size_t i) const { return (i & ((size_t{1} << rows_log2) - 1)) == 0; }
  bool HasColumn(size_t j) const {
    return (j / kColumnRun & ((size_t{1} << columns_log2) - 1)) == 0;
  }
  bool Has(size_t f, size_t i) const { return f == 0 ? HasRow(i) : f != 1 || HasColumn(i); }
};

// Calls visit(row, place, deviation) for each code of one row in 2^rows_log2 that deviates.
template <typename Visit>
void ForEach(const Tensor& tensor, int rows_log2, Visit visit) {
  const size_t row_size = tensor.row_size();
  const uint8_t zero = tensor.zero;
  const uint64_t zeros = 0x0101010101010101u * zero;
  for (size_t row = 0; row < tensor.sizes[0]; row += size_t{1} << rows_log2) {
    const uint8_t* const codes = tensor.codes + row * row_size;
    const auto see = [&](size_t place) {
      const int d = std::abs(int{codes[place]} - int{zero});
      visit(row, place, static_cast<size_t>(std::min(d, kernels::kDeviationMax)));
    };
    size_t i = 0;
    for (; i + 8 <= row_size; i += 8) {
      uint64_t word;
      std::memcpy(&word, codes + i, sizeof(word));
      uint64_t different = word ^ zeros;
      while (different != 0) {
        const size_t byte = static_cast<size_t>(std::countr_zero(different)) / 8;
        see(i + byte);
        different &= ~(uint64_t{255} << (8 * byte));
      }
    }
    for (; i < row_size; ++i) {
      if (codes[i] != zero) see(i);
    }
  }
}

void SetInner(Tensor& tensor) {
  const std::vector<int>& positions = tensor.levels[2];
  int16_t* to = tensor.inner.data();
  for (const int column : tensor.levels[1]) {
    for (const int position : positions) *to++ = static_cast<int16_t>(column + position);
  }
}

void FirstLevels(Tensor& tensor) {
  const size_t row_size = tensor.row_size();
  std::array<std::vector<uint64_t>, kFactors> squares;
  for (size_t f = 0; f < kFactors; ++f) squares[f].resize(tensor.sizes[f]);
  std::vector<uint64_t> by_place(row_size);
  std::vector<uint16_t> some(row_size);  // of a few rows
  for (size_t i = 0; i < tensor.sizes[0]; ++i) {
    squares[0][i] =
        kernels::AddSquares(tensor.codes + i * row_size, row_size, tensor.zero, some.data());
    if (i % kernels::kSquaresMax != kernels::kSquaresMax - 1 && i + 1 != tensor.sizes[0]) continue;
    for (size_t j = 0; j < row_size; ++j) by_place[j] += some[j];
    std::fill(some.begin(), some.end(), uint16_t{0});
  }
  tensor.squares = 0;
  for (const uint64_t of_row : squares[0]) tensor.squares += of_row;
  for (size_t j = 0, at = 0; j < tensor.sizes[1]; ++j) {
    for (size_t k = 0; k < tensor.sizes[2]; ++k, ++at) {
      squares[1][j] += by_place[at];
      squares[2][k] += by_place[at];
    }
  }
  const int mean = VarianceLevel(tensor.squares, tensor.size);
  for (size_t f = 0; f < kFactors; ++f) {
    tensor.levels[f].resize(tensor.sizes[f]);
    if (tensor.sizes[f] == 1) {
      tensor.levels[f][0] = f == 0 ? mean : 0;
      continue;
    }
    for (size_t i = 0; i < tensor.sizes[f]; ++i) {
      tensor.levels[f][i] =
          VarianceLevel(squares[f][i], tensor.size / tensor.sizes[f]) - (f == 0 ? 0 : mean);
    }
  }
  tensor.inner.resize(row_size);
  SetInner(tensor);
  if (tensor.sizes[2] == 1) return;
  tensor.columns.reserve(row_size);
  tensor.positions.reserve(row_size);
  for (uint32_t j = 0; j < tensor.sizes[1]; ++j) {
    for (uint32_t k = 0; k < tensor.sizes[2]; ++k) {
      tensor.columns.push_back(j);
      tensor.positions.push_back(k);
    }
  }
}

// How many there are of each level.
struct LevelCounts {
  int least = 0;
  std::vector<uint64_t> counts = std::vector<uint64_t>(1);
};

LevelCounts CountLevels(const std::vector<int>& levels, size_t f, Sample sample) {
  const auto [least, most] = std::minmax_element(levels.begin(), levels.end());
  LevelCounts counted{*least, std::vector<uint64_t>(static_cast<size_t>(*most - *least) + 1)};
  for (size_t i = 0; i < levels.size(); ++i) {
    if (sample.Has(f, i)) ++counted.counts[static_cast<size_t>(levels[i] - counted.least)];
  }
  return counted;
}

// Of the sums of one level of each.
LevelCounts Sums(const LevelCounts& a, const LevelCounts& b) {
  LevelCounts sums{a.least + b.least, std::vector<uint64_t>(a.counts.size() + b.counts.size() - 1)};
  for (size_t i = 0; i < a.counts.size(); ++i) {
    for (size_t j = 0; j < b.counts.size(); ++j) sums.counts[i + j] += a.counts[i] * b.counts[j];
  }
  return sums;
}

// What a deviation costs in each class, in 1/16 bit.
using Costs = std::vector<std::array<uint32_t, kDeviations>>;

Costs MakeCosts(const std::vector<Tensor>& tensors, size_t class_count) {
  std::vector<std::array<uint64_t, kDeviations>> counts(class_count);
  for (const Tensor& tensor : tensors) {
    if (!tensor.has_exponents) {
      auto& of_class = counts[static_cast<size_t>(tensor.Class(tensor.levels[0][0]))];
      for (size_t d = 0; d < kDeviations; ++d) of_class[d] += tensor.deviations[d];
      continue;
    }
    // Weighted by how many each row stands for.
    const Sample sample{std::min(HalvingsTo(kRowsEnough, tensor.sizes[0]),
                                 HalvingsTo(tensor.Enough(kCodesEnough), tensor.size)),
                        0};
    LevelCounts levels = CountLevels(tensor.levels[0], 0, sample);
    for (size_t f = 1; f < kFactors; ++f) {
      levels = Sums(levels, CountLevels(tensor.levels[f], f, sample));
    }
    std::vector<std::array<uint32_t, kDeviations>> sampled(class_count);
    for (size_t i = 0; i < levels.counts.size(); ++i) {
      sampled[static_cast<size_t>(tensor.Class(levels.least + static_cast<int>(i)))][0] +=
          static_cast<uint32_t>(levels.counts[i]);
    }
    ForEach(tensor, sample.rows_log2, [&](size_t i, size_t place, size_t d) {
      ++sampled[static_cast<size_t>(tensor.Class(tensor.levels[0][i] + tensor.inner[place]))][d];
    });
    const uint64_t each = uint64_t{1} << sample.rows_log2;
    for (size_t c = 0; c < class_count; ++c) {
      for (size_t d = 1; d < kDeviations; ++d) {
        sampled[c][0] -= sampled[c][d];
        counts[c][d] += each * sampled[c][d];
      }
      counts[c][0] += each * sampled[c][0];
    }
  }
  Costs costs(class_count);
  for (size_t c = 0; c < class_count; ++c) {
    uint64_t total = 0;
    for (const uint64_t count : counts[c]) total += 16 * count + 1;
    for (size_t d = 0; d < kDeviations; ++d) {
      costs[c][d] = Log2(total) - Log2(16 * counts[c][d] + 1);
    }
  }
  return costs;
}

// The middle of a tensor's levels: exponents are around it.
int Centre(const std::vector<int>& levels) {
  int64_t sum = 0;
  for (const int level : levels) sum += level;
  const int64_t size = static_cast<int64_t>(levels.size());
  return static_cast<int>((2 * sum + size + 256 * size) / (2 * size) - 128);
}

using Priors = std::array<uint32_t, kExponentLevels>;  // of exponents, from the least on

// What each exponent of factor `f` costs, from how common it is, around the tensors' own centres.
Priors MakePriors(const std::vector<Tensor>& tensors, size_t f) {
  Priors priors{};
  uint64_t total = 0;
  for (const Tensor& tensor : tensors) {
    if (!tensor.has_exponents || tensor.sizes[f] == 1) continue;
    const int centre = Centre(tensor.levels[f]);
    for (const int level : tensor.levels[f]) {
      const int e = std::min(std::max(level - centre, -kExponentBias), kExponentBias - 1);
      ++priors[static_cast<size_t>(e + kExponentBias)];
      ++total;
    }
  }
  for (uint32_t& prior : priors) prior = Log2(3 * total + 32) - Log2(3 * uint64_t{prior} + 1);
  return priors;
}

// Chooses the exponents of factor `f` anew: each the one that costs least, its own bytes included,
// by at least `enough` codes that deviate.
void Refine(Tensor& tensor, size_t f, uint64_t enough, const Costs& costs, const Priors& priors) {
  const uint64_t codes_each = tensor.size / tensor.sizes[f];
  if (tensor.sizes[f] == 1 || codes_each > kRefinedMax) return;
  const int centre = Centre(tensor.levels[f]);
  // Rows are judged by a part of their columns, all else by a part of the rows.
  const int halvings = HalvingsTo(tensor.Enough(enough), codes_each);
  const Sample sample =
      f != 0 ? Sample{std::min(halvings, HalvingsTo(kRowsEnough, tensor.sizes[0])), 0}
             : Sample{0, std::min(halvings, HalvingsTo(4 * kColumnRun, tensor.sizes[1]))};
  const int64_t each = int64_t{1} << (sample.rows_log2 + sample.columns_log2);
  // The codes of a row (or column, position), by the sum of their other exponents.
  LevelCounts others{0, {1}};
  for (size_t g = 0; g < kFactors; ++g) {
    if (g != f) others = Sums(others, CountLevels(tensor.levels[g], g, sample));
  }
  // What a row costs with each exponent if none deviates, and the exponent with which that is
  // least.
  std::array<int64_t, kExponentLevels> zeros{};
  size_t quiet = 0;
  for (size_t e = 0; e < zeros.size(); ++e) {
    const int level = centre + static_cast<int>(e) - kExponentBias;
    for (size_t i = 0; i < others.counts.size(); ++i) {
      const int other = others.least + static_cast<int>(i);
      zeros[e] += static_cast<int64_t>(others.counts[i]) *
                  int64_t{costs[static_cast<size_t>(tensor.Class(level + other))][0]};
    }
    zeros[e] = each * zeros[e] + int64_t{priors[e]};
    if (zeros[e] < zeros[quiet]) quiet = e;
  }
  // What a deviation adds to that, by level from `lowest` on; beyond the ends all are alike.
  const int lowest = tensor.least - 2 * kReach - 1;
  const size_t stride = static_cast<size_t>(tensor.classes + 4 * kReach + 2) + kernels::kTrials;
  std::vector<int32_t> extra(static_cast<size_t>(kDeviations) * stride);
  for (size_t d = 0; d < kDeviations; ++d) {
    for (size_t x = 0; x < stride; ++x) {
      const auto& of_class = costs[static_cast<size_t>(tensor.Class(lowest + static_cast<int>(x)))];
      extra[d * stride + x] = static_cast<int32_t>(of_class[d]) - static_cast<int32_t>(of_class[0]);
    }
  }
  // Of levels - kReach and on.
  const kernels::Trials trials{extra.data(), stride, lowest + kReach};
  using Tried = std::array<int32_t, kernels::kTrials>;
  const auto choose = [&](const Tried& sums, int& level) {
    const bool is_quiet =
        std::all_of(sums.begin(), sums.end(), [](int32_t sum) { return sum == 0; });
    if (is_quiet) {
      level = centre + static_cast<int>(quiet) - kExponentBias;
      return;
    }
    int best = level;
    int64_t best_cost = std::numeric_limits<int64_t>::max();
    for (int t = 0; t <= 2 * kReach; ++t) {
      const int tried = level - kReach + t;
      if (tried < centre - kExponentBias || tried >= centre + kExponentBias) continue;
      const int64_t cost = each * int64_t{sums[static_cast<size_t>(t)]} +
                           zeros[static_cast<size_t>(tried - centre + kExponentBias)];
      if (cost < best_cost) {
        best_cost = cost;
        best = tried;
      }
    }
    level = best;
  };
  const size_t row_size = tensor.row_size();
  const int16_t* const inner = tensor.inner.data();
  if (f == 0) {
    const size_t run = sample.columns_log2 == 0 ? row_size : kColumnRun * tensor.sizes[2];
    for (size_t i = 0; i < tensor.sizes[0]; ++i) {
      Tried sums{};
      for (size_t from = 0; from < row_size; from += run << sample.columns_log2) {
        kernels::AddTrials(tensor.codes + i * row_size + from, std::min(run, row_size - from),
                           tensor.zero, tensor.levels[0][i], inner + from, trials, sums.data());
      }
      choose(sums, tensor.levels[0][i]);
    }
    return;
  }
  const std::vector<uint32_t>& places = f == 1 ? tensor.columns : tensor.positions;
  std::vector<Tried> sums(tensor.sizes[f]);
  kernels::TrialRows rows{};
  const auto add = [&] {
    kernels::AddTrialsByPlace(rows, row_size, tensor.zero, inner, trials,
                              places.empty() ? nullptr : places.data(), sums[0].data());
    rows.count = 0;
  };
  for (size_t i = 0; i < tensor.sizes[0]; i += size_t{1} << sample.rows_log2) {
    rows.codes[rows.count] = tensor.codes + i * row_size;
    rows.levels[rows.count] = tensor.levels[0][i];
    if (++rows.count == kernels::kTrialRows) add();
  }
  add();
  for (size_t i = 0; i < tensor.sizes[f]; ++i) choose(sums[i], tensor.levels[f][i]);
  SetInner(tensor);
}

// The one class that codes the whole tensor best, as a level.
int BestLevel(const Tensor& tensor, const Costs& costs) {
  int best = tensor.least;
  uint64_t best_cost = std::numeric_limits<uint64_t>::max();
  for (int c = 0; c < tensor.classes; ++c) {
    uint64_t cost = 0;
    for (size_t d = 0; d < kDeviations; ++d) {
      cost += tensor.deviations[d] * costs[static_cast<size_t>(tensor.first + c)][d];
    }
    if (cost < best_cost) {
      best_cost = cost;
      best = tensor.least + c;
    }
  }
  return best;
}

// False if there are more tensors than classes.
bool AssignClasses(std::vector<Tensor>& tensors, bool shares, size_t& class_count) {
  if (shares) {
    int most = kLeastLevel;
    for (const Tensor& tensor : tensors) {
      int highest = 0;
      for (const std::vector<int>& levels : tensor.levels) {
        highest += *std::max_element(levels.begin(), levels.end());
      }
      most = std::max(most, highest);
    }
    const int classes = std::min(most - kLeastLevel + 1, kSharedClassesMax);
    for (Tensor& tensor : tensors) {
      tensor.least = kLeastLevel;
      tensor.classes = classes;
    }
    class_count = static_cast<size_t>(classes);
    return true;
  }
  for (int fewer = 0;; fewer += 2) {
    int first = 0;
    for (Tensor& tensor : tensors) {
      int classes = 1;
      for (const auto& row : kOwnClasses) {
        if (tensor.size >= row.size) {
          classes = row.classes;
          break;
        }
      }
      tensor.classes = tensor.has_exponents ? std::max(1, classes - fewer) : 1;
      tensor.first = first;
      tensor.least = VarianceLevel(tensor.squares, tensor.size) - tensor.classes / 2;
      first += tensor.classes;
    }
    class_count = static_cast<size_t>(first);
    if (class_count <= kRansClassesMax) return true;
    if (fewer > 6) return false;
  }
}

int8_t Exponent(int level) {
  return static_cast<int8_t>(std::min(std::max(level, -kExponentBias), kExponentBias - 1));
}

ContextTensor ToContext(const Tensor& tensor) {
  ContextTensor context;
  context.first = static_cast<uint8_t>(tensor.first);
  context.last = static_cast<uint8_t>(tensor.first + tensor.classes - 1);
  int base = -tensor.least;
  for (size_t f = 0; f < kFactors; ++f) {
    const int centre = tensor.sizes[f] == 1 ? tensor.levels[f][0] : Centre(tensor.levels[f]);
    base += centre;
    if (!tensor.has_exponents || tensor.sizes[f] == 1) continue;
    for (const int level : tensor.levels[f]) {
      context.exponents[f].push_back(Exponent(level - centre));
    }
  }
  const int limited = std::min(std::max(base, 0), kClassBaseLevels - 1);
  context.base = static_cast<uint8_t>(limited);
  // A base below 0 has no number: the rows make up for it.
  if (limited != base) {
    std::vector<int8_t>& rows =
        context
            .exponents[context.exponents[0].empty() ? (context.exponents[1].empty() ? 2 : 1) : 0];
    for (int8_t& e : rows) e = Exponent(e + base - limited);
  }
  return context;
}

// Counts the codes of one tensor after the other, by class.
class ClassCounter {
 public:
  ClassCounter(absl::Span<const uint8_t> codes, const Layout& layout, int levels)
      : codes_(codes),
        layout_(layout),
        levels_(static_cast<size_t>(levels)),
        row_log2_(static_cast<int>(std::bit_width(levels_ - 1))) {}

  // Of tensor `index` of the layout, from its first class on.
  std::vector<RansHistogram> Count(const ContextModel& model, uint32_t index) {
    const Layout::Tensor& tensor = layout_.tensors()[index];
    const ContextTensor& context = model.tensors[tensor.quantised_index];
    const size_t class_count = context.last + size_t{1} - context.first;
    for (auto& one : counters_) one.assign((context.last + size_t{1}) << row_log2_, 0);
    std::array<uint32_t*, kCounters> counts;
    for (size_t j = 0; j < kCounters; ++j) counts[j] = counters_[j].data();
    for (uint64_t done = 0; done < tensor.size; done += kPart) {
      Extent extent{};
      extent.tensor = index;
      extent.first = tensor.offset + done;
      extent.count = std::min(kPart, tensor.size - done);
      FillClasses(model, layout_, extent, classes_.data());
      for (uint64_t at = 0; at < extent.count; at += kJoined) {
        const uint64_t here = std::min(kJoined, extent.count - at);
        kernels::JoinCodes(&classes_[at], codes_.data() + extent.first + at, here, row_log2_,
                           joined_.data());
        uint64_t i = 0;
        for (; i + kCounters <= here; i += kCounters) {
          for (size_t j = 0; j < kCounters; ++j) ++counts[j][joined_[i + j]];
        }
        for (; i < here; ++i) ++counts[0][joined_[i]];
      }
    }
    std::vector<RansHistogram> histograms(class_count);
    for (const uint32_t* const one : counts) {
      for (size_t c = 0; c < class_count; ++c) {
        const uint32_t* const row = one + ((context.first + c) << row_log2_);
        for (size_t code = 0; code < levels_; ++code) histograms[c][code] += row[code];
      }
    }
    return histograms;
  }

 private:
  static constexpr uint64_t kPart = 1u << 16;
  static constexpr uint64_t kJoined = 1u << 12;
  // Four counters a code: equal ones in a row would wait for each other.
  static constexpr size_t kCounters = 4;

  const absl::Span<const uint8_t> codes_;
  const Layout& layout_;
  const size_t levels_;
  // Rows of a class are no longer than they must be: at a distance of a page's part they would fall
  // into few of the cache's sets.
  const int row_log2_;
  std::array<std::vector<uint32_t>, kCounters> counters_;
  std::vector<uint8_t> classes_ = std::vector<uint8_t>(kPart);
  std::array<uint16_t, kJoined> joined_;
};

Histogram Widened(const RansHistogram& histogram) {
  Histogram wide;
  std::copy(histogram.begin(), histogram.end(), wide.begin());
  return wide;
}

RansHistogram Together(const RansHistogram& a, const RansHistogram& b) {
  RansHistogram sum;
  for (size_t c = 0; c < sum.size(); ++c) sum[c] = a[c] + b[c];
  return sum;
}

// About what a class costs with its table, in 2^-16 bit.
uint64_t ClassCost(const RansHistogram& histogram) {
  uint64_t total = 0;
  uint64_t used = 0;
  for (const uint32_t count : histogram) {
    total += count;
    used += count != 0 ? 1 : 0;
  }
  const uint64_t table_bytes = total == 0          ? 1
                               : total > kFewCodes ? 3 + 3 * used / 2
                                                   : std::min<uint64_t>(3 + used, 4);
  return Entropy(Widened(histogram)) + (8 * table_bytes << 16);
}

// Of what a tensor's exponents cost, and what they gain. If that is less, it has one class for all
// its codes from now on.
//   histograms  its codes by class
bool DropExponents(const std::array<Priors, kFactors>& priors, const Costs& costs,
                   std::vector<RansHistogram>& histograms, Tensor& tensor) {
  if (!tensor.has_exponents) return false;
  uint64_t exponents = 0;  // in 1/16 bit
  for (size_t f = 0; f < kFactors; ++f) {
    if (tensor.sizes[f] == 1) continue;
    const int centre = Centre(tensor.levels[f]);
    for (const int level : tensor.levels[f]) {
      exponents += priors[f][static_cast<size_t>(Exponent(level - centre) + kExponentBias)];
    }
  }
  RansHistogram all{};
  uint64_t with = exponents << (16 - kCostBits);
  for (const RansHistogram& histogram : histograms) {
    with += Entropy(Widened(histogram));
    all = Together(all, histogram);
  }
  if (ClassCost(all) > with) return false;
  tensor.has_exponents = false;
  tensor.sizes = {1, 1, 1};
  tensor.deviations = {};
  tensor.squares = 0;
  SetDeviations(Widened(all), tensor);
  for (std::vector<int>& levels : tensor.levels) levels.assign(1, 0);
  tensor.levels[0][0] = BestLevel(tensor, costs);
  std::fill(histograms.begin(), histograms.end(), RansHistogram{});
  histograms[static_cast<size_t>(tensor.Class(tensor.levels[0][0]) - tensor.first)] = all;
  return true;
}

// A tensor's own classes, of which the first and the last ones can be joined with their neighbours:
// limits of a sum do just that.
class OwnClasses {
 public:
  // Of a tensor's classes, the first of which are those of the lowest levels.
  //   base  ContextTensor::base: a class that is not to be below the first one
  OwnClasses(const std::vector<RansHistogram>& histograms, size_t base) : base_(base) {
    size_t begin = 0;
    size_t end = histograms.size();
    const auto is_empty = [](const RansHistogram& histogram) {
      return std::all_of(histogram.begin(), histogram.end(), [](uint32_t n) { return n == 0; });
    };
    while (begin + 1 < end && begin < base && is_empty(histograms[begin])) ++begin;
    while (end - 1 > begin && is_empty(histograms[end - 1])) --end;
    highest_of_first_ = begin;
    for (size_t c = begin; c < end; ++c)
      groups_.push_back({histograms[c], ClassCost(histograms[c])});
    FindJoins();
  }

  size_t size() const { return groups_.size(); }
  uint64_t cost() const {
    uint64_t sum = 0;
    for (const Group& group : groups_) sum += group.cost;
    return sum;
  }
  // Of those that the tensor came with, the last one that is in the first class now.
  size_t highest_of_first() const { return highest_of_first_; }
  // What the better join costs; there are two classes or more.
  int64_t join_cost() const { return std::min(low_.cost, high_.cost); }
  void Join() {
    const bool is_low = low_.cost <= high_.cost;
    const size_t at = is_low ? 0 : groups_.size() - 2;
    groups_[at] = is_low ? low_.joined : high_.joined;
    groups_.erase(groups_.begin() + static_cast<ptrdiff_t>(at) + 1);
    if (is_low) ++highest_of_first_;
    FindJoins();
  }
  void Append(std::vector<RansHistogram>& histograms) const {
    for (const Group& group : groups_) histograms.push_back(group.histogram);
  }

 private:
  struct Group {
    RansHistogram histogram;
    uint64_t cost;
  };
  struct Joined {
    Group joined;
    int64_t cost;
  };

  Joined JoinOf(size_t at) const {
    Joined join;
    join.joined.histogram = Together(groups_[at].histogram, groups_[at + 1].histogram);
    join.joined.cost = ClassCost(join.joined.histogram);
    join.cost = static_cast<int64_t>(join.joined.cost) -
                static_cast<int64_t>(groups_[at].cost + groups_[at + 1].cost);
    return join;
  }
  void FindJoins() {
    if (groups_.size() < 2) return;
    low_ = JoinOf(0);
    if (highest_of_first_ == base_) low_.cost = std::numeric_limits<int64_t>::max();
    high_ = JoinOf(groups_.size() - 2);
  }

  const size_t base_;
  std::vector<Group> groups_;
  size_t highest_of_first_ = 0;
  Joined low_{};
  Joined high_{};
};

// Gives each tensor classes of its own instead of those that all share, if that is smaller: how
// well exponents tell the spread differs by tensor. False if they go on sharing.
//   by_tensor   the codes in the shared classes; not looked at where there are more than classes
//   histograms  of all classes, one tensor's after the other's
bool GiveOwnClasses(const std::vector<std::vector<RansHistogram>>& by_tensor,
                    const std::vector<RansHistogram>& shared, std::vector<ContextTensor>& tensors,
                    std::vector<RansHistogram>& histograms) {
  if (tensors.size() < 2 || tensors.size() > kRansClassesMax) return false;
  std::vector<OwnClasses> own;
  own.reserve(tensors.size());
  size_t class_count = 0;
  for (size_t t = 0; t < tensors.size(); ++t) {
    own.emplace_back(by_tensor[t], tensors[t].base);
    class_count += own.back().size();
  }
  while (true) {
    OwnClasses* best = nullptr;
    for (OwnClasses& of_tensor : own) {
      if (of_tensor.size() < 2) continue;
      if (best == nullptr || of_tensor.join_cost() < best->join_cost()) best = &of_tensor;
    }
    if (best == nullptr || (class_count <= kRansClassesMax && best->join_cost() > 0)) break;
    best->Join();
    --class_count;
  }
  uint64_t shared_cost = 0;
  for (const RansHistogram& histogram : shared) shared_cost += ClassCost(histogram);
  uint64_t own_cost = 0;
  for (const OwnClasses& of_tensor : own) own_cost += of_tensor.cost() + (8u << 16);
  if (own_cost >= shared_cost) return false;
  size_t first = 0;
  for (size_t t = 0; t < tensors.size(); ++t) {
    tensors[t].base = static_cast<uint8_t>(tensors[t].base - own[t].highest_of_first());
    tensors[t].first = static_cast<uint8_t>(first);
    first += own[t].size();
    tensors[t].last = static_cast<uint8_t>(first - 1);
  }
  histograms.clear();
  for (const OwnClasses& of_tensor : own) of_tensor.Append(histograms);
  return true;
}

}  // namespace

std::optional<ContextFit> FitContexts(absl::Span<const uint8_t> codes, const Layout& layout,
                                      const Spec& spec) {
  QFL_CHECK(codes.size() == layout.n() && HasCodes(spec));
  if (codes.size() >= kCodesMax) return std::nullopt;
  std::vector<Tensor> tensors;
  for (const Layout::Tensor& tensor : layout.tensors()) {
    if (tensor.policy != TensorPolicy::kQuantise) continue;
    Tensor t;
    t.codes = codes.data() + tensor.offset;
    t.size = tensor.size;
    t.sizes = FactorsOf(tensor);
    t.has_exponents = MayHaveExponents(t.sizes);
    tensors.push_back(std::move(t));
  }
  if (tensors.empty()) return std::nullopt;

  // Where 0 has the same code in all tensors they share tables.
  const bool shares = spec.scope == Scope::kModel || spec.quantiser == QuantiserId::kInt8 ||
                      spec.quantiser == QuantiserId::kUniform;
  std::vector<Histogram> histograms;
  Histogram all{};
  uint64_t entropy = 0;
  for (const Tensor& tensor : tensors) {
    histograms.push_back(Count(tensor.codes, tensor.size));
    entropy += Entropy(histograms.back());
    for (size_t c = 0; c < all.size(); ++c) all[c] += histograms.back()[c];
  }
  for (size_t t = 0; t < tensors.size(); ++t) {
    Tensor& tensor = tensors[t];
    tensor.zero = Commonest(shares ? all : histograms[t]);
    SetDeviations(histograms[t], tensor);
    if (tensor.has_exponents) {
      FirstLevels(tensor);
    } else {
      for (size_t f = 0; f < kFactors; ++f) tensor.levels[f].assign(1, 0);
      tensor.levels[0][0] = VarianceLevel(tensor.squares, tensor.size);
    }
  }
  size_t class_count = 0;
  if (!AssignClasses(tensors, shares, class_count)) return std::nullopt;

  Costs costs;
  for (const uint64_t enough : kRefinedEnough) {
    costs = MakeCosts(tensors, class_count);
    for (size_t f = 0; f < kFactors; ++f) {
      const Priors priors = MakePriors(tensors, f);
      for (Tensor& tensor : tensors) {
        if (tensor.has_exponents) Refine(tensor, f, enough, costs, priors);
      }
    }
    for (Tensor& tensor : tensors) {
      if (!tensor.has_exponents) tensor.levels[0][0] = BestLevel(tensor, costs);
    }
  }

  ContextFit fit;
  for (const Tensor& tensor : tensors) fit.model.tensors.push_back(ToContext(tensor));
  std::vector<std::vector<RansHistogram>> by_tensor;  // of tensors that are few enough
  std::vector<RansHistogram> by_class(class_count);
  ClassCounter counter(codes, layout, spec.levels);
  uint64_t coded = 0;
  const std::array<Priors, kFactors> priors = {MakePriors(tensors, 0), MakePriors(tensors, 1),
                                               MakePriors(tensors, 2)};
  size_t t = 0;  // among those that are quantised
  for (uint32_t i = 0; i < layout.tensors().size(); ++i) {
    if (layout.tensors()[i].policy != TensorPolicy::kQuantise) continue;
    std::vector<RansHistogram> of_tensor = counter.Count(fit.model, i);
    coded += layout.tensors()[i].size;
    if (DropExponents(priors, costs, of_tensor, tensors[t])) {
      fit.model.tensors[t] = ToContext(tensors[t]);
    }
    const size_t first = fit.model.tensors[t].first;
    for (size_t c = 0; c < of_tensor.size(); ++c) {
      by_class[first + c] = Together(by_class[first + c], of_tensor[c]);
    }
    if (tensors.size() <= kRansClassesMax) by_tensor.push_back(std::move(of_tensor));
    ++t;
  }
  std::vector<RansHistogram> own;
  if (shares && GiveOwnClasses(by_tensor, by_class, fit.model.tensors, own)) {
    by_class = std::move(own);
  }
  // What no table can be better than.
  uint64_t least_cost = 0;
  for (const RansHistogram& histogram : by_class) {
    least_cost += Entropy(Widened(histogram));
  }
  RansTables tables;
  for (const int scale : {12, 14}) {
    // A hundredth is not worth the slower table.
    if (scale != 12 && (codes.size() < (1u << 15) ||
                        tables.bytes.size() + (least_cost >> 19) + fit.expected_bytes / 100 >=
                            fit.expected_bytes)) {
      break;
    }
    RansTables tried = ChooseRansTables(by_class, spec.levels, scale);
    const uint64_t bytes = tried.bytes.size() + (tried.code_cost >> 19);
    if (scale != 12 && bytes + bytes / 100 >= fit.expected_bytes) continue;
    tables = std::move(tried);
    fit.model.scale = scale;
    fit.expected_bytes = bytes;
  }
  fit.model.tables = std::move(tables.classes);
  fit.model.table_bytes = tables.bytes.size();
  fit.model.cost_per_code = tables.code_cost / coded;
  fit.section = ContextSection(fit.model, tables.bytes, layout);
  fit.expected_bytes += fit.section.size() - tables.bytes.size();
  fit.plain_bytes = entropy >> 19;
  return fit;
}

}  // namespace quantfl::codec
