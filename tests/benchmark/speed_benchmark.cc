// The rows of speed.py: what the codec does beside what the machine can do, in one run. Items are
// parameters (of the folds, parameters times updates; of bounds, floats).

#include <benchmark/benchmark.h>
#include <malloc.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "common/base/check.h"
#include "common/base/prng.h"
#include "common/codec/update.h"
#include "server/aggregation/fold.h"
#include "tests/benchmark/in_memory_update.h"

namespace quantfl {
namespace {

constexpr uint64_t kParams = uint64_t{1} << 26;      // of the large delta: beyond every cache
constexpr uint64_t kFoldParams = uint64_t{1} << 22;  // of each folded update
constexpr uint32_t kUpdates = 16;
constexpr uint64_t kRows = 1024;  // of the delta whose rows and columns differ
constexpr uint64_t kColumns = 2048;

codec::Layout LayoutOf(std::vector<uint64_t> shape) {
  return *codec::Layout::Create({{std::move(shape), codec::TensorPolicy::kQuantise}},
                                std::string(32, 's'));
}

// 4 Mi values, drawn once: what follows has them repeated and turned, which nothing here can see.
const std::vector<float>& Drawn() {
  static const auto* const drawn = [] {
    base::Prng prng({.run_seed = 1});
    auto* const values = new std::vector<float>(kFoldParams);
    for (float& x : *values) x = static_cast<float>(prng.Gaussian()) * 1e-3f;
    return values;
  }();
  return *drawn;
}

std::vector<float> Gaussian(uint64_t n, uint32_t client) {
  const std::vector<float>& drawn = Drawn();
  std::vector<float> delta;
  delta.reserve(n);
  size_t from = client * size_t{4099} % drawn.size();
  while (delta.size() < n) {
    const size_t count = std::min(n - delta.size(), drawn.size() - from);
    delta.insert(delta.end(), &drawn[from], &drawn[from] + count);
    from = 0;
  }
  return delta;
}

const std::vector<float>& LargeDelta() {
  static const auto* const delta = new std::vector<float>(Gaussian(kParams, 0));
  return *delta;
}

// Spreads of rows and columns are apart by octaves, as those of trained layers are.
std::vector<float> Uneven(uint32_t client) {
  std::vector<float> delta = Gaussian(kRows * kColumns, client);
  base::Prng prng({.run_seed = 2});
  std::vector<float> columns(kColumns);
  for (float& x : columns) x = std::exp2(static_cast<float>(prng.Gaussian()));
  for (uint64_t i = 0; i < kRows; ++i) {
    const float row = std::exp2(static_cast<float>(prng.Gaussian()));
    for (uint64_t j = 0; j < kColumns; ++j) delta[i * kColumns + j] *= row * columns[j];
  }
  return delta;
}

void Report(benchmark::State& state, uint64_t items) {
  state.SetItemsProcessed(static_cast<int64_t>(state.iterations() * items));
}

// One core reads memory, and does next to nothing with it.
void Read(benchmark::State& state) {
  const std::vector<float>& values = LargeDelta();
  using Vector __attribute__((vector_size(64))) = uint64_t;
  for (auto _ : state) {
    Vector sums[4] = {};
    for (uint64_t i = 0; i < kParams; i += 64) {
      Vector words[4];
      std::memcpy(words, values.data() + i, sizeof(words));
      for (size_t j = 0; j < 4; ++j) sums[j] |= words[j];
    }
    benchmark::DoNotOptimize(sums);
  }
  Report(state, kParams);
}

void Memcpy(benchmark::State& state) {
  const std::vector<float>& from = LargeDelta();
  static std::vector<float>* const to = new std::vector<float>(kParams);
  for (auto _ : state) {
    std::memcpy(to->data(), from.data(), kParams * sizeof(float));
    benchmark::ClobberMemory();
  }
  Report(state, kParams);
}

void Encode(benchmark::State& state, const char* text, const codec::Layout& layout,
            const std::vector<float>& delta) {
  const codec::Spec spec = *codec::ParseSpec(text);
  double bits = 0;
  for (auto _ : state) {
    auto update = codec::Encode(delta, layout, spec, {});
    if (!update.ok()) return state.SkipWithError(update.status().ToString().c_str());
    bits = 8 * static_cast<double>(update->payload.total()) / static_cast<double>(delta.size());
  }
  state.counters["bits"] = benchmark::Counter(bits, benchmark::Counter::kAvgThreads);
  Report(state, delta.size());
}

void EncodeLarge(benchmark::State& state, const char* text) {
  Encode(state, text, LayoutOf({kParams}), LargeDelta());
}
void EncodeUneven(benchmark::State& state, const char* text) {
  static const auto* const delta = new std::vector<float>(Uneven(0));
  Encode(state, text, LayoutOf({kRows, kColumns}), *delta);
}

using Updates = std::vector<std::unique_ptr<InMemory>>;

// Of kUpdates clients; each made once.
const Updates& MakeUpdates(const std::string& text, const codec::Layout& layout, bool uneven) {
  static auto* const made = new std::map<std::string, Updates>();
  Updates& updates = (*made)[text];
  const codec::Spec spec = *codec::ParseSpec(text);
  for (uint32_t u = static_cast<uint32_t>(updates.size()); u < kUpdates; ++u) {
    const std::vector<float> delta = uneven ? Uneven(u) : Gaussian(layout.n(), u);
    updates.push_back(std::make_unique<InMemory>(*codec::Encode(delta, layout, spec, {}), layout));
  }
  return updates;
}

void Fold(benchmark::State& state, const char* text, const codec::Layout& layout, bool uneven) {
  std::vector<const aggregation::UpdateSource*> sources;
  for (const auto& update : MakeUpdates(text, layout, uneven)) sources.push_back(update.get());
  const aggregation::FoldOptions options{.bound_exponents = {0},
                                         .fraction_bits = *aggregation::FractionBits(kUpdates, 600),
                                         .cohort = kUpdates,
                                         .max_examples = 600};
  for (auto _ : state) {
    auto mean = aggregation::Fold(sources, layout, options);
    if (!mean.ok()) return state.SkipWithError(mean.status().ToString().c_str());
    benchmark::DoNotOptimize(mean->data());
  }
  Report(state, layout.n() * kUpdates);
}

void FoldEven(benchmark::State& state, const char* text) {
  Fold(state, text, LayoutOf({kFoldParams}), false);
}
void FoldUneven(benchmark::State& state, const char* text) {
  Fold(state, text, LayoutOf({kRows, kColumns}), true);
}

// One thread is measured by its own time, so that what else the machine does counts less; whether
// two are twice as fast, by the clock on the wall.
#define SPEED(function, name, text)        \
  BENCHMARK_CAPTURE(function, name, text); \
  BENCHMARK_CAPTURE(function, name##_wall, text)->Threads(1)->Threads(2)->UseRealTime()

BENCHMARK(Read);
BENCHMARK(Read)->Name("Read_wall")->Threads(1)->Threads(2)->UseRealTime();
BENCHMARK(Memcpy);
SPEED(EncodeLarge, block, "bu:16,scope=block:256");
SPEED(EncodeLarge, tensor, "bu:16");
SPEED(EncodeUneven, rans, "uniform:15,step=1rms,pack=rans");
SPEED(EncodeUneven, contexts, "uniform:15,step=1rms,pack=rans,context=own");
SPEED(FoldEven, fixed, "bu:16");
SPEED(FoldEven, rans, "bu:16,pack=rans");
SPEED(FoldUneven, contexts, "bu:16,pack=rans,context=own");

}  // namespace
}  // namespace quantfl

int main(int argc, char** argv) {
  // As the programs do: else every chunk's pages would be given back, and taken again.
  mallopt(M_MMAP_THRESHOLD, 32 << 20);
  mallopt(M_TRIM_THRESHOLD, 256 << 20);
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}
