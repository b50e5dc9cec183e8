#ifndef QUANTFL_COMMON_LEARN_INITIALISE_H_
#define QUANTFL_COMMON_LEARN_INITIALISE_H_

#include <vector>

#include "common/base/prng.h"
#include "common/model/schema.h"

namespace quantfl::learn {

// Fresh weights as PyTorch's Linear and Conv2d draw them by default, kaiming_uniform(a = sqrt(5)):
// uniform in [-b, b) with b = 1 / sqrt(fan_in), for a weight and for the bias behind it alike
// (He, Zhang, Ren, Sun 2015: "Delving deep into rectifiers"). fan_in is the product of all
// dimensions of the weight but its first; a tensor of fewer than two dimensions takes that of the
// weight before it. A batch normalisation (the tensors beside a *.running_mean) starts as the
// identity: weight 1, bias 0, running mean 0, running variance 1. Returns float32[schema.size()],
// one stream in schema order: the same bits on every machine.
std::vector<float> Initialise(const model::Schema& schema, base::PrngKey key);

}  // namespace quantfl::learn

#endif  // QUANTFL_COMMON_LEARN_INITIALISE_H_
