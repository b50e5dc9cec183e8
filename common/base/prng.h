#ifndef QUANTFL_COMMON_BASE_PRNG_H_
#define QUANTFL_COMMON_BASE_PRNG_H_

#include <array>
#include <cstdint>
#include <vector>

namespace quantfl::base {

// What a stream of random numbers is for. Values are part of what makes a run repeatable: never renumber.
enum class PrngPurpose : uint32_t {
  kModelInit = 1,
  kPartition = 2,
  kBatchOrder = 3,
  kSelection = 4,
  kRounding = 5,
  kBackoff = 6,
  kSynthetic = 7,
  kSimulation = 8,
};

// Names a stream. Equal keys give equal streams on every machine.
struct PrngKey {
  uint64_t run_seed = 0;
  uint32_t round = 0;
  uint32_t client_index = 0;
  PrngPurpose purpose = PrngPurpose::kModelInit;
};

// Philox4x32-10 (Salmon et al., SC 2011), counter-based.
//   key     = {lo32(run_seed), hi32(run_seed)}
//   counter = {block_lo, (block_hi 16 bits << 16) ^ purpose..., round, client_index}: exact packing in prng.cc,
// golden vectors in tests/unit/common/base/prng_test.cc (the published ones for the raw function, ours for keys).
std::array<uint32_t, 4> Philox4x32(std::array<uint32_t, 4> counter, std::array<uint32_t, 2> key);

// Not thread-safe; cheap to copy.
class Prng {
 public:
  explicit Prng(PrngKey key);
  uint32_t NextU32();
  uint64_t NextU64();
  // Unbiased (rejection) in [0, bound); bound >= 1.
  uint64_t Below(uint64_t bound);
  double Uniform();       // [0, 1), 53 bits
  float UniformFloat();   // [0, 1), 24 bits
  double Gaussian();      // Box-Muller; repeats on one machine and libm, so never used where bits must agree across machines
  double Gamma(double shape);  // Marsaglia and Tsang 2000, shape > 0; the same caveat
  // Fisher-Yates.
  template <typename T>
  void Shuffle(std::vector<T>& v) {
    for (size_t i = v.size(); i > 1; --i) std::swap(v[i - 1], v[Below(i)]);
  }

 private:
  void Refill();
  std::array<uint32_t, 2> key_;
  std::array<uint32_t, 4> counter_;
  std::array<uint32_t, 4> buffer_{};
  int used_ = 4;
};

}  // namespace quantfl::base

#endif  // QUANTFL_COMMON_BASE_PRNG_H_
