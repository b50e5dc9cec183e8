#include "common/codec/rans.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <type_traits>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/base/check.h"
#include "common/base/status.h"
#include "common/codec/kernels.h"

namespace quantfl::codec {
namespace {

static_assert(std::endian::native == std::endian::little, "words are copied as they lie in memory");

constexpr int kLanesLog2Max = 5;
constexpr size_t kLanesMax = size_t{1} << kLanesLog2Max;
static_assert(kLanesMax == kernels::kRansStatesMax);
constexpr uint32_t kLow = 1u << 16;  // states are at least this between codes
constexpr int kWordBits = 16;
constexpr size_t kWordBytes = 2;
constexpr size_t kStateBytes = 4;
constexpr int kPackedScale = 12;  // up to here an entry of the decoder's table fits 32 bits
// Scales that the encoder tries: the second one follows rare codes better, but decodes slower.
constexpr int kScales[] = {12, 14};
constexpr size_t kSecondScaleCodesMin = 1u << 15;
constexpr uint64_t kStatesShare = 200;  // states may be one part in this many of the stream

void CheckArguments(size_t n, absl::Span<const uint8_t> classes, int class_count, int levels) {
  QFL_CHECK(class_count >= 1 && class_count <= kRansClassesMax);
  QFL_CHECK(levels >= 2 && levels <= static_cast<int>(kRansSymbols));
  QFL_CHECK(class_count == 1 ? classes.empty() || classes.size() == n : classes.size() == n);
  uint8_t largest = 0;
  for (const uint8_t c : classes) largest = std::max(largest, c);
  QFL_CHECK(largest < class_count);
}

// How to encode one code: x becomes (x / f) * 2^scale + x mod f + start, without a division.
struct EncodeEntry {
  uint64_t reciprocal;  // ceil(2^64 / f): x * reciprocal >> 64 is x / f for all x below 2^32
  uint32_t limit;       // a state above it gives up a word first
  uint32_t bias;
  uint32_t complement;  // 2^scale - f
};

// Rows no longer than they must be: the same place of rows that begin half a KiB or more apart
// would share few of the cache's sets.
int RowLog2(const std::vector<RansFrequencies>& tables) {
  size_t symbols = 1;
  for (const RansFrequencies& table : tables) {
    for (size_t c = symbols; c < kRansSymbols; ++c) {
      if (table[c] != 0) symbols = c + 1;
    }
  }
  return static_cast<int>(std::bit_width(symbols - 1));
}

// Of each code in a row of 2^row_log2, a row for each table.
std::vector<EncodeEntry> MakeEncodeEntries(const std::vector<RansFrequencies>& tables, int row_log2,
                                           int scale) {
  std::vector<EncodeEntry> entries(tables.size() << row_log2);
  const uint32_t all = 1u << scale;
  for (size_t t = 0; t < tables.size(); ++t) {
    uint32_t start = 0;
    for (size_t c = 0; c < size_t{1} << row_log2; ++c) {
      const uint32_t f = tables[t][c];
      if (f == 0) continue;
      EncodeEntry& entry = entries[(t << row_log2) + c];
      entry.limit = static_cast<uint32_t>((uint64_t{f} << (32 - scale)) - 1);
      entry.complement = all - f;
      // 2^64 / 1 does not fit: 2^64 - 1 gives x - 1 instead of x, which the bias makes good.
      entry.reciprocal = f == 1 ? ~uint64_t{0} : ~uint64_t{0} / f + 1;
      entry.bias = f == 1 ? start + all - 1 : start;
      start += f;
    }
  }
  return entries;
}

inline uint32_t MultiplyHigh(uint32_t x, uint64_t reciprocal) {
  return static_cast<uint32_t>((static_cast<unsigned __int128>(x) * reciprocal) >> 64);
}

// Puts a state's word in front of `to` if it is full, and the code into the state.
//   kMany  whether many words are to come: a branch would be mispredicted about as often
template <bool kMany>
inline void EncodeOne(const EncodeEntry& entry, uint32_t& x, char*& to) {
  const uint16_t word = static_cast<uint16_t>(x);
  if constexpr (kMany) {
    std::memcpy(to - kWordBytes, &word, kWordBytes);
    const uint32_t full = x > entry.limit ? 1 : 0;
    to -= full * kWordBytes;
    x >>= full * kWordBits;
  } else if (x > entry.limit) {
    to -= kWordBytes;
    std::memcpy(to, &word, kWordBytes);
    x >>= kWordBits;
  }
  x = entry.bias + x + MultiplyHigh(x, entry.reciprocal) * entry.complement;
}

// Encodes rounds of states, which stay in registers where they are few. `of(i)` is code i's entry.
template <size_t kLanes, typename EntryOf>
char* EncodeLanes(EntryOf of, size_t count, uint32_t* states, char* begin, char* to) {
  std::array<uint32_t, kLanes> x;
  std::copy_n(states, kLanes, x.begin());
  const auto round = [&]<size_t... kBack>(size_t end, std::index_sequence<kBack...>) {
    // A stream has few states where it is short.
    (EncodeOne<(kLanes > 4)>(of(end - 1 - kBack), x[kLanes - 1 - kBack], to), ...);
  };
  for (size_t i = count; i != 0; i -= kLanes) {
    if (static_cast<size_t>(to - begin) < kLanes * kWordBytes) return nullptr;
    round(i, std::make_index_sequence<kLanes>());
  }
  std::copy_n(x.begin(), kLanes, states);
  return to;
}

// Writes words from `end` downwards and gives the first of them, or null when they reach `begin`.
template <bool kOneClass>
char* EncodeWords(absl::Span<const uint8_t> codes, absl::Span<const uint8_t> classes,
                  const std::vector<RansFrequencies>& tables, int scale, size_t lanes,
                  uint32_t* states, char* begin, char* end) {
  const int row_log2 = RowLog2(tables);
  const std::vector<EncodeEntry> entries = MakeEncodeEntries(tables, row_log2, scale);
  const auto of = [&, entries = entries.data(), codes = codes.data(),
                   classes = classes.data()](size_t i) -> const EncodeEntry& {
    return entries[(kOneClass ? 0 : size_t{classes[i]} << row_log2) + codes[i]];
  };
  char* to = end;
  size_t i = codes.size();
  for (; i % lanes != 0; --i) {
    if (to < begin + kWordBytes) return nullptr;
    EncodeOne<true>(of(i - 1), states[(i - 1) % lanes], to);
  }
  switch (lanes) {
    case 1:
      return EncodeLanes<1>(of, i, states, begin, to);
    case 2:
      return EncodeLanes<2>(of, i, states, begin, to);
    case 4:
      return EncodeLanes<4>(of, i, states, begin, to);
    case 8:
      return EncodeLanes<8>(of, i, states, begin, to);
    case 16:
      return EncodeLanes<16>(of, i, states, begin, to);
    default:
      return EncodeLanes<kLanesMax>(of, i, states, begin, to);
  }
}

// The same with as many states as kernels::IsRansEncoderStates says, where the machine encodes by
// vectors.
char* EncodeWordsByVectors(absl::Span<const uint8_t> codes, absl::Span<const uint8_t> classes,
                           const std::vector<RansFrequencies>& tables, int scale, size_t lanes,
                           uint32_t* states, char* begin, char* end) {
  const int row_log2 = RowLog2(tables);
  std::vector<uint32_t> by_code(tables.size() << row_log2);  // f - 1 and start
  for (size_t t = 0; t < tables.size(); ++t) {
    uint32_t start = 0;
    for (size_t c = 0; c < size_t{1} << row_log2; ++c) {
      const uint32_t f = tables[t][c];
      if (f == 0) continue;
      by_code[(t << row_log2) + c] = (f - 1) | start << 16;
      start += f;
    }
  }
  char* to = end;
  size_t i = codes.size();
  for (; i % lanes != 0; --i) {
    const size_t row = classes.empty() ? 0 : size_t{classes[i - 1]} << row_log2;
    const uint32_t entry = by_code[row + codes[i - 1]];
    const uint32_t f = (entry & 0xffff) + 1;
    uint32_t& x = states[(i - 1) % lanes];
    if (x >> (32 - scale) >= f) {
      if (to < begin + kWordBytes) return nullptr;
      to -= kWordBytes;
      const uint16_t word = static_cast<uint16_t>(x);
      std::memcpy(to, &word, kWordBytes);
      x >>= kWordBits;
    }
    x = (x / f << scale) + x % f + (entry >> 16);
  }
  // Entries are gathered a few rounds at a time, which stay in cache.
  alignas(64) std::array<uint32_t, 32 * kLanesMax> entries;
  alignas(64) std::array<uint16_t, 32 * kLanesMax> joined;
  const uint32_t* const of_code = by_code.data();
  while (i != 0) {
    const size_t count = std::min(i, entries.size());
    i -= count;
    // Two at a time, in a word. GCC would make vectors of what is looked up, which takes twice as
    // long: it is not to know what the word is.
    const auto gather = [&](const auto* places) {
      for (size_t j = 0; j < count; j += 2) {
        uint64_t both = of_code[places[j]] | uint64_t{of_code[places[j + 1]]} << 32;
        asm("" : "+r"(both));
        std::memcpy(&entries[j], &both, sizeof(both));
      }
    };
    if (classes.empty()) {
      gather(&codes[i]);
    } else {
      kernels::JoinCodes(&classes[i], &codes[i], count, row_log2, joined.data());
      gather(joined.data());
    }
    to = kernels::EncodeRansRounds(entries.data(), count, scale, lanes, states, begin, to);
    if (to == nullptr) return nullptr;
  }
  return to;
}

// A code's entry for each value of a state's low bits. Up to kPackedScale: code, f - 1, and the
// place in the code's interval. Above: the code alone, with f and start by code.
struct PackedTable {
  std::vector<uint32_t> slots;

  PackedTable(const std::vector<RansFrequencies>& tables, int scale)
      : slots(tables.size() << scale) {
    uint32_t* slot = slots.data();
    for (const RansFrequencies& table : tables) {
      for (uint32_t c = 0; c < kRansSymbols; ++c) {
        const uint32_t f = table[c];
        for (uint32_t j = 0; j < f; ++j) *slot++ = c | (f - 1) << 8 | j << 20;
      }
    }
  }
  struct Stepper {
    const uint32_t* slots;
    int scale;
    uint8_t operator()(uint32_t& x, size_t index) const {
      const uint32_t entry = slots[(index << scale) + (x & ((1u << scale) - 1))];
      x = (((entry >> 8) & 0xfffu) + 1) * (x >> scale) + (entry >> 20);
      return static_cast<uint8_t>(entry);
    }
  };
  Stepper stepper(int scale) const { return {slots.data(), scale}; }
};

struct WideTable {
  std::vector<uint8_t> slots;
  struct Interval {
    uint16_t f;
    uint16_t start;
  };
  std::vector<Interval> intervals;

  WideTable(const std::vector<RansFrequencies>& tables, int scale)
      : slots(tables.size() << scale), intervals(tables.size() * kRansSymbols) {
    for (size_t t = 0; t < tables.size(); ++t) {
      uint32_t start = 0;
      for (size_t c = 0; c < kRansSymbols; ++c) {
        const uint32_t f = tables[t][c];
        if (f == 0) continue;
        intervals[t * kRansSymbols + c] = {static_cast<uint16_t>(f), static_cast<uint16_t>(start)};
        std::memset(&slots[(t << scale) + start], static_cast<int>(c), f);
        start += f;
      }
    }
  }
  struct Stepper {
    const uint8_t* slots;
    const Interval* intervals;
    int scale;
    uint8_t operator()(uint32_t& x, size_t index) const {
      const uint32_t slot = x & ((1u << scale) - 1);
      const uint8_t code = slots[(index << scale) + slot];
      const Interval interval = intervals[index * kRansSymbols + code];
      x = interval.f * (x >> scale) + slot - interval.start;
      return code;
    }
  };
  Stepper stepper(int scale) const { return {slots.data(), intervals.data(), scale}; }
};

// Decodes one code, where a word has been made sure of.
template <typename Stepper>
inline void DecodeOne(const Stepper& step, size_t of_class, uint8_t* code, uint32_t& x,
                      const char*& from) {
  *code = step(x, of_class);
  uint16_t word;
  std::memcpy(&word, from, kWordBytes);
  const uint32_t low = x < kLow ? 1 : 0;
  x = x << (low * kWordBits) | (word & (0u - low));
  from += low * kWordBytes;
}

// Decodes rounds of a few states, which stay in registers, while there are words for all of them.
// Gives how many codes that were.
template <bool kOneClass, size_t kLanes, typename Stepper>
size_t DecodeFewLanes(Stepper step, const uint8_t* classes, uint32_t* states, uint8_t* codes,
                      size_t count, const char*& words, const char* end) {
  static_assert(kLanes <= 8);
  std::array<uint32_t, kLanes> x;
  std::copy_n(states, kLanes, x.begin());
  const char* from = words;
  size_t i = 0;
  const auto round = [&]<size_t... kLane>(std::index_sequence<kLane...>) {
    (DecodeOne(step, kOneClass ? 0 : classes[i + kLane], codes + i + kLane, x[kLane], from), ...);
  };
  for (; i + kLanes <= count && static_cast<size_t>(end - from) >= kLanes * kWordBytes;
       i += kLanes) {
    round(std::make_index_sequence<kLanes>());
  }
  std::copy_n(x.begin(), kLanes, states);
  words = from;
  return i;
}

// Gives the bytes that were read, or nothing if there are too few.
template <bool kOneClass, typename Table>
std::optional<size_t> DecodeWords(absl::string_view words, absl::Span<const uint8_t> classes,
                                  const Table& table, int scale, size_t lanes, uint32_t* states,
                                  absl::Span<uint8_t> codes) {
  const char* from = words.data();
  const char* const end = from + words.size();
  const auto step = table.stepper(scale);
  const auto few = [&]<size_t kLanes>(std::integral_constant<size_t, kLanes>) {
    return DecodeFewLanes<kOneClass, kLanes>(step, classes.data(), states, codes.data(),
                                             codes.size(), from, end);
  };
  size_t i = 0;
  if (lanes == 1) i = few(std::integral_constant<size_t, 1>());
  if (lanes == 2) i = few(std::integral_constant<size_t, 2>());
  if (lanes == 4) i = few(std::integral_constant<size_t, 4>());
  if (lanes == 8) i = few(std::integral_constant<size_t, 8>());
  if constexpr (std::is_same_v<Table, PackedTable>) {
    if (kernels::IsRansDecoderStates(lanes)) {
      size_t words_used = 0;
      i = kernels::DecodeRansRounds(
          {table.slots.data(), scale, lanes, kOneClass ? nullptr : classes.data(), codes.size(),
           from, words.size() / kWordBytes},
          states, codes.data(), &words_used);
      from += words_used * kWordBytes;
    }
  }
  std::array<uint32_t, kLanesMax> x;
  std::copy_n(states, lanes, x.begin());
  for (; lanes > 8 && i + lanes <= codes.size() &&
         static_cast<size_t>(end - from) >= lanes * kWordBytes;
       i += lanes) {
    for (size_t lane = 0; lane < lanes; lane += 8) {
      for (size_t j = 0; j < 8; ++j) {
        const size_t at = i + lane + j;
        DecodeOne(step, kOneClass ? 0 : classes[at], &codes[at], x[lane + j], from);
      }
    }
  }
  for (; i < codes.size(); ++i) {
    uint32_t& state = x[i % lanes];
    codes[i] = step(state, kOneClass ? 0 : classes[i]);
    if (state >= kLow) continue;
    if (end - from < static_cast<ptrdiff_t>(kWordBytes)) return std::nullopt;
    uint16_t word;
    std::memcpy(&word, from, kWordBytes);
    state = state << kWordBits | word;
    from += kWordBytes;
  }
  std::copy_n(x.begin(), lanes, states);
  return static_cast<size_t>(from - words.data());
}

// The stream of codes whose tables have been chosen and written as `table_bytes`.
//   size  expected, without the states
std::optional<RansStream> EncodeStream(absl::Span<const uint8_t> codes,
                                       absl::Span<const uint8_t> classes,
                                       const std::vector<RansFrequencies>& tables,
                                       absl::string_view table_bytes, int scale, uint64_t size,
                                       size_t bytes_limit) {
  int lanes_log2 = kLanesLog2Max;
  while (lanes_log2 > 0 && (kStateBytes << lanes_log2) * kStatesShare > size) --lanes_log2;
  const size_t lanes = size_t{1} << lanes_log2;
  const size_t front = 1 + table_bytes.size() + lanes * kStateBytes;
  if (front >= bytes_limit) return std::nullopt;

  // Room for a round more than there may be: the coder writes words before it knows which count.
  std::string bytes(std::max(bytes_limit, front) + kernels::kRansRoundBytes, '\0');
  std::array<uint32_t, kLanesMax> states;
  states.fill(kLow);
  char* const begin = bytes.data() + front;
  char* const end = bytes.data() + bytes.size();
  const auto encode = [&]() -> const char* {
    if (kernels::IsRansEncoderStates(lanes) && scale >= kernels::kVectorScaleMin &&
        kernels::HasRansEncoder()) {
      return EncodeWordsByVectors(codes, tables.size() == 1 ? absl::Span<const uint8_t>() : classes,
                                  tables, scale, lanes, states.data(), begin, end);
    }
    return tables.size() == 1
               ? EncodeWords<true>(codes, classes, tables, scale, lanes, states.data(), begin, end)
               : EncodeWords<false>(codes, classes, tables, scale, lanes, states.data(), begin,
                                    end);
  };
  const char* const words = encode();
  if (words == nullptr) return std::nullopt;
  const size_t word_bytes = static_cast<size_t>(end - words);
  if (front + word_bytes >= bytes_limit) return std::nullopt;
  std::memmove(bytes.data() + front, words, word_bytes);
  bytes.resize(front + word_bytes);
  bytes[0] = static_cast<char>(lanes_log2 | scale << 4);
  bytes.replace(1, table_bytes.size(), table_bytes.data(), table_bytes.size());
  std::memcpy(bytes.data() + front - lanes * kStateBytes, states.data(), lanes * kStateBytes);
  return RansStream{std::move(bytes), table_bytes.size()};
}

absl::Status RansLoss(absl::string_view reason) {
  return absl::DataLossError(absl::StrCat("rans: ", reason));
}

absl::Status LeftOver(size_t bytes) {
  return RansLoss(absl::StrCat(bytes, " bytes are left after the last code"));
}

struct Shape {
  int lanes_log2;
  int scale;
};

absl::StatusOr<Shape> ParseShape(absl::string_view bytes) {
  if (bytes.empty()) return RansLoss("a stream of 0 bytes");
  const int first = static_cast<uint8_t>(bytes[0]);
  const Shape shape{first & 15, first >> 4};
  if (shape.lanes_log2 > kLanesLog2Max || shape.scale < kRansScaleMin ||
      shape.scale > kRansScaleMax) {
    return RansLoss(absl::StrCat("2^", shape.lanes_log2, " states and a scale of ", shape.scale,
                                 "; there are at most 2^", kLanesLog2Max, ", and scales ",
                                 kRansScaleMin, " to ", kRansScaleMax));
  }
  return shape;
}

// From the states on. Gives the bytes that were used.
absl::StatusOr<size_t> DecodeStream(absl::string_view rest, absl::Span<const uint8_t> classes,
                                    const std::vector<RansFrequencies>& tables, Shape shape,
                                    absl::Span<uint8_t> codes) {
  const int scale = shape.scale;
  const size_t lanes = size_t{1} << shape.lanes_log2;
  if (rest.size() < lanes * kStateBytes) {
    return RansLoss(
        absl::StrCat(rest.size(), " bytes after the tables are not ", lanes, " states"));
  }
  const size_t state_bytes = lanes * kStateBytes;
  std::array<uint32_t, kLanesMax> states;
  std::memcpy(states.data(), rest.data(), state_bytes);
  for (size_t lane = 0; lane < lanes; ++lane) {
    if (states[lane] < kLow) {
      return RansLoss(
          absl::StrCat("state ", lane, " is ", states[lane], "; it is at least ", kLow));
    }
  }
  rest.remove_prefix(state_bytes);
  const auto decode = [&](const auto& table) {
    return tables.size() == 1
               ? DecodeWords<true>(rest, classes, table, scale, lanes, states.data(), codes)
               : DecodeWords<false>(rest, classes, table, scale, lanes, states.data(), codes);
  };
  const std::optional<size_t> used =
      scale <= kPackedScale ? decode(PackedTable(tables, scale)) : decode(WideTable(tables, scale));
  if (!used.has_value()) {
    return RansLoss(absl::StrCat("its ", rest.size() / kWordBytes, " words end before the codes"));
  }
  for (size_t lane = 0; lane < lanes; ++lane) {
    if (states[lane] != kLow) {
      return RansLoss(
          absl::StrCat("state ", lane, " ends at ", states[lane], " instead of ", kLow));
    }
  }
  return state_bytes + *used;
}

}  // namespace

std::optional<RansStream> RansEncode(absl::Span<const uint8_t> codes,
                                     absl::Span<const uint8_t> classes, int class_count, int levels,
                                     size_t bytes_limit) {
  CheckArguments(codes.size(), classes, class_count, levels);
  std::vector<RansHistogram> histograms(static_cast<size_t>(class_count));
  if (class_count == 1) {
    CodeCounter counter;
    counter.Add(codes.data(), codes.size());
    histograms[0] = counter.sum();
  } else {
    for (size_t i = 0; i < codes.size(); ++i) ++histograms[classes[i]][codes[i]];
  }
  for (const RansHistogram& histogram : histograms) {
    for (size_t c = static_cast<size_t>(levels); c < kRansSymbols; ++c) {
      QFL_CHECK(histogram[c] == 0);
    }
  }

  RansTables tables;
  int scale = 0;
  uint64_t size = 0;  // expected, without the states
  for (const int candidate : kScales) {
    if (scale != 0 && codes.size() < kSecondScaleCodesMin) break;
    RansTables tried = ChooseRansTables(histograms, levels, candidate);
    const uint64_t bytes = 1 + tried.bytes.size() + (tried.code_cost >> 19);
    // A hundredth is not worth the slower table.
    if (scale != 0 && bytes + bytes / 100 >= size) continue;
    tables = std::move(tried);
    scale = candidate;
    size = bytes;
  }
  return EncodeStream(codes, classes, tables.classes, tables.bytes, scale, size, bytes_limit);
}

std::optional<RansStream> RansEncodeWith(absl::Span<const uint8_t> codes,
                                         absl::Span<const uint8_t> classes,
                                         const std::vector<RansFrequencies>& tables, int scale,
                                         uint64_t expected_bytes, size_t bytes_limit) {
  CheckArguments(codes.size(), classes, static_cast<int>(tables.size()), kRansSymbols);
  return EncodeStream(codes, classes, tables, "", scale, expected_bytes, bytes_limit);
}

absl::StatusOr<size_t> RansDecode(absl::string_view bytes, absl::Span<const uint8_t> classes,
                                  int class_count, int levels, absl::Span<uint8_t> codes) {
  QFL_ASSIGN_OR_RETURN(const RansPrefix prefix,
                       RansDecodePrefix(bytes, classes, class_count, levels, codes));
  if (prefix.bytes != bytes.size()) return LeftOver(bytes.size() - prefix.bytes);
  return prefix.table_bytes;
}

absl::StatusOr<RansPrefix> RansDecodePrefix(absl::string_view bytes,
                                            absl::Span<const uint8_t> classes, int class_count,
                                            int levels, absl::Span<uint8_t> codes) {
  CheckArguments(codes.size(), classes, class_count, levels);
  QFL_ASSIGN_OR_RETURN(const Shape shape, ParseShape(bytes));
  std::vector<RansFrequencies> tables;
  QFL_ASSIGN_OR_RETURN(const size_t table_bytes,
                       ParseRansTables(bytes.substr(1), class_count, levels, shape.scale, tables));
  QFL_ASSIGN_OR_RETURN(const size_t used,
                       DecodeStream(bytes.substr(1 + table_bytes), classes, tables, shape, codes));
  return RansPrefix{1 + table_bytes + used, table_bytes};
}

absl::Status RansDecodeWith(absl::string_view bytes, absl::Span<const uint8_t> classes,
                            const std::vector<RansFrequencies>& tables, int scale,
                            absl::Span<uint8_t> codes) {
  CheckArguments(codes.size(), classes, static_cast<int>(tables.size()), kRansSymbols);
  QFL_ASSIGN_OR_RETURN(const Shape shape, ParseShape(bytes));
  if (shape.scale != scale) {
    return RansLoss(absl::StrCat("a scale of ", shape.scale, "; the header's tables have ", scale));
  }
  QFL_ASSIGN_OR_RETURN(const size_t used,
                       DecodeStream(bytes.substr(1), classes, tables, shape, codes));
  return used + 1 == bytes.size() ? absl::OkStatus() : LeftOver(bytes.size() - 1 - used);
}

}  // namespace quantfl::codec
