// Entropy stage alone, beside memcpy of as many bytes as there are codes. Items are codes.

#include <benchmark/benchmark.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include "common/base/prng.h"
#include "common/codec/rans.h"

namespace quantfl::codec {
namespace {

constexpr size_t kCodes = size_t{1} << 20;  // of a chunk at most
constexpr size_t kRepeats = 8;

struct Input {
  std::vector<uint8_t> codes;
  std::vector<uint8_t> classes;
};

// Bell-shaped over `levels` codes, 6 standard deviations wide in class 0, narrower in later ones.
Input MakeInput(int levels, int class_count) {
  base::Prng prng({.run_seed = 1, .purpose = base::PrngPurpose::kSynthetic});
  Input input;
  input.codes.resize(kCodes);
  if (class_count > 1) input.classes.resize(kCodes);
  for (size_t i = 0; i < kCodes; ++i) {
    const size_t of_class = class_count > 1 ? prng.Below(static_cast<uint64_t>(class_count)) : 0;
    if (class_count > 1) input.classes[i] = static_cast<uint8_t>(of_class);
    const double spread = levels / (6.0 + static_cast<double>(of_class));
    const long code = std::lround(levels / 2.0 + spread * prng.Gaussian());
    input.codes[i] = static_cast<uint8_t>(std::clamp(code, 0L, levels - 1L));
  }
  return input;
}

void Report(benchmark::State& state, size_t coded_bytes) {
  state.SetItemsProcessed(static_cast<int64_t>(state.iterations() * kCodes));
  state.counters["bits_per_code"] = 8.0 * static_cast<double>(coded_bytes) / kCodes;
}

void Memcpy(benchmark::State& state) {
  const std::vector<uint8_t> from(kCodes, 1);
  std::vector<uint8_t> to(kCodes);
  for (auto _ : state) {
    std::memcpy(to.data(), from.data(), kCodes);
    benchmark::DoNotOptimize(to.data());
    benchmark::ClobberMemory();
  }
  Report(state, kCodes);
}
BENCHMARK(Memcpy)->Repetitions(kRepeats)->ReportAggregatesOnly();

void Encode(benchmark::State& state) {
  const int levels = static_cast<int>(state.range(0));
  const int class_count = static_cast<int>(state.range(1));
  const Input input = MakeInput(levels, class_count);
  size_t bytes = 0;
  for (auto _ : state) {
    const auto stream = RansEncode(input.codes, input.classes, class_count, levels, kCodes);
    if (!stream.has_value()) return state.SkipWithError("the codes are too many bytes");
    bytes = stream->bytes.size();
  }
  Report(state, bytes);
}

void Decode(benchmark::State& state) {
  const int levels = static_cast<int>(state.range(0));
  const int class_count = static_cast<int>(state.range(1));
  const Input input = MakeInput(levels, class_count);
  const auto stream = RansEncode(input.codes, input.classes, class_count, levels, kCodes);
  if (!stream.has_value()) return state.SkipWithError("the codes are too many bytes");
  std::vector<uint8_t> codes(kCodes);
  for (auto _ : state) {
    const auto tables =
        RansDecode(stream->bytes, input.classes, class_count, levels, absl::MakeSpan(codes));
    if (!tables.ok()) return state.SkipWithError(tables.status().ToString().c_str());
    benchmark::DoNotOptimize(codes.data());
  }
  Report(state, stream->bytes.size());
}

void Sizes(benchmark::internal::Benchmark* benchmark) {
  benchmark->ArgNames({"levels", "classes"})->Repetitions(kRepeats)->ReportAggregatesOnly();
  for (const int levels : {2, 4, 16, 64, 256}) benchmark->Args({levels, 1});
  for (const int class_count : {4, 16, 64}) benchmark->Args({16, class_count});
}
BENCHMARK(Encode)->Apply(Sizes);
BENCHMARK(Decode)->Apply(Sizes);

}  // namespace
}  // namespace quantfl::codec
