// The plain code that defines the bits of kernels.h. No speed is asked of it.

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdlib>
#include <cstring>

#include "common/codec/half.h"
#include "common/codec/kernels.h"

namespace quantfl::codec::kernels::reference {
namespace {

constexpr uint32_t kExponentMask = 0x7f800000u;  // all ones: an infinity or NaN

float Decoded(Buckets buckets, uint8_t code) {
  return buckets.lo + (static_cast<float>(code) + 0.5f) * buckets.step;
}
float Decoded(Multiples multiples, uint8_t code) {
  return static_cast<float>(int{code} - static_cast<int>(multiples.zero)) * multiples.unit;
}

// Sums of squares in units of a step.
void AddInSteps(const float* sums, float step, double* to) {
  const double square = static_cast<double>(step) * static_cast<double>(step);
  for (size_t lane = 0; lane < kSumLanes; ++lane) {
    to[lane] += static_cast<double>(sums[lane]) * square;
  }
}

}  // namespace

Survey FindExtremes(const float* values, size_t count) {
  Survey survey{values[0], values[0], true};
  for (size_t i = 1; i < count; ++i) {
    survey.lo = values[i] < survey.lo ? values[i] : survey.lo;
    survey.hi = values[i] > survey.hi ? values[i] : survey.hi;
  }
  // Adding +0 turns -0 into +0: which of the two is the least must not depend on the order.
  survey.lo += 0.0f;
  survey.hi += 0.0f;
  return survey;
}

Survey SurveyValues(const float* values, size_t count, double* squares) {
  Survey survey = reference::FindExtremes(values, count);
  for (size_t i = 0; i < count; ++i) {
    survey.is_finite =
        survey.is_finite && (std::bit_cast<uint32_t>(values[i]) & kExponentMask) != kExponentMask;
    const double x = static_cast<double>(values[i]);
    squares[i % kSumLanes] += x * x;
  }
  return survey;
}

Survey SurveyBlocks(const float* values, size_t count, size_t block_size, Extremes* extremes) {
  for (size_t at = 0; at < count; at += block_size) {
    const Survey block = reference::FindExtremes(values + at, std::min(block_size, count - at));
    *extremes++ = {block.lo, block.hi};
  }
  double unused[kSumLanes] = {};
  return reference::SurveyValues(values, count, unused);
}

void FitBlocks(const Extremes* extremes, size_t count, float scale, uint32_t levels,
               uint16_t* halves, float* lo, float* step) {
  // A power of two: multiplying by its inverse divides.
  const double inverse = 1 / static_cast<double>(scale);
  for (size_t i = 0; i < count; ++i) {
    const uint16_t lo_half =
        ToHalf(static_cast<double>(extremes[i].lo) * inverse, HalfRounding::kDown);
    const double width =
        static_cast<double>(extremes[i].hi) * inverse - static_cast<double>(FromHalf(lo_half));
    const uint16_t step_half = ToHalf(width / levels, HalfRounding::kUp);
    halves[2 * i] = lo_half;
    halves[2 * i + 1] = step_half;
    lo[i] = FromHalf(lo_half) * scale;
    step[i] = FromHalf(step_half) * scale;
  }
}

void QuantiseNearest(const float* values, size_t count, Buckets buckets, uint8_t* codes) {
  const int last = static_cast<int>(buckets.levels) - 1;
  for (size_t i = 0; i < count; ++i) {
    // Not negative: the conversion is floor.
    const int code = static_cast<int>((values[i] - buckets.lo) / buckets.step);
    codes[i] = static_cast<uint8_t>(std::min(code, last));
  }
}

void AddErrors(const float* values, const uint8_t* codes, size_t count, Buckets buckets,
               double* errors) {
  for (size_t i = 0; i < count; ++i) {
    const double error = static_cast<double>(Decoded(buckets, codes[i]) - values[i]);
    errors[i % kSumLanes] += error * error;
  }
}

void AddErrors(const float* values, const uint8_t* codes, size_t count, Multiples multiples,
               double* errors) {
  for (size_t i = 0; i < count; ++i) {
    const double error = static_cast<double>(Decoded(multiples, codes[i]) - values[i]);
    errors[i % kSumLanes] += error * error;
  }
}

void QuantiseNearestWithErrors(const float* values, size_t count, Buckets buckets, uint8_t* codes,
                               double* errors) {
  reference::QuantiseNearest(values, count, buckets, codes);
  if (!HasPlainSteps(buckets)) {
    reference::AddErrors(values, codes, count, buckets, errors);
    return;
  }
  const float inverse = 1.0f / buckets.step;
  const float shift = buckets.lo * inverse + 0.5f;
  const float end = static_cast<float>(buckets.levels) - 0.5f;
  float sums[kSumLanes] = {};
  for (size_t i = 0; i < count; ++i) {
    const float position = values[i] * inverse - shift;
    const float error = (position < end ? position : end) - static_cast<float>(codes[i]);
    sums[i % kSumLanes] += error * error;
  }
  AddInSteps(sums, buckets.step, errors);
}

void QuantiseBlocks(const float* values, size_t count, size_t block_size, const Buckets* buckets,
                    uint8_t* codes, double* errors, double* squares) {
  for (size_t at = 0; at < count; at += block_size, ++buckets) {
    const float* const block = values + at;
    const size_t size = std::min(block_size, count - at);
    if (buckets->step > 0) {
      reference::QuantiseNearestWithErrors(block, size, *buckets, codes + at, errors);
    } else {
      std::memset(codes + at, 0, size);
      reference::AddErrors(block, codes + at, size, *buckets, errors);
    }
    if (!HasPlainSteps(*buckets)) {
      (void)reference::SurveyValues(block, size, squares);
      continue;
    }
    const float inverse = 1.0f / buckets->step;
    float sums[kSumLanes] = {};
    for (size_t i = 0; i < size; ++i) {
      const float in_steps = block[i] * inverse;
      sums[i % kSumLanes] += in_steps * in_steps;
    }
    AddInSteps(sums, buckets->step, squares);
  }
}

void RandomWords(const base::PrngKey& key, uint64_t first, size_t count, uint32_t* words) {
  for (size_t i = 0; i < count; ++i) {
    words[i] = base::PrngBlock(key, (first + i) / 4)[(first + i) % 4];
  }
}

void QuantiseStochastic(const float* values, const uint32_t* words, size_t count,
                        const Positions& positions, uint8_t* codes) {
  const double last = positions.last;
  for (size_t i = 0; i < count; ++i) {
    const double at =
        (static_cast<double>(values[i]) - positions.offset) / positions.unit + positions.shift;
    const double code = std::floor(at + static_cast<double>(words[i]) * 0x1p-32);
    codes[i] = static_cast<uint8_t>(std::clamp(code, 0.0, last));
  }
}

void QuantiseUniform(const float* values, const uint32_t* words, size_t count,
                     const Magnitudes& magnitudes, uint8_t* codes) {
  const int zero = static_cast<int>(magnitudes.zero);
  const double most = magnitudes.zero;
  for (size_t i = 0; i < count; ++i) {
    const double steps = std::fabs(static_cast<double>(values[i])) / magnitudes.unit;
    const double random = words == nullptr ? 0 : static_cast<double>(words[i]) * 0x1p-32;
    const double k = std::min(std::floor(steps + magnitudes.offset + random), most);
    const int limited = steps < magnitudes.least ? 0 : static_cast<int>(k);
    codes[i] = static_cast<uint8_t>(values[i] < 0 ? zero - limited : zero + limited);
  }
}

void Pack(const uint8_t* codes, size_t count, int bits, char* packed) {
  const auto width = static_cast<size_t>(bits);
  std::memset(packed, 0, (count * width + 7) / 8);
  for (size_t i = 0; i < count; ++i) {
    for (size_t bit = 0; bit < width; ++bit) {
      const size_t at = i * width + bit;
      packed[at / 8] = static_cast<char>(static_cast<uint8_t>(packed[at / 8]) |
                                         ((codes[i] >> bit) & 1) << at % 8);
    }
  }
}

void Unpack(const char* packed, size_t count, int bits, uint8_t* codes) {
  const auto width = static_cast<size_t>(bits);
  for (size_t i = 0; i < count; ++i) {
    unsigned code = 0;
    for (size_t bit = 0; bit < width; ++bit) {
      const size_t at = i * width + bit;
      code |= (static_cast<unsigned>(static_cast<uint8_t>(packed[at / 8])) >> at % 8 & 1u) << bit;
    }
    codes[i] = static_cast<uint8_t>(code);
  }
}

uint8_t LargestCode(const uint8_t* codes, size_t count) {
  uint8_t largest = 0;
  for (size_t i = 0; i < count; ++i) largest = std::max(largest, codes[i]);
  return largest;
}

void AddPacked(const char* packed, size_t count, int bits, const int64_t* by_code, int64_t* sums) {
  for (size_t i = 0; i < count; ++i) {
    uint8_t code = 0;
    // Eight codes stand on a byte's bounds.
    const size_t group = i / 8 * 8;
    uint8_t codes[8];
    reference::Unpack(packed + group / 8 * static_cast<size_t>(bits), i - group + 1, bits, codes);
    code = codes[i - group];
    sums[i] += by_code[code];
  }
}

void MeansOf(const int64_t* sums, size_t count, double weight, double unit, float* means) {
  for (size_t i = 0; i < count; ++i) {
    means[i] = static_cast<float>(static_cast<double>(sums[i]) / weight * unit);
  }
}

uint64_t AddSquares(const uint8_t* codes, size_t count, uint8_t zero, uint16_t* by_place) {
  uint64_t sum = 0;
  for (size_t i = 0; i < count; ++i) {
    const int d = std::min(kDeviationMax, std::abs(int{codes[i]} - int{zero}));
    by_place[i] = static_cast<uint16_t>(by_place[i] + d * d);
    sum += static_cast<uint64_t>(d * d);
  }
  return sum;
}

void JoinCodes(const uint8_t* classes, const uint8_t* codes, size_t count, int row_log2,
               uint16_t* joined) {
  for (size_t i = 0; i < count; ++i) {
    joined[i] = static_cast<uint16_t>((classes[i] << row_log2) + codes[i]);
  }
}

void LimitedSums(const int8_t* terms, size_t count, int16_t term, uint8_t least, uint8_t most,
                 uint8_t* sums) {
  for (size_t i = 0; i < count; ++i) {
    const int sum = terms[i] + term;
    sums[i] = static_cast<uint8_t>(std::min<int>(std::max<int>(sum, least), most));
  }
}

void AddTrialsByPlace(const TrialRows& rows, size_t count, uint8_t zero, const int16_t* levels,
                      const Trials& trials, const uint32_t* places, int32_t* sums) {
  for (size_t r = 0; r < rows.count; ++r) {
    for (size_t i = 0; i < count; ++i) {
      reference::AddTrials(rows.codes[r] + i, 1, zero, rows.levels[r], levels + i, trials,
                           sums + (places == nullptr ? i : places[i]) * kTrials);
    }
  }
}

void AddTrials(const uint8_t* codes, size_t count, uint8_t zero, int row_level,
               const int16_t* levels, const Trials& trials, int32_t* sums) {
  const int last = static_cast<int>(trials.stride - kTrials);
  for (size_t i = 0; i < count; ++i) {
    const int d = std::min(kDeviationMax, std::abs(int{codes[i]} - int{zero}));
    const int at = std::min(std::max(row_level + levels[i] - trials.lowest, 0), last);
    const int32_t* const costs = trials.costs + static_cast<size_t>(d) * trials.stride + at;
    for (size_t t = 0; t < kTrials; ++t) sums[t] += costs[t];
  }
}

}  // namespace quantfl::codec::kernels::reference
