#ifndef QUANTFL_COMMON_CODEC_CONTEXT_EXPONENTS_H_
#define QUANTFL_COMMON_CODEC_CONTEXT_EXPONENTS_H_

// The choice of exponents: each the one with which the codes of its row, column or position cost
// least, given the other ones.

#include <array>
#include <cstdint>
#include <vector>

#include "common/codec/context.h"
#include "common/codec/context_tensor.h"

namespace quantfl::codec::context_fit {

// What a deviation costs in each class, in 1/16 bit.
using Costs = std::vector<std::array<uint32_t, kDeviations>>;
Costs MakeCosts(const std::vector<Tensor>& tensors, size_t class_count);

using Priors = std::array<uint32_t, kExponentLevels>;  // of exponents, from the least on
// What each exponent of factor `f` costs, from how common it is, around the tensors' own centres.
Priors MakePriors(const std::vector<Tensor>& tensors, size_t f);

// Chooses the exponents of factor `f` anew: each the one that costs least, its own bytes included,
// by at least `enough` codes that deviate.
void Refine(Tensor& tensor, size_t f, uint64_t enough, const Costs& costs, const Priors& priors);

// The one class that codes the whole tensor best, as a level.
int BestLevel(const Tensor& tensor, const Costs& costs);

}  // namespace quantfl::codec::context_fit

#endif  // QUANTFL_COMMON_CODEC_CONTEXT_EXPONENTS_H_
