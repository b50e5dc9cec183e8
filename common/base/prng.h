#ifndef QUANTFL_COMMON_BASE_PRNG_H_
#define QUANTFL_COMMON_BASE_PRNG_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

namespace quantfl::base {

// What a stream of random numbers is for. Values are part of what makes a run repeatable: never
// renumber; 1 to 65535.
enum class PrngPurpose : uint32_t {
  kModelInit = 1,
  kPartition = 2,
  kBatchOrder = 3,
  kSelection = 4,
  kRounding = 5,
  kBackoff = 6,
  kSynthetic = 7,
  kSimulation = 8,
  kAugment = 9,
};

// Names a stream. Equal keys give equal streams on every machine.
struct PrngKey {
  uint64_t run_seed = 0;
  uint32_t round = 0;
  uint32_t client_index = 0;
  PrngPurpose purpose = PrngPurpose::kModelInit;
};

// Philox4x32-10, counter-based (Salmon, Moraes, Dror, Shaw: "Parallel random numbers: as easy as
// 1, 2, 3", SC 2011): ten rounds of a keyed bijection of the counter. The words are in the order of
// the paper and of its published test vectors.
std::array<uint32_t, 4> Philox4x32(std::array<uint32_t, 4> counter, std::array<uint32_t, 2> key);

// Words 4*block to 4*block+3 of the stream that `key` names:
//   Philox4x32(counter, key)
//   key     = { run_seed mod 2^32, run_seed / 2^32 }
//   counter = { block mod 2^32,
//               purpose * 2^16 + block / 2^32,
//               round,
//               client_index }
// Every field has bits of its own, so two different keys never see the same (counter, key).
// CHECK-fails unless purpose < 2^16 and block < 2^48. Golden vectors, the published ones for the
// raw function and ours for keys: tests/unit/common/base/prng_test.cc.
std::array<uint32_t, 4> PrngBlock(const PrngKey& key, uint64_t block);

// The stream of a key from its first block on. Not thread-safe; cheap to copy.
class Prng {
 public:
  explicit Prng(PrngKey key);
  uint32_t NextU32();
  uint64_t NextU64();  // two words, the low half first
  // Unbiased (rejection) in [0, bound); bound >= 1.
  uint64_t Below(uint64_t bound);
  double Uniform();      // [0, 1), 53 bits
  float UniformFloat();  // [0, 1), 24 bits
  // Box-Muller, mean 0, variance 1. Goes through libm: repeats on one machine and libm, so it is
  // never used where bits must agree across machines.
  double Gaussian();
  // Marsaglia and Tsang 2000, scale 1, shape > 0 and finite; the same caveat. For shapes far below
  // 1 (about 0.01) a draw may underflow to 0.
  double Gamma(double shape);
  // Fisher-Yates.
  template <typename T>
  void Shuffle(std::vector<T>& v) {
    for (size_t i = v.size(); i > 1; --i) std::swap(v[i - 1], v[Below(i)]);
  }

 private:
  void Refill();

  PrngKey key_;
  uint64_t next_block_ = 0;
  std::array<uint32_t, 4> buffer_{};
  int used_ = 4;  // words of `buffer_` that were given out
};

}  // namespace quantfl::base

#endif  // QUANTFL_COMMON_BASE_PRNG_H_
