#ifndef QUANTFL_COMMON_CODEC_CONTEXT_H_
#define QUANTFL_COMMON_CODEC_CONTEXT_H_

// Contexts of the entropy stage: which table a code is coded with. The spread of a delta differs
// by row and column of a tensor; so each row, column and position of a kernel has a small exponent
// in the header, and the class of a code is their sum, limited: integers that travel, nothing that
// two machines would have to compute alike. The bytes are specified in proto/README.md, "Contexts".

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "common/codec/chunk_extents.h"
#include "common/codec/rans_table.h"
#include "common/codec/spec.h"

namespace quantfl::codec {

// Exponents are -kExponentBias .. kExponentBias - 1.
inline constexpr int kExponentBias = 16;
inline constexpr int kExponentLevels = 2 * kExponentBias;
inline constexpr int kClassBaseLevels = 64;  // of ContextTensor::base

// Rows (dimension 0), columns (dimension 1) and positions (the others together) of a tensor.
inline constexpr size_t kFactors = 3;
using FactorSizes = std::array<uint64_t, kFactors>;
// Of a tensor of at least two dimensions whose rows, columns and positions together are at most a
// quarter of its parameters; all ones for another one, which has no exponents.
FactorSizes FactorsOf(const Layout::Tensor& tensor);
inline bool MayHaveExponents(const FactorSizes& sizes) {
  return sizes[0] * sizes[1] * sizes[2] > 1;
}

struct ContextTensor {
  // Classes first .. last: first + min(max(base + the sum of its exponents, 0), last - first).
  uint8_t first = 0;
  uint8_t last = 0;
  uint8_t base = 0;  // below kClassBaseLevels
  // By row, column, position. Each is empty where the tensor has no exponents, or one of them.
  std::array<std::vector<int8_t>, kFactors> exponents;
};

struct ContextModel {
  int scale = 0;                        // tables sum to 2^scale
  std::vector<RansFrequencies> tables;  // one for each class
  std::vector<ContextTensor> tensors;   // the quantised ones, in order
  uint64_t table_bytes = 0;             // of the section, those that are tables
  uint64_t cost_per_code = 0;           // on average, in 2^-16 bits; an encoder's alone
};

// The section of the header that holds `model`.
//   table_bytes  the tables as RansTables writes them
std::string ContextSection(const ContextModel& model, absl::string_view table_bytes,
                           const Layout& layout);
// All of `bytes` must be used. DATA_LOSS with the reason. Allocates at most 3 bytes for each row,
// column and position of tensors that may have exponents, 1.1 MiB, and 128 bytes a tensor.
absl::StatusOr<ContextModel> ParseContextSection(absl::string_view bytes, const Layout& layout,
                                                 int levels);
// What a section of this layout has at most.
uint64_t ContextSectionBytesMax(const Layout& layout);

// The classes of an extent's codes, in order: classes[extent.count].
void FillClasses(const ContextModel& model, const Layout& layout, const Extent& extent,
                 uint8_t* classes);

}  // namespace quantfl::codec

#endif  // QUANTFL_COMMON_CODEC_CONTEXT_H_
