// Codec and fold beside memcpy in the same run. Items are parameters (for the fold, parameters
// times updates); bytes are those of the fp32 input, so that bytes_per_second compares with
// memcpy's.

#include <benchmark/benchmark.h>

#include <cstdint>
#include <cstring>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "common/base/prng.h"
#include "common/codec/update.h"
#include "server/aggregation/fold.h"
#include "tests/benchmark/in_memory_update.h"

namespace quantfl {
namespace {

constexpr uint64_t kParams = uint64_t{1} << 22;
constexpr int kUpdates = 16;

codec::Layout OneTensor(uint64_t n) {
  return *codec::Layout::Create({{{n}, codec::TensorPolicy::kQuantise}}, std::string(32, 's'));
}

std::vector<float> Delta(uint64_t n, uint32_t client) {
  base::Prng prng({.run_seed = 1, .client_index = client});
  std::vector<float> delta(n);
  for (float& x : delta) x = (prng.UniformFloat() - 0.5f) * 1e-2f;
  return delta;
}

codec::Spec SpecOf(int64_t levels) {
  return levels == 0 ? codec::Fp32Spec() : codec::BuSpec(static_cast<uint16_t>(levels));
}

void Memcpy(benchmark::State& state) {
  const std::vector<float> from = Delta(kParams, 0);
  std::vector<float> to(kParams);
  for (auto _ : state) {
    std::memcpy(to.data(), from.data(), kParams * sizeof(float));
    benchmark::DoNotOptimize(to.data());
    benchmark::ClobberMemory();
  }
  state.SetItemsProcessed(static_cast<int64_t>(state.iterations() * kParams));
  state.SetBytesProcessed(static_cast<int64_t>(state.iterations() * kParams * sizeof(float)));
}
BENCHMARK(Memcpy);

void Encode(benchmark::State& state) {
  const codec::Layout layout = OneTensor(kParams);
  const codec::Spec spec = SpecOf(state.range(0));
  const std::vector<float> delta = Delta(kParams, 0);
  for (auto _ : state) {
    auto update = codec::Encode(delta, layout, spec, {});
    if (!update.ok()) return state.SkipWithError(update.status().ToString().c_str());
    benchmark::DoNotOptimize(update->chunks.data());
  }
  state.SetItemsProcessed(static_cast<int64_t>(state.iterations() * kParams));
  state.SetBytesProcessed(static_cast<int64_t>(state.iterations() * kParams * sizeof(float)));
}
BENCHMARK(Encode)->ArgName("levels")->Arg(2)->Arg(4)->Arg(8)->Arg(10)->Arg(16)->Arg(256)->Arg(0);

void Decode(benchmark::State& state) {
  const codec::Layout layout = OneTensor(kParams);
  const codec::Spec spec = SpecOf(state.range(0));
  const codec::EncodedUpdate update = *codec::Encode(Delta(kParams, 0), layout, spec, {});
  for (auto _ : state) {
    auto values = codec::Decode(update.header, update.chunks, layout);
    if (!values.ok()) return state.SkipWithError(values.status().ToString().c_str());
    benchmark::DoNotOptimize(values->data());
  }
  state.SetItemsProcessed(static_cast<int64_t>(state.iterations() * kParams));
  state.SetBytesProcessed(static_cast<int64_t>(state.iterations() * kParams * sizeof(float)));
}
BENCHMARK(Decode)->ArgName("levels")->Arg(10)->Arg(16)->Arg(0);

void Fold(benchmark::State& state) {
  const codec::Layout layout = OneTensor(kParams);
  const codec::Spec spec = SpecOf(state.range(0));
  std::vector<std::unique_ptr<InMemory>> updates;
  std::vector<const aggregation::UpdateSource*> sources;
  for (uint32_t u = 0; u < kUpdates; ++u) {
    updates.push_back(
        std::make_unique<InMemory>(*codec::Encode(Delta(kParams, u), layout, spec, {}), layout));
    sources.push_back(updates.back().get());
  }
  const aggregation::FoldOptions options{.bound_exponents = {0},
                                         .fraction_bits = *aggregation::FractionBits(kUpdates, 600),
                                         .cohort = kUpdates,
                                         .max_examples = 600};
  for (auto _ : state) {
    auto mean = aggregation::Fold(sources, layout, options);
    if (!mean.ok()) return state.SkipWithError(mean.status().ToString().c_str());
    benchmark::DoNotOptimize(mean->data());
  }
  state.SetItemsProcessed(static_cast<int64_t>(state.iterations() * kParams * kUpdates));
}
BENCHMARK(Fold)->ArgName("levels")->Arg(2)->Arg(4)->Arg(8)->Arg(10)->Arg(16)->Arg(256)->Arg(0);

}  // namespace
}  // namespace quantfl
