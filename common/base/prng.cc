#include "common/base/prng.h"

#include <cmath>
#include <numbers>

#include "common/base/check.h"

namespace quantfl::base {
namespace {

constexpr uint32_t kPurposeLimit = 1u << 16;
constexpr uint64_t kBlockLimit = uint64_t{1} << 48;

constexpr uint32_t Low(uint64_t v) { return static_cast<uint32_t>(v); }
constexpr uint32_t High(uint64_t v) { return static_cast<uint32_t>(v >> 32); }

}  // namespace

std::array<uint32_t, 4> Philox4x32(std::array<uint32_t, 4> counter, std::array<uint32_t, 2> key) {
  // The paper's multipliers and Weyl increments.
  constexpr uint64_t kM0 = 0xd2511f53;
  constexpr uint64_t kM1 = 0xcd9e8d57;
  constexpr uint32_t kW0 = 0x9e3779b9;
  constexpr uint32_t kW1 = 0xbb67ae85;
  for (int round = 0; round < 10; ++round) {
    const uint64_t p0 = kM0 * counter[0];
    const uint64_t p1 = kM1 * counter[2];
    counter = {High(p1) ^ counter[1] ^ key[0], Low(p1), High(p0) ^ counter[3] ^ key[1], Low(p0)};
    key[0] += kW0;
    key[1] += kW1;
  }
  return counter;
}

std::array<uint32_t, 4> PrngBlock(const PrngKey& key, uint64_t block) {
  const auto purpose = static_cast<uint32_t>(key.purpose);
  // Past their bits they would run into each other, and with that into another key's stream.
  QFL_CHECK(purpose < kPurposeLimit && block < kBlockLimit);
  return Philox4x32({Low(block), purpose << 16 | High(block), key.round, key.client_index},
                    {Low(key.run_seed), High(key.run_seed)});
}

Prng::Prng(PrngKey key) : key_(key) {}

void Prng::Refill() {
  buffer_ = PrngBlock(key_, next_block_++);
  used_ = 0;
}

uint32_t Prng::NextU32() {
  if (used_ == 4) Refill();
  return buffer_[static_cast<size_t>(used_++)];
}

uint64_t Prng::NextU64() {
  const uint64_t low = NextU32();
  const uint64_t high = NextU32();
  return high << 32 | low;
}

uint64_t Prng::Below(uint64_t bound) {
  QFL_CHECK(bound >= 1);
  // 2^64 mod bound: without that many of the lowest draws every remainder is equally likely.
  const uint64_t rejected = (0 - bound) % bound;
  uint64_t draw = NextU64();
  while (draw < rejected) draw = NextU64();
  return draw % bound;
}

double Prng::Uniform() { return static_cast<double>(NextU64() >> 11) * 0x1p-53; }

float Prng::UniformFloat() { return static_cast<float>(NextU32() >> 8) * 0x1p-24f; }

double Prng::Gaussian() {
  const double u1 = 1.0 - Uniform();  // (0, 1]: its logarithm is finite
  const double u2 = Uniform();
  return std::sqrt(-2.0 * std::log(u1)) * std::cos(2.0 * std::numbers::pi * u2);
}

double Prng::Gamma(double shape) {
  QFL_CHECK(shape > 0 && std::isfinite(shape));
  // Below 1 the method does not apply: Gamma(a) = Gamma(a + 1) * U^(1/a).
  const double boost = shape < 1 ? std::pow(1.0 - Uniform(), 1.0 / shape) : 1.0;
  const double d = (shape < 1 ? shape + 1 : shape) - 1.0 / 3.0;
  const double c = 1.0 / std::sqrt(9.0 * d);
  while (true) {
    const double x = Gaussian();
    const double t = 1.0 + c * x;
    if (t <= 0) continue;
    const double v = t * t * t;
    const double u = 1.0 - Uniform();
    if (std::log(u) < 0.5 * x * x + d * (1.0 - v + std::log(v))) return boost * d * v;
  }
}

}  // namespace quantfl::base
