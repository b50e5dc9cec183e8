#include "common/codec/rans_table.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <optional>

#include "absl/strings/str_cat.h"
#include "common/base/check.h"
#include "common/base/status.h"

namespace quantfl::codec {
namespace {

// What a table begins with.
enum Tag : uint8_t {
  kZeroOnly = 0,  // every code is 0
  // The mode is a code, or half way to the next one.
  kLaplace = 2,
  kLaplaceHalf = 3,
  kGauss = 4,
  kGaussHalf = 5,
  kExplicit = 16,  // 16 + shift: frequencies are written in units of 2^shift
  kSameAs = 64     // 64 + class
};

constexpr int kCostBits = 16;  // costs are in 2^-16 bits
constexpr int kRates = 104;    // of the parametric families
constexpr uint32_t kOne = 1u << 16;
// Of more codes an explicit table is a small part, and follows them better than a family.
constexpr uint64_t kParametricCodesMax = 8192;
// Shifts that the encoder tries: coarser frequencies take fewer bytes.
constexpr int kShifts[] = {0, 2, 4};
constexpr int kShiftMax = 4;
// From here on the first one costs less than its bytes gain.
constexpr uint64_t kCoarseCodesMax = 1u << 17;
constexpr uint64_t kImpossible = ~uint64_t{0} >> 1;

// log2(1 + i / 256) in 2^-16, by repeated squaring.
constexpr std::array<uint32_t, 257> MakeLog2() {
  std::array<uint32_t, 257> table{};
  for (uint32_t i = 0; i < 256; ++i) {
    uint64_t x = (256ull + i) << 23;  // 1 to 2, in 2^-31
    uint32_t log2 = 0;
    for (int bit = kCostBits - 1; bit >= 0; --bit) {
      x = (x * x) >> 31;
      if (x >> 32 != 0) {
        x >>= 1;
        log2 |= 1u << bit;
      }
    }
    table[i] = log2;
  }
  table[256] = 1u << kCostBits;
  return table;
}
constexpr std::array<uint32_t, 257> kLog2 = MakeLog2();

// log2(f) in 2^-16, for 1 <= f <= 2^14.
uint32_t Log2(uint32_t f) {
  const int whole = std::bit_width(f) - 1;
  const uint32_t mantissa = (f << (14 - whole)) - (1u << 14);
  const uint32_t at = mantissa >> 6;
  return (static_cast<uint32_t>(whole) << kCostBits) + kLog2[at] +
         (((kLog2[at + 1] - kLog2[at]) * (mantissa & 63u)) >> 6);
}

uint64_t CodeCost(const RansHistogram& histogram, const RansFrequencies& frequencies, int levels,
                  int scale) {
  uint64_t cost = 0;
  for (int c = 0; c < levels; ++c) {
    if (histogram[c] == 0) continue;
    if (frequencies[c] == 0) return kImpossible;
    cost += uint64_t{histogram[c]} *
            ((static_cast<uint32_t>(scale) << kCostBits) - Log2(frequencies[c]));
  }
  return cost;
}

uint64_t Cost(uint64_t code_cost, size_t table_bytes) {
  return code_cost + (uint64_t{8} * table_bytes << kCostBits);
}

// Rounded shares of 2^scale, at least 1 where a code occurs, then one by one changed where it costs
// least until they sum to it.
RansFrequencies Normalise(const RansHistogram& histogram, uint64_t total, int levels, int scale) {
  RansFrequencies f{};
  const uint64_t all = uint64_t{1} << scale;
  int64_t excess = -static_cast<int64_t>(all);
  for (int c = 0; c < levels; ++c) {
    if (histogram[c] == 0) continue;
    const uint64_t share = (histogram[c] * all + total / 2) / total;
    f[c] = static_cast<uint16_t>(std::max<uint64_t>(1, share));
    excess += f[c];
  }
  for (; excess > 0; --excess) {
    // Taking one from f costs about count / (f - 1/2).
    int best = -1;
    for (int c = 0; c < levels; ++c) {
      if (f[c] < 2) continue;
      if (best < 0 || uint64_t{histogram[c]} * (2u * f[best] - 1u) <
                          uint64_t{histogram[best]} * (2u * f[c] - 1u)) {
        best = c;
      }
    }
    --f[best];
  }
  for (; excess < 0; ++excess) {
    int best = -1;
    for (int c = 0; c < levels; ++c) {
      if (f[c] == 0) continue;
      if (best < 0 || uint64_t{histogram[c]} * (2u * f[best] + 1u) >
                          uint64_t{histogram[best]} * (2u * f[c] + 1u)) {
        best = c;
      }
    }
    ++f[best];
  }
  return f;
}

void AppendByte(std::string& bytes, uint32_t value) { bytes.push_back(static_cast<char>(value)); }

// `f` sums to 2^(scale - shift). The last frequency is what is missing to that.
std::string ExplicitBytes(const RansFrequencies& f, int levels, int shift) {
  int first = 0;
  while (f[first] == 0) ++first;
  int last = levels - 1;
  while (f[last] == 0) --last;
  std::string bytes;
  if (last == 0) {
    AppendByte(bytes, kZeroOnly);
    return bytes;
  }
  AppendByte(bytes, static_cast<uint32_t>(kExplicit + shift));
  AppendByte(bytes, static_cast<uint32_t>(first));
  AppendByte(bytes, static_cast<uint32_t>(last));
  for (int c = first; c < last; ++c) {
    if (f[c] == 0) {
      int more = 0;  // last has a frequency: there is an end
      while (f[c + 1 + more] == 0) ++more;
      AppendByte(bytes, 0);
      AppendByte(bytes, static_cast<uint32_t>(more));
      c += more;
    } else if (f[c] < 128) {
      AppendByte(bytes, f[c]);
    } else {
      AppendByte(bytes, 128u | (f[c] & 127u));
      AppendByte(bytes, f[c] >> 7);
    }
  }
  return bytes;
}

struct Parameters {
  Tag family = kLaplace;
  int mode = 0;  // code; of the half families the lower of the two
  int rate = 0;
};

bool IsHalf(Tag family) { return family == kLaplaceHalf || family == kGaussHalf; }
bool IsGauss(Tag family) { return family == kGauss || family == kGaussHalf; }

uint32_t SquareRoot(uint32_t value) {
  uint32_t root = 0;
  for (int bit = 15; bit >= 0; --bit) {
    const uint32_t next = root | (1u << bit);
    if (uint64_t{next} * next <= value) root = next;
  }
  return root;
}

RansFrequencies Parametric(Parameters p, int levels, int scale) {
  // One step outwards multiplies the weight by `ratio` (in 2^-16); for Gauss, that by `decay`.
  const uint32_t decay = kOne - ((8u + (p.rate & 7)) << (p.rate >> 3));
  uint32_t ratio = decay;
  // exp(-a d^2) with exp(-2a) = decay: from the mode to its neighbour exp(-a).
  if (p.family == kGauss) ratio = SquareRoot(decay << 16);
  const int high = p.mode + (IsHalf(p.family) ? 1 : 0);
  const int distances = std::max(p.mode, levels - 1 - high) + 1;
  std::array<uint32_t, kRansSymbols> by_distance;
  uint64_t sum = 0;
  uint32_t weight = 1u << 24;
  for (int d = 0; d < distances; ++d) {
    by_distance[d] = weight;
    if (d <= p.mode) sum += weight;
    if (high + d < levels && (d > 0 || high != p.mode)) sum += weight;
    weight = static_cast<uint32_t>((uint64_t{weight} * ratio) >> 16);
    if (IsGauss(p.family)) ratio = static_cast<uint32_t>((uint64_t{ratio} * decay) >> 16);
  }
  // Whole quotients by fp64, which divides several at a time: a weight times `shared` is below 2^38
  // and the sum below 2^33, so that a quotient that is not whole is at least 2^-47 of itself from
  // one.
  const int shared = (1 << scale) - levels;
  std::array<uint16_t, kRansSymbols> shares;
  for (int d = 0; d < distances; ++d) {
    const double product = static_cast<double>(static_cast<int32_t>(by_distance[d])) * shared;
    shares[d] = static_cast<uint16_t>(static_cast<int32_t>(product / static_cast<double>(sum)));
  }
  RansFrequencies f{};
  int left = shared;
  for (int c = 0; c < levels; ++c) {
    const uint16_t share = shares[c <= p.mode ? p.mode - c : c - high];
    f[c] = static_cast<uint16_t>(1 + share);
    left -= share;
  }
  f[p.mode] = static_cast<uint16_t>(f[p.mode] + left);
  return f;
}

struct Candidate {
  RansFrequencies frequencies;
  std::string bytes;
  uint64_t code_cost;
  uint64_t cost() const { return Cost(code_cost, bytes.size()); }
};

Candidate BestExplicit(const RansHistogram& histogram, uint64_t total, int levels, int scale) {
  uint64_t present = 0;
  for (int c = 0; c < levels; ++c) present += histogram[c] != 0 ? 1u : 0u;
  std::optional<Candidate> best;
  for (const int shift : kShifts) {
    if (shift != 0 && (total > kCoarseCodesMax || 2 * present > uint64_t{1} << (scale - shift))) {
      break;
    }
    Candidate tried;
    tried.frequencies = Normalise(histogram, total, levels, scale - shift);
    tried.bytes = ExplicitBytes(tried.frequencies, levels, shift);
    for (uint16_t& f : tried.frequencies) f = static_cast<uint16_t>(f << shift);
    tried.code_cost = CodeCost(histogram, tried.frequencies, levels, scale);
    if (!best.has_value() || tried.cost() < best->cost()) best = std::move(tried);
  }
  return *std::move(best);
}

Candidate BestParametric(const RansHistogram& histogram, uint64_t total, int levels, int scale) {
  uint64_t moment = 0;
  for (int c = 0; c < levels; ++c) moment += static_cast<uint64_t>(c) * histogram[c];
  // Modes in half codes: about the mean, and the code that occurs most.
  const int middle = static_cast<int>(2 * moment / total);
  const int most =
      static_cast<int>(std::max_element(histogram.begin(), histogram.end()) - histogram.begin());
  std::optional<Candidate> best;
  const bool most_is_near = 2 * most >= middle - 1 && 2 * most <= middle + 2;
  for (const int at : {middle - 1, middle, middle + 1, middle + 2, most_is_near ? -1 : 2 * most}) {
    if (at < 0) continue;
    for (const bool gauss : {false, true}) {
      Parameters p;
      p.mode = at / 2;
      p.family = at % 2 == 0 ? (gauss ? kGauss : kLaplace) : (gauss ? kGaussHalf : kLaplaceHalf);
      if (p.mode + at % 2 >= levels) continue;
      // The cost has one minimum over the rate, but for rounding: halve the step towards it.
      int best_rate = 0;
      uint64_t best_cost = kImpossible;
      const auto consider = [&](int rate) {
        p.rate = rate;
        const RansFrequencies f = Parametric(p, levels, scale);
        const uint64_t code_cost = CodeCost(histogram, f, levels, scale);
        if (code_cost < best_cost) {
          best_cost = code_cost;
          best_rate = rate;
        }
        if (!best.has_value() || code_cost < best->code_cost) {
          std::string bytes;
          AppendByte(bytes, p.family);
          AppendByte(bytes, static_cast<uint32_t>(p.mode));
          AppendByte(bytes, static_cast<uint32_t>(p.rate));
          best = Candidate{f, std::move(bytes), code_cost};
        }
      };
      consider(kRates / 2);
      for (int step = kRates / 4; step > 0; step /= 2) {
        const int around = best_rate;
        if (around >= step) consider(around - step);
        if (around + step < kRates) consider(around + step);
      }
    }
  }
  QFL_CHECK(best.has_value());  // the mean lies within the codes
  return *std::move(best);
}

absl::Status TableLoss(int index, absl::string_view reason) {
  return absl::DataLossError(absl::StrCat("entropy table of class ", index, ": ", reason));
}

class Reader {
 public:
  explicit Reader(absl::string_view bytes) : bytes_(bytes) {}
  bool Next(uint32_t& value) {
    if (at_ == bytes_.size()) return false;
    value = static_cast<uint8_t>(bytes_[at_++]);
    return true;
  }
  size_t at() const { return at_; }

 private:
  absl::string_view bytes_;
  size_t at_ = 0;
};

absl::Status ParseExplicit(Reader& reader, int shift, int index, int levels, int scale,
                           RansFrequencies& f) {
  uint32_t first = 0;
  uint32_t last = 0;
  if (!reader.Next(first) || !reader.Next(last)) return TableLoss(index, "it is cut off");
  if (first > last || last >= static_cast<uint32_t>(levels) || last == 0) {
    return TableLoss(index, absl::StrCat("codes ", first, " to ", last, " of ", levels, " levels"));
  }
  const uint32_t all = 1u << (scale - shift);
  uint32_t sum = 0;
  for (uint32_t c = first; c < last; ++c) {
    uint32_t value = 0;
    if (!reader.Next(value)) return TableLoss(index, "it is cut off");
    if (value == 0 || value >= 128) {
      uint32_t next = 0;
      if (!reader.Next(next)) return TableLoss(index, "it is cut off");
      if (value == 0) {
        if (next >= last - c) {
          return TableLoss(index,
                           absl::StrCat("after code ", c, " ", next,
                                        " more without a frequency; the last code is ", last));
        }
        c += next;
        continue;
      }
      value = (value & 127u) | (next << 7);
    }
    sum += value;
    // The last one is what is missing, and not zero.
    if (sum >= all) {
      return TableLoss(index, absl::StrCat("frequencies up to code ", c, " sum to ", sum,
                                           "; all together sum to ", all));
    }
    f[c] = static_cast<uint16_t>(value << shift);
  }
  f[last] = static_cast<uint16_t>((all - sum) << shift);
  return absl::OkStatus();
}

absl::Status ParseParametric(Reader& reader, Tag family, int index, int levels, int scale,
                             RansFrequencies& f) {
  uint32_t mode = 0;
  uint32_t rate = 0;
  if (!reader.Next(mode) || !reader.Next(rate)) return TableLoss(index, "it is cut off");
  const uint32_t high = mode + (IsHalf(family) ? 1u : 0u);
  if (high >= static_cast<uint32_t>(levels)) {
    return TableLoss(index, absl::StrCat("mode ", mode, " of ", levels, " levels"));
  }
  if (rate >= kRates) {
    return TableLoss(index, absl::StrCat("rate ", rate, "; it is below ", kRates));
  }
  f = Parametric({family, static_cast<int>(mode), static_cast<int>(rate)}, levels, scale);
  return absl::OkStatus();
}

}  // namespace

void CodeCounter::Add(const uint8_t* codes, size_t count) {
  size_t i = 0;
  for (; i + 8 <= count; i += 8) {
    uint64_t word;
    std::memcpy(&word, codes + i, sizeof(word));
    for (size_t j = 0; j < 8; ++j) ++parts_[j][static_cast<uint8_t>(word >> (8 * j))];
  }
  for (; i < count; ++i) ++parts_[0][codes[i]];
}

RansHistogram CodeCounter::sum() const {
  RansHistogram sum{};
  for (const RansHistogram& part : parts_) {
    for (size_t c = 0; c < kRansSymbols; ++c) sum[c] += part[c];
  }
  return sum;
}

RansTables ChooseRansTables(absl::Span<const RansHistogram> histograms, int levels, int scale) {
  QFL_CHECK(!histograms.empty() && histograms.size() <= kRansClassesMax);
  QFL_CHECK(levels >= 2 && levels <= static_cast<int>(kRansSymbols));
  QFL_CHECK(scale >= kRansScaleMin && scale <= kRansScaleMax);
  RansTables tables;
  tables.classes.reserve(histograms.size());
  for (const RansHistogram& histogram : histograms) {
    uint64_t total = 0;
    for (int c = 0; c < levels; ++c) total += histogram[c];
    Candidate best;
    if (total == 0) {
      best = {{}, std::string(1, static_cast<char>(kZeroOnly)), 0};
      best.frequencies[0] = static_cast<uint16_t>(1u << scale);
    } else {
      best = BestExplicit(histogram, total, levels, scale);
    }
    if (best.bytes.size() > 1 && total <= kParametricCodesMax) {
      Candidate parametric = BestParametric(histogram, total, levels, scale);
      if (parametric.cost() < best.cost()) best = std::move(parametric);
      for (size_t other = 0; other < tables.classes.size(); ++other) {
        const uint64_t code_cost = CodeCost(histogram, tables.classes[other], levels, scale);
        if (Cost(code_cost, 1) >= best.cost()) continue;
        best = {tables.classes[other], std::string(1, static_cast<char>(kSameAs + other)),
                code_cost};
      }
    }
    tables.bytes += best.bytes;
    tables.code_cost += best.code_cost;
    tables.classes.push_back(best.frequencies);
  }
  return tables;
}

absl::StatusOr<size_t> ParseRansTables(absl::string_view bytes, int class_count, int levels,
                                       int scale, std::vector<RansFrequencies>& tables) {
  QFL_CHECK(class_count >= 1 && class_count <= kRansClassesMax);
  QFL_CHECK(levels >= 2 && levels <= static_cast<int>(kRansSymbols));
  QFL_CHECK(scale >= kRansScaleMin && scale <= kRansScaleMax);
  tables.clear();
  tables.reserve(static_cast<size_t>(class_count));
  Reader reader(bytes);
  for (int index = 0; index < class_count; ++index) {
    uint32_t tag = 0;
    if (!reader.Next(tag)) return TableLoss(index, "it is cut off");
    RansFrequencies f{};
    if (tag == kZeroOnly) {
      f[0] = static_cast<uint16_t>(1u << scale);
    } else if (tag >= kExplicit && tag <= kExplicit + uint32_t{kShiftMax}) {
      QFL_RETURN_IF_ERROR(
          ParseExplicit(reader, static_cast<int>(tag - kExplicit), index, levels, scale, f));
    } else if (tag >= kLaplace && tag <= kGaussHalf) {
      QFL_RETURN_IF_ERROR(ParseParametric(reader, static_cast<Tag>(tag), index, levels, scale, f));
    } else if (tag >= kSameAs && tag < kSameAs + static_cast<uint32_t>(index)) {
      f = tables[tag - kSameAs];
    } else {
      return TableLoss(index, absl::StrCat("tag ", tag, " is unknown or names a later class"));
    }
    tables.push_back(f);
  }
  return reader.at();
}

}  // namespace quantfl::codec
