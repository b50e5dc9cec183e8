// Entropy stage alone, beside memcpy of as many bytes as there are codes and, where
// libhtscodecs-dev is there, its coder of the same kind (order 0, 32 states, no packing). Items are
// codes.

#include <benchmark/benchmark.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include "common/base/prng.h"
#include "common/codec/rans.h"

#ifdef QUANTFL_HAVE_HTSCODECS
#include <htscodecs/rANS_static4x16.h>
#endif

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

#ifdef QUANTFL_HAVE_HTSCODECS
std::vector<uint8_t> HtscodecsStream(std::vector<uint8_t>& codes) {
  std::vector<uint8_t> stream(rans_compress_bound_4x16(kCodes, RANS_ORDER_X32));
  auto size = static_cast<unsigned>(stream.size());
  if (rans_compress_to_4x16(codes.data(), kCodes, stream.data(), &size, RANS_ORDER_X32) ==
      nullptr) {
    size = 0;
  }
  stream.resize(size);
  return stream;
}

void HtscodecsEncode(benchmark::State& state) {
  Input input = MakeInput(static_cast<int>(state.range(0)), 1);
  std::vector<uint8_t> stream(rans_compress_bound_4x16(kCodes, RANS_ORDER_X32));
  unsigned size = 0;
  for (auto _ : state) {
    size = static_cast<unsigned>(stream.size());
    if (rans_compress_to_4x16(input.codes.data(), kCodes, stream.data(), &size, RANS_ORDER_X32) ==
        nullptr) {
      return state.SkipWithError("htscodecs did not encode");
    }
  }
  Report(state, size);
}

void HtscodecsDecode(benchmark::State& state) {
  Input input = MakeInput(static_cast<int>(state.range(0)), 1);
  std::vector<uint8_t> stream = HtscodecsStream(input.codes);
  std::vector<uint8_t> codes(kCodes);
  for (auto _ : state) {
    unsigned count = kCodes;
    if (rans_uncompress_to_4x16(stream.data(), static_cast<unsigned>(stream.size()), codes.data(),
                                &count) == nullptr) {
      return state.SkipWithError("htscodecs did not decode");
    }
    benchmark::DoNotOptimize(codes.data());
  }
  if (codes != input.codes) return state.SkipWithError("htscodecs decoded other codes");
  Report(state, stream.size());
}

void Levels(benchmark::internal::Benchmark* benchmark) {
  benchmark->ArgName("levels")->Repetitions(kRepeats)->ReportAggregatesOnly();
  for (const int levels : {2, 4, 16, 64, 256}) benchmark->Arg(levels);
}
BENCHMARK(HtscodecsEncode)->Apply(Levels);
BENCHMARK(HtscodecsDecode)->Apply(Levels);
#endif

}  // namespace
}  // namespace quantfl::codec
