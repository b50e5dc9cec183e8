#ifndef QUANTFL_COMMON_CODEC_RANS_TABLE_H_
#define QUANTFL_COMMON_CODEC_RANS_TABLE_H_

// Frequency tables of the entropy coder, one for each class of codes: chosen from histograms,
// written, read. Integers alone, some of whose quotients fp64 finds exactly, so that every machine
// makes the same tables. The bytes are specified in proto/README.md, "Tables".

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"

namespace quantfl::codec {

inline constexpr size_t kRansSymbols = 256;
inline constexpr int kRansClassesMax = 64;
// Frequencies of a table sum to 2^scale.
inline constexpr int kRansScaleMin = 10;
inline constexpr int kRansScaleMax = 14;

using RansHistogram = std::array<uint32_t, kRansSymbols>;  // codes of each value

// Counts codes, fewer than 2^32 of them.
class CodeCounter {
 public:
  void Add(const uint8_t* codes, size_t count);
  RansHistogram sum() const;

 private:
  // Equal codes in a row would wait for each other.
  std::array<RansHistogram, 8> parts_{};
};
using RansFrequencies = std::array<uint16_t, kRansSymbols>;  // sum 2^scale

struct RansTables {
  std::vector<RansFrequencies> classes;
  std::string bytes;       // as they are written
  uint64_t code_cost = 0;  // of the histograms' codes with these tables, in 2^-16 bits
};

// For each class the table that costs least together with its codes: explicit, one of two
// parametric families, or that of an earlier class. Every code that occurs has a frequency of 1 or
// more.
//   histograms  1 to kRansClassesMax; codes at or above `levels` do not occur
//   levels      2..256
//   scale       kRansScaleMin..kRansScaleMax
RansTables ChooseRansTables(absl::Span<const RansHistogram> histograms, int levels, int scale);

// Reads `class_count` tables from the beginning of `bytes` and gives their length. Checked: tags,
// symbols below `levels`, parameters, and that frequencies sum to 2^scale. DATA_LOSS with the
// reason.
absl::StatusOr<size_t> ParseRansTables(absl::string_view bytes, int class_count, int levels,
                                       int scale, std::vector<RansFrequencies>& tables);

}  // namespace quantfl::codec

#endif  // QUANTFL_COMMON_CODEC_RANS_TABLE_H_
