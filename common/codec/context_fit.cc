#include "common/codec/context_fit.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <limits>
#include <utility>
#include <vector>

#include "common/base/check.h"

namespace quantfl::codec {
namespace {

// A code's deviation is its distance from the tensor's commonest code, at most this.
constexpr int kDeviations = 16;
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
constexpr int kTried = 8;  // 2 * kReach + 1, and one more: a whole vector
// Costs are in 1/16 bit, so that the sums of a row of this many codes fit 31 bits.
constexpr uint32_t kCostBits = 4;
constexpr uint64_t kRefinedMax = uint64_t{1} << 21;
// An exponent is chosen by at least so many of its codes; what a class costs is told from so many
// codes of a tensor, of at least so many rows.
constexpr uint64_t kRefinedEnough = 512;
constexpr uint64_t kCodesEnough = 1u << 18;
constexpr uint64_t kRowsEnough = 64;
constexpr uint64_t kCodesMax = uint64_t{1} << 28;  // a place and a deviation fit 32 bits

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
uint64_t Entropy(const std::array<uint64_t, 256>& histogram, uint64_t total) {
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

struct Tensor {
  const uint8_t* codes = nullptr;
  uint64_t size = 0;
  FactorSizes sizes{1, 1, 1};
  uint8_t zero = 0;
  std::vector<uint32_t> deviations;  // in_row * 16 + size, row by row
  std::vector<uint32_t> row_ends;    // in deviations
  uint64_t squares = 0;
  int first = 0;
  int classes = 1;
  int least = 0;  // level of class `first`
  bool has_exponents = false;
  std::array<std::vector<int>, kFactors> levels;  // exponents: about 0 but for rows
  uint64_t row_size() const { return sizes[1] * sizes[2]; }
  int Class(int level) const { return first + std::min(std::max(level - least, 0), classes - 1); }
};

uint8_t Commonest(const std::array<uint64_t, 256>& histogram) {
  return static_cast<uint8_t>(std::max_element(histogram.begin(), histogram.end()) -
                              histogram.begin());
}

void Count(const uint8_t* codes, uint64_t size, std::array<uint64_t, 256>& histogram) {
  std::array<std::array<uint32_t, 256>, 4> parts;
  for (uint64_t done = 0; done < size;) {
    const uint64_t count = std::min<uint64_t>(size - done, uint64_t{1} << 30);
    for (auto& part : parts) part.fill(0);
    uint64_t i = 0;
    for (; i + 4 <= count; i += 4) {
      for (uint64_t j = 0; j < 4; ++j) ++parts[j][codes[done + i + j]];
    }
    for (; i < count; ++i) ++parts[0][codes[done + i]];
    for (const auto& part : parts) {
      for (size_t c = 0; c < part.size(); ++c) histogram[c] += part[c];
    }
    done += count;
  }
}

void FindDeviations(Tensor& tensor) {
  const uint64_t row_size = tensor.has_exponents ? tensor.row_size() : tensor.size;
  const uint8_t zero = tensor.zero;
  const uint64_t zeros = 0x0101010101010101u * zero;
  tensor.row_ends.reserve(tensor.size / row_size);
  size_t found = 0;
  uint64_t squares = 0;
  const auto add = [&](const uint8_t* row, uint64_t j) {
    const int d = std::min(kDeviations - 1, std::abs(int{row[j]} - int{zero}));
    tensor.deviations[found++] = static_cast<uint32_t>(j << 4) | static_cast<uint32_t>(d);
    squares += static_cast<uint64_t>(d * d);
  };
  for (uint64_t i = 0; i < tensor.size; i += row_size) {
    const uint8_t* const row = tensor.codes + i;
    uint64_t j = 0;
    // Room for a row, and for as many again of what comes.
    if (tensor.deviations.size() < found + row_size) {
      tensor.deviations.resize(std::min(2 * found + row_size + tensor.size / 8, tensor.size));
    }
    for (; j + 8 <= row_size; j += 8) {
      uint64_t word;
      std::memcpy(&word, row + j, sizeof(word));
      uint64_t different = word ^ zeros;
      while (different != 0) {
        const uint64_t byte = static_cast<uint64_t>(std::countr_zero(different)) / 8;
        add(row, j + byte);
        different &= ~(uint64_t{255} << (8 * byte));
      }
    }
    for (; j < row_size; ++j) {
      if (row[j] != zero) add(row, j);
    }
    tensor.row_ends.push_back(static_cast<uint32_t>(found));
  }
  tensor.deviations.resize(found);
  tensor.squares += squares;
}

// A part of a large tensor stands for all of it: of rows one in 2^rows_log2, of columns one in
// 2^columns_log2 runs of kColumnRun, which a branch predicts.
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

// How often `available` can be halved while `enough` are left.
int HalvingsTo(uint64_t enough, uint64_t available) {
  return available < 2 * enough ? 0 : static_cast<int>(std::bit_width(available / enough)) - 1;
}

// Calls visit(row, column, position, deviation) for each code of the sample that deviates; all of a
// tensor without exponents are in row 0, column 0.
template <typename Visit>
void ForEach(const Tensor& tensor, Visit visit, Sample sample = {}) {
  if (!tensor.has_exponents) {
    for (const uint32_t deviation : tensor.deviations) {
      visit(size_t{0}, size_t{0}, size_t{0}, static_cast<size_t>(deviation & 15u));
    }
    return;
  }
  const uint32_t positions = static_cast<uint32_t>(tensor.sizes[2]);
  for (size_t i = 0; i < tensor.row_ends.size(); i += size_t{1} << sample.rows_log2) {
    for (size_t at = i == 0 ? 0 : tensor.row_ends[i - 1]; at < tensor.row_ends[i]; ++at) {
      const uint32_t in_row = tensor.deviations[at] >> 4;
      const uint32_t column = positions == 1 ? in_row : in_row / positions;
      if (!sample.HasColumn(column)) continue;
      visit(i, size_t{column}, size_t{in_row - column * positions},
            static_cast<size_t>(tensor.deviations[at] & 15u));
    }
  }
}

void FirstLevels(Tensor& tensor) {
  std::array<std::vector<uint64_t>, kFactors> squares;
  for (size_t f = 0; f < kFactors; ++f) squares[f].resize(tensor.sizes[f]);
  ForEach(tensor, [&](size_t i, size_t j, size_t k, size_t d) {
    squares[0][i] += d * d;
    squares[1][j] += d * d;
    squares[2][k] += d * d;
  });
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
}

using LevelCounts = std::array<uint64_t, 256>;  // of levels -128..127

LevelCounts CountLevels(const std::vector<int>& levels, size_t f, Sample sample) {
  LevelCounts counts{};
  for (size_t i = 0; i < levels.size(); ++i) {
    if (!sample.Has(f, i)) continue;
    ++counts[static_cast<size_t>(std::min(std::max(levels[i], -128), 127) + 128)];
  }
  return counts;
}

// Of the sums of one level of each; what leaves the range is counted at its end.
LevelCounts Sums(const LevelCounts& a, const LevelCounts& b) {
  LevelCounts sums{};
  for (int i = -128; i < 128; ++i) {
    if (a[static_cast<size_t>(i + 128)] == 0) continue;
    for (int j = -128; j < 128; ++j) {
      const int sum = std::min(std::max(i + j, -128), 127);
      sums[static_cast<size_t>(sum + 128)] +=
          a[static_cast<size_t>(i + 128)] * b[static_cast<size_t>(j + 128)];
    }
  }
  return sums;
}

// What a deviation costs in each class, in 1/16 bit.
using Costs = std::vector<std::array<uint32_t, kDeviations>>;

Costs MakeCosts(const std::vector<Tensor>& tensors, size_t class_count) {
  std::vector<std::array<uint64_t, kDeviations>> counts(class_count);
  for (const Tensor& tensor : tensors) {
    // Weighted by how many each row stands for.
    const Sample sample{tensor.has_exponents ? std::min(HalvingsTo(kRowsEnough, tensor.sizes[0]),
                                                        HalvingsTo(kCodesEnough, tensor.size))
                                             : 0,
                        0};
    LevelCounts levels = CountLevels(tensor.levels[0], 0, sample);
    for (size_t f = 1; f < kFactors; ++f) {
      levels = Sums(levels, CountLevels(tensor.levels[f], f, sample));
    }
    const uint64_t each = uint64_t{1} << sample.rows_log2;
    for (int level = -128; level < 128; ++level) {
      counts[static_cast<size_t>(tensor.Class(level))][0] +=
          each * levels[static_cast<size_t>(level + 128)];
    }
    const auto count = [&](size_t i, size_t j, size_t k, size_t d) {
      auto& of_class = counts[static_cast<size_t>(
          tensor.Class(tensor.levels[0][i] + tensor.levels[1][j] + tensor.levels[2][k]))];
      of_class[0] -= each;
      of_class[d] += each;
    };
    ForEach(tensor, count, sample);
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

// What each exponent of factor `f` costs, from how common it is, around the tensors' own means.
int Centre(const std::vector<int>& levels) {
  int64_t sum = 0;
  for (const int level : levels) sum += level;
  const int64_t size = static_cast<int64_t>(levels.size());
  return static_cast<int>((2 * sum + size + 256 * size) / (2 * size) - 128);
}

using Priors = std::array<uint32_t, 2 * 128>;  // of levels less the centre, -128..127

Priors MakePriors(const std::vector<Tensor>& tensors, size_t f) {
  LevelCounts counts{};
  uint64_t total = 0;
  for (const Tensor& tensor : tensors) {
    if (!tensor.has_exponents || tensor.sizes[f] == 1) continue;
    const int centre = Centre(tensor.levels[f]);
    for (const int level : tensor.levels[f]) {
      ++counts[static_cast<size_t>(std::min(std::max(level - centre, -128), 127) + 128)];
      ++total;
    }
  }
  Priors priors;
  for (size_t i = 0; i < priors.size(); ++i) {
    priors[i] = Log2(3 * total + 32) - Log2(3 * counts[i] + 1);
  }
  return priors;
}

// Chooses the exponents of factor `f` anew: each the one that costs least, its own bytes included.
void Refine(Tensor& tensor, size_t f, const Costs& costs, const Priors& priors) {
  const uint64_t codes_each = tensor.size / tensor.sizes[f];
  if (tensor.sizes[f] == 1 || codes_each > kRefinedMax) return;
  const int centre = Centre(tensor.levels[f]);
  // Rows are judged by a part of their columns, all else by a part of the rows.
  const int halvings = HalvingsTo(kRefinedEnough, codes_each);
  const Sample sample =
      f != 0 ? Sample{std::min(halvings, HalvingsTo(kRowsEnough, tensor.sizes[0])), 0}
             : Sample{0, std::min(halvings, HalvingsTo(4 * kColumnRun, tensor.sizes[1]))};
  const int64_t each = int64_t{1} << (sample.rows_log2 + sample.columns_log2);
  // The codes of a row (or column, position), by the sum of their other exponents.
  LevelCounts others{};
  others[128] = 1;
  for (size_t g = 0; g < kFactors; ++g) {
    if (g != f) others = Sums(others, CountLevels(tensor.levels[g], g, sample));
  }
  // As if none deviated, for each level of the row.
  std::array<uint64_t, 256> zeros{};
  for (int other = -128; other < 128; ++other) {
    const uint64_t count = others[static_cast<size_t>(other + 128)];
    if (count == 0) continue;
    for (int level = -128; level < 128; ++level) {
      zeros[static_cast<size_t>(level + 128)] +=
          count * costs[static_cast<size_t>(tensor.Class(level + other))][0];
    }
  }
  // What a deviation adds to that, for a run of levels of which all but the ends are alike.
  const int lowest = tensor.least - kReach - 1;
  const int width = tensor.classes + 2 * (kReach + 1);
  std::vector<int32_t> extra(static_cast<size_t>(kDeviations) *
                             static_cast<size_t>(width + 2 * kTried));
  const size_t stride = static_cast<size_t>(width + 2 * kTried);
  for (size_t d = 0; d < kDeviations; ++d) {
    for (size_t x = 0; x < stride; ++x) {
      const auto& of_class =
          costs[static_cast<size_t>(tensor.Class(lowest - kReach + static_cast<int>(x)))];
      extra[d * stride + x] = static_cast<int32_t>(of_class[d]) - static_cast<int32_t>(of_class[0]);
    }
  }
  std::vector<std::array<int32_t, kTried>> sums(tensor.sizes[f]);
  const auto add = [&](size_t index, int level, size_t d) {
    // levels level - kReach, ..., level + kReach + 1
    const int x = std::min(std::max(level, lowest), lowest + width) - lowest;
    const int32_t* const from = &extra[d * stride + static_cast<size_t>(x)];
    for (size_t t = 0; t < kTried; ++t) sums[index][t] += from[t];
  };
  const auto visit = [&](size_t i, size_t j, size_t k, size_t d) {
    add(f == 0   ? i
        : f == 1 ? j
                 : k,
        tensor.levels[0][i] + tensor.levels[1][j] + tensor.levels[2][k], d);
  };
  ForEach(tensor, visit, sample);
  // Where nothing deviates the best level is the same for all.
  int quiet = centre;
  uint64_t quiet_cost = std::numeric_limits<uint64_t>::max();
  for (int e = -kExponentBias; e < kExponentBias; ++e) {
    const int level = std::min(std::max(centre + e, -128), 127);
    const uint64_t cost = static_cast<uint64_t>(each) * zeros[static_cast<size_t>(level + 128)] +
                          priors[static_cast<size_t>(e + 128)];
    if (cost < quiet_cost) {
      quiet_cost = cost;
      quiet = level;
    }
  }
  for (size_t i = 0; i < tensor.sizes[f]; ++i) {
    int& level = tensor.levels[f][i];
    const bool is_quiet =
        std::all_of(sums[i].begin(), sums[i].end(), [](int32_t sum) { return sum == 0; });
    if (is_quiet) {
      level = quiet;
      continue;
    }
    int best = level;
    int64_t best_cost = std::numeric_limits<int64_t>::max();
    for (int t = 0; t <= 2 * kReach; ++t) {
      const int tried = level - kReach + t;
      if (tried < centre - kExponentBias || tried >= centre + kExponentBias || tried < -128 ||
          tried > 127) {
        continue;
      }
      const int64_t cost = each * (int64_t{sums[i][static_cast<size_t>(t)]} +
                                   static_cast<int64_t>(zeros[static_cast<size_t>(tried + 128)])) +
                           int64_t{priors[static_cast<size_t>(tried - centre + 128)]};
      if (cost < best_cost) {
        best_cost = cost;
        best = tried;
      }
    }
    level = best;
  }
}

// The one class that codes the whole tensor best, as a level.
int BestLevel(const Tensor& tensor, const Costs& costs) {
  std::array<uint64_t, kDeviations> counts{};
  counts[0] = tensor.size;
  ForEach(tensor, [&](size_t, size_t, size_t, size_t d) {
    --counts[0];
    ++counts[d];
  });
  int best = tensor.least;
  uint64_t best_cost = std::numeric_limits<uint64_t>::max();
  for (int c = 0; c < tensor.classes; ++c) {
    uint64_t cost = 0;
    for (size_t d = 0; d < kDeviations; ++d) {
      cost += counts[d] * costs[static_cast<size_t>(tensor.first + c)][d];
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
    for (const int level : tensor.levels[f])
      context.exponents[f].push_back(Exponent(level - centre));
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
  std::array<uint64_t, 256> all{};
  uint64_t entropy = 0;
  for (Tensor& tensor : tensors) {
    std::array<uint64_t, 256> own{};
    Count(tensor.codes, tensor.size, own);
    tensor.zero = Commonest(own);
    entropy += Entropy(own, tensor.size);
    for (size_t c = 0; c < own.size(); ++c) all[c] += own[c];
  }
  for (Tensor& tensor : tensors) {
    if (shares) tensor.zero = Commonest(all);
    FindDeviations(tensor);
    if (tensor.has_exponents) {
      FirstLevels(tensor);
    } else {
      for (size_t f = 0; f < kFactors; ++f) tensor.levels[f].assign(1, 0);
      tensor.levels[0][0] = VarianceLevel(tensor.squares, tensor.size);
    }
  }
  size_t class_count = 0;
  if (!AssignClasses(tensors, shares, class_count)) return std::nullopt;

  for (int round = 0; round < kRefinements; ++round) {
    const Costs costs = MakeCosts(tensors, class_count);
    for (size_t f = 0; f < kFactors; ++f) {
      const Priors priors = MakePriors(tensors, f);
      for (Tensor& tensor : tensors) {
        if (tensor.has_exponents) Refine(tensor, f, costs, priors);
      }
    }
    for (Tensor& tensor : tensors) {
      if (!tensor.has_exponents) tensor.levels[0][0] = BestLevel(tensor, costs);
    }
  }

  ContextFit fit;
  for (const Tensor& tensor : tensors) fit.model.tensors.push_back(ToContext(tensor));
  std::vector<RansHistogram> histograms(class_count);
  // Codes at odd places: equal ones in a row would wait for each other.
  std::vector<RansHistogram> odd(class_count);
  std::vector<uint8_t> classes;
  uint64_t coded = 0;
  for (uint32_t t = 0; t < layout.tensors().size(); ++t) {
    const Layout::Tensor& tensor = layout.tensors()[t];
    if (tensor.policy != TensorPolicy::kQuantise) continue;
    constexpr uint64_t kPart = 1u << 16;
    for (uint64_t done = 0; done < tensor.size; done += kPart) {
      const uint64_t count = std::min(kPart, tensor.size - done);
      classes.resize(count);
      Extent extent{};
      extent.tensor = t;
      extent.first = tensor.offset + done;
      extent.count = count;
      FillClasses(fit.model, layout, extent, classes.data());
      const uint8_t* const part = codes.data() + extent.first;
      uint64_t i = 0;
      for (; i + 2 <= count; i += 2) {
        ++histograms[classes[i]][part[i]];
        ++odd[classes[i + 1]][part[i + 1]];
      }
      for (; i < count; ++i) ++histograms[classes[i]][part[i]];
    }
    coded += tensor.size;
  }
  for (size_t c = 0; c < class_count; ++c) {
    for (size_t code = 0; code < kRansSymbols; ++code) histograms[c][code] += odd[c][code];
  }
  RansTables tables;
  for (const int scale : {12, 14}) {
    if (scale != 12 && codes.size() < (1u << 15)) break;
    RansTables tried = ChooseRansTables(histograms, spec.levels, scale);
    const uint64_t bytes = tried.bytes.size() + (tried.code_cost >> 19);
    // A hundredth is not worth the slower table.
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
