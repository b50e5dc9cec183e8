#include "common/codec/context_tensor.h"

#include <algorithm>
#include <cstdlib>
#include <utility>

#include "common/codec/rans_table.h"

namespace quantfl::codec::context_fit {
namespace {

// How common the codes of a tensor are is told from at least so many.
constexpr uint64_t kCountedEnough = 1u << 16;

}  // namespace

uint8_t Commonest(const Histogram& histogram) {
  return static_cast<uint8_t>(std::max_element(histogram.begin(), histogram.end()) -
                              histogram.begin());
}

Histogram Count(const uint8_t* codes, uint64_t size) {
  constexpr uint64_t kRun = 64;
  const int halvings = HalvingsTo(kCountedEnough, size);
  const uint64_t stride = kRun << halvings;
  CodeCounter counter;
  for (uint64_t from = 0; from < size; from += stride) {
    counter.Add(codes + from, std::min(kRun, size - from));
  }
  const RansHistogram counts = counter.sum();
  Histogram histogram;
  for (size_t c = 0; c < counts.size(); ++c) histogram[c] = uint64_t{counts[c]} << halvings;
  return histogram;
}

void SetDeviations(const Histogram& histogram, Tensor& tensor) {
  for (size_t c = 0; c < histogram.size(); ++c) {
    const int d = std::min(std::abs(static_cast<int>(c) - int{tensor.zero}), kDeviations - 1);
    tensor.deviations[static_cast<size_t>(d)] += histogram[c];
    tensor.squares += static_cast<uint64_t>(d * d) * histogram[c];
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

int Centre(const std::vector<int>& levels) {
  int64_t sum = 0;
  for (const int level : levels) sum += level;
  const int64_t size = static_cast<int64_t>(levels.size());
  return static_cast<int>((2 * sum + size + 256 * size) / (2 * size) - 128);
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

}  // namespace quantfl::codec::context_fit
