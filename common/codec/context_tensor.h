#ifndef QUANTFL_COMMON_CODEC_CONTEXT_TENSOR_H_
#define QUANTFL_COMMON_CODEC_CONTEXT_TENSOR_H_

// What the choice of contexts knows of a tensor: how far its codes deviate, and the levels of its
// rows, columns and positions, octaves of variance, from which exponents and classes come.

#include <algorithm>
#include <array>
#include <cstdint>
#include <vector>

#include "common/codec/context.h"
#include "common/codec/context_numbers.h"
#include "common/codec/kernels.h"

namespace quantfl::codec::context_fit {

// A code's deviation is its distance from the tensor's commonest code, limited.
inline constexpr int kDeviations = kernels::kDeviationMax + 1;

// A tensor whose codes get contexts, and what is known of them.
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

uint8_t Commonest(const Histogram& histogram);

// Of a tensor's codes: of all, or of runs that lie evenly in it, each counted as often as it stands
// for others, so that the sum is about its size.
Histogram Count(const uint8_t* codes, uint64_t size);

void SetDeviations(const Histogram& histogram, Tensor& tensor);

// Levels from the squares of all rows, columns and positions.
void FirstLevels(Tensor& tensor);

// The levels of a place in a row, from those of its column and position.
void SetInner(Tensor& tensor);

// The middle of a tensor's levels: exponents are around it.
int Centre(const std::vector<int>& levels);

// What travels for a level, counted from the centre.
int8_t Exponent(int level);
ContextTensor ToContext(const Tensor& tensor);

}  // namespace quantfl::codec::context_fit

#endif  // QUANTFL_COMMON_CODEC_CONTEXT_TENSOR_H_
