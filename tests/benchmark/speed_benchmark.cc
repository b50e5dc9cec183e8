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
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "common/base/check.h"
#include "common/base/prng.h"
#include "common/codec/update.h"
#include "server/aggregation/fold.h"
#include "tests/benchmark/in_memory_update.h"

#ifdef QUANTFL_HAVE_ZSTD
#include <zstd.h>
#endif

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

// One core reads memory, and does next to nothing with it. Some machines' own prefetching is slower
// than memcpy, so it is told what comes.
void Read(benchmark::State& state) {
  const std::vector<float>& values = LargeDelta();
  using Vector __attribute__((vector_size(64))) = uint64_t;
  for (auto _ : state) {
    Vector sums[4] = {};
    for (uint64_t i = 0; i < kParams; i += 64) {
      Vector words[4];
      for (uint64_t line = 0; line < 64; line += 16)
        __builtin_prefetch(values.data() + i + 1024 + line);
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

// What one would write first: BU with 16 levels in blocks of 256.
void PlainBlocks(benchmark::State& state) {
  constexpr uint64_t kBlock = 256;
  const std::vector<float>& values = LargeDelta();
  std::vector<uint8_t> packed(kParams / 2);
  std::vector<float> ranges(kParams / kBlock * 2);
  for (auto _ : state) {
    for (uint64_t block = 0; block < kParams / kBlock; ++block) {
      const float* const x = &values[block * kBlock];
      const auto [least, most] = std::minmax_element(x, x + kBlock);
      const float lo = *least;
      const float step = (*most - lo) / 16;
      ranges[2 * block] = lo;
      ranges[2 * block + 1] = step;
      for (uint64_t i = 0; i < kBlock; i += 2) {
        const int low = std::min(15, static_cast<int>((x[i] - lo) / step));
        const int high = std::min(15, static_cast<int>((x[i + 1] - lo) / step));
        packed[(block * kBlock + i) / 2] = static_cast<uint8_t>(low | high << 4);
      }
    }
    benchmark::ClobberMemory();
  }
  Report(state, kParams);
}

// Likewise: one update's codes after the other's, added to sums of floats.
void PlainFold(benchmark::State& state) {
  std::vector<std::vector<uint8_t>> updates(kUpdates);
  for (uint32_t u = 0; u < kUpdates; ++u) {
    base::Prng prng({.run_seed = u});
    for (uint64_t i = 0; i < kFoldParams / 2; ++i) {
      updates[u].push_back(static_cast<uint8_t>(prng.NextU32()));
    }
  }
  std::vector<float> sums(kFoldParams);
  for (auto _ : state) {
    std::fill(sums.begin(), sums.end(), 0.0f);
    for (uint32_t u = 0; u < kUpdates; ++u) {
      const float step = 1e-3f * static_cast<float>(u + 1);
      for (uint64_t i = 0; i < kFoldParams; i += 2) {
        const uint8_t both = updates[u][i / 2];
        sums[i] += (static_cast<float>(both & 15) - 7.5f) * step;
        sums[i + 1] += (static_cast<float>(both >> 4) - 7.5f) * step;
      }
    }
    benchmark::ClobberMemory();
  }
  Report(state, kFoldParams * kUpdates);
}

#ifdef QUANTFL_HAVE_ZSTD
void Zstd(benchmark::State& state, const void* bytes, size_t size, uint64_t params) {
  std::vector<char> out(ZSTD_compressBound(size));
  size_t compressed = 0;
  for (auto _ : state) {
    compressed = ZSTD_compress(out.data(), out.size(), bytes, size, 1);
    QFL_CHECK(ZSTD_isError(compressed) == 0);
  }
  state.counters["bits"] = 8 * static_cast<double>(compressed) / static_cast<double>(params);
  Report(state, params);
}
void ZstdFloats(benchmark::State& state) {
  const std::vector<float>& values = Drawn();
  Zstd(state, values.data(), values.size() * sizeof(float), values.size());
}
// The codes of the rows EncodeUneven, a byte each.
void ZstdCodes(benchmark::State& state) {
  const std::vector<float> delta = Uneven(0);
  double squares = 0;
  for (const float x : delta) squares += static_cast<double>(x) * static_cast<double>(x);
  const double step = std::sqrt(squares / static_cast<double>(delta.size()));
  std::vector<uint8_t> codes(delta.size());
  for (size_t i = 0; i < codes.size(); ++i) {
    const double code = std::round(static_cast<double>(delta[i]) / step);
    codes[i] = static_cast<uint8_t>(std::clamp(code, -7.0, 7.0) + 7);
  }
  Zstd(state, codes.data(), codes.size(), codes.size());
}
#endif

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

// Of kUpdates clients; each made once, by the first thread that comes.
const Updates& MakeUpdates(const char* text, const codec::Layout& layout, bool uneven) {
  static std::mutex mutex;
  const std::lock_guard lock(mutex);
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
BENCHMARK(PlainBlocks);
BENCHMARK(PlainFold);
#ifdef QUANTFL_HAVE_ZSTD
BENCHMARK(ZstdFloats);
BENCHMARK(ZstdCodes);
#endif
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
