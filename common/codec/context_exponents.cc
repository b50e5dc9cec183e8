#include "common/codec/context_exponents.h"

#include <algorithm>
#include <bit>
#include <cstdlib>
#include <cstring>
#include <limits>

#include "common/codec/context_numbers.h"
#include "common/codec/kernels.h"

namespace quantfl::codec::context_fit {
namespace {

// Exponents are tried up to this far from what they are.
constexpr int kReach = 3;
static_assert(2 * kReach + 1 <= static_cast<int>(kernels::kTrials));
// The costs of so many codes fit 31 bits together.
constexpr uint64_t kRefinedMax = uint64_t{1} << 21;
// What a class costs is told from so many codes of a tensor that deviate, of at least so many rows.
constexpr uint64_t kCodesEnough = 1u << 15;
constexpr uint64_t kRowsEnough = 64;

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

// A bit for each byte that is not 0, the first one lowest.
uint64_t NonzeroBytes(uint64_t bytes) {
  constexpr uint64_t kLow = 0x7f7f7f7f7f7f7f7fu;
  const uint64_t high = (((bytes & kLow) + kLow) | bytes) & ~kLow;
  // Byte k's bit, 8 k after the shift, comes to 56 + k by the factor's bit 56 - 7 k; no other two
  // bits meet.
  return ((high >> 7) * 0x0102040810204080u) >> 56;
}

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
    const auto different = [&](size_t place) {
      uint64_t word;
      std::memcpy(&word, codes + place, sizeof(word));
      return NonzeroBytes(word ^ zeros);
    };
    const auto see_all = [&](size_t place, uint64_t bits) {
      for (; bits != 0; bits &= bits - 1) {
        see(place + static_cast<size_t>(std::countr_zero(bits)));
      }
    };
    size_t i = 0;
    // Many at a time, since the end of each loop is mispredicted.
    for (; i + 64 <= row_size; i += 64) {
      uint64_t bits = 0;
      for (size_t j = 0; j < 8; ++j) bits |= different(i + 8 * j) << (8 * j);
      see_all(i, bits);
    }
    for (; i + 8 <= row_size; i += 8) see_all(i, different(i));
    for (; i < row_size; ++i) {
      if (codes[i] != zero) see(i);
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

}  // namespace

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

}  // namespace quantfl::codec::context_fit
