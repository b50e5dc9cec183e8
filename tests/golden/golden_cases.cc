#include "tests/golden/golden_cases.h"

#include <bit>
#include <cmath>
#include <cstdint>
#include <initializer_list>
#include <limits>
#include <utility>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "common/base/digest.h"
#include "common/base/prng.h"
#include "common/codec/update.h"

namespace quantfl::golden {
namespace {

using codec::TensorPolicy;

constexpr size_t kValuesShown = 4096;

// Of stochastic rounding.
constexpr base::PrngKey kKey = {.run_seed = 0x123456789abcdef,
                                .round = 3,
                                .client_index = 5,
                                .purpose = base::PrngPurpose::kRounding};

Case MakeCase(std::string name, codec::Spec spec, std::vector<codec::TensorLayout> tensors,
              std::vector<float> delta) {
  std::string digest(base::Sha256(name).AsBytes());
  return {std::move(name), spec, std::move(tensors), std::move(digest), std::move(delta)};
}

// Multiples of 2^-24 in [-1/16, 1/16), from `period` draws.
std::vector<float> Values(size_t count, uint32_t seed, size_t period) {
  base::Prng prng({.run_seed = seed, .purpose = base::PrngPurpose::kSynthetic});
  std::vector<float> drawn(period);
  for (float& x : drawn) x = (prng.UniformFloat() - 0.5f) * 0.125f;
  std::vector<float> values(count);
  for (size_t i = 0; i < count; ++i) values[i] = drawn[i % period];
  return values;
}

// "bu:5,scope=block:8" is bu_5_scope_block_8.
std::string NameOf(absl::string_view spec) {
  return absl::StrReplaceAll(spec, {{":", "_"}, {",", "_"}, {"=", "_"}, {".", "_"}, {"-", "_"}});
}

// The same, cubed: most are near 0.
std::vector<float> Peaked(size_t count, uint32_t seed) {
  std::vector<float> values = Values(count, seed, count);
  for (float& x : values) x = x * x * x;
  return values;
}

// With a spread that goes up and down along the update.
std::vector<float> Uneven(size_t count, uint32_t seed) {
  std::vector<float> values = Peaked(count, seed);
  for (size_t i = 0; i < count; ++i) {
    values[i] = std::ldexp(values[i], -static_cast<int>(i / 50 % 4 + i % 50 / 10));
  }
  return values;
}

// Runs of 64 that differ in spread and in kind: peaked, even, and zeros with a value here and
// there.
std::vector<float> RowsApart(size_t count, uint32_t seed) {
  std::vector<float> values = Values(count, seed, count);
  for (size_t i = 0; i < count; ++i) {
    const size_t row = i / 64;
    if (row % 3 == 0) values[i] = values[i] * values[i] * values[i] * 256;
    if (row % 3 == 2 && i % 16 != row % 16) values[i] = 0;
    values[i] = std::ldexp(values[i], -static_cast<int>(row * 3 % 7));
  }
  return values;
}

std::vector<codec::TensorLayout> Small() {
  return {{{5, 3}, TensorPolicy::kQuantise},
          {{3}, TensorPolicy::kFp32},
          {{}, TensorPolicy::kQuantise},
          {{2, 3, 3}, TensorPolicy::kQuantise}};
}

}  // namespace

codec::Layout Case::MakeLayout() const { return *codec::Layout::Create(tensors, schema_digest); }

std::vector<Case> Cases() {
  std::vector<Case> cases;
  // The worked example of proto/README.md.
  cases.push_back(MakeCase("example", codec::BuSpec(4),
                           {{{5}, TensorPolicy::kQuantise}, {{1}, TensorPolicy::kFp32}},
                           {-0.5f, -0.25f, 0.0f, 0.25f, 0.5f, 1.0f}));
  cases.push_back(MakeCase("fp32", codec::Fp32Spec(), Small(), Values(37, 1, 37)));
  // Each width of codes, full and not.
  for (const uint16_t levels :
       std::initializer_list<uint16_t>{2, 3, 5, 8, 16, 21, 40, 100, 200, 256}) {
    cases.push_back(MakeCase(absl::StrCat("bu_", levels), codec::BuSpec(levels), Small(),
                             Values(37, levels, 37)));
  }
  // Constant tensors, zeros of both signs, denormals, the widest range, one parameter.
  const float denormal = std::numeric_limits<float>::denorm_min();
  const float largest = std::numeric_limits<float>::max();
  cases.push_back(MakeCase("bu_edges", codec::BuSpec(16),
                           {{{3}, TensorPolicy::kQuantise},
                            {{2}, TensorPolicy::kQuantise},
                            {{4}, TensorPolicy::kQuantise},
                            {{3}, TensorPolicy::kQuantise},
                            {{1}, TensorPolicy::kQuantise},
                            {{4}, TensorPolicy::kFp32}},
                           {0.1f, 0.1f, 0.1f,                              //
                            -0.0f, 0.0f,                                   //
                            0.0f, denormal, 40 * denormal, -3 * denormal,  //
                            -largest / 2, 0.0f, largest / 2,               //
                            -7.5f,                                         //
                            -0.0f, denormal, largest, -largest}));
  // Entropy-coded: explicit tables and one state; then small tensors and those that share tables.
  Case rans = MakeCase("bu_16_rans", codec::BuSpec(16),
                       {{{40, 50}, TensorPolicy::kQuantise},
                        {{5}, TensorPolicy::kFp32},
                        {{700}, TensorPolicy::kQuantise}},
                       Peaked(2705, 11));
  rans.spec.pack = codec::Pack::kRans;
  cases.push_back(std::move(rans));
  std::vector<codec::TensorLayout> many(70, {{30}, TensorPolicy::kQuantise});
  many[3] = {{1}, TensorPolicy::kQuantise};
  many[5].policy = TensorPolicy::kFp32;
  Case tables = MakeCase("bu_200_rans", codec::BuSpec(200), std::move(many), Peaked(2071, 12));
  tables.spec.pack = codec::Pack::kRans;
  cases.push_back(std::move(tables));
  // Contexts: each tensor with classes of its own; exponents of rows, columns and positions,
  // tensors without, one in full precision.
  const char* const stated_each = "int8,pack=rans,context=own";
  cases.push_back(MakeCase(NameOf(stated_each), *codec::ParseSpec(stated_each),
                           {{{40, 50}, TensorPolicy::kQuantise},
                            {{5}, TensorPolicy::kFp32},
                            {{12, 6, 3, 3}, TensorPolicy::kQuantise},
                            {{19}, TensorPolicy::kQuantise},
                            {{1, 32, 2, 1}, TensorPolicy::kQuantise},
                            {{3, 4}, TensorPolicy::kQuantise}},
                           Uneven(2748, 13)));
  // Classes that are not stated for each tensor.
  const char* const stated_once = "uniform:31,step=0.5rms,pack=rans,context=own";
  cases.push_back(MakeCase(NameOf(stated_once), *codec::ParseSpec(stated_once),
                           {{{62, 50}, TensorPolicy::kQuantise}, {{5}, TensorPolicy::kFp32}},
                           Uneven(3105, 15)));
  // Kernels of each size that are transformed, tensors that are not.
  for (const char* text :
       {"int8,transform=dct", "bu:16,pack=rans,transform=dct", "bq:8,transform=dct"}) {
    cases.push_back(MakeCase(NameOf(text), *codec::ParseSpec(text),
                             {{{6, 4, 3, 3}, TensorPolicy::kQuantise},
                              {{2, 3, 5, 5}, TensorPolicy::kQuantise},
                              {{1, 2, 3, 3}, TensorPolicy::kFp32},
                              {{2, 1, 7, 7}, TensorPolicy::kQuantise},
                              {{8, 9, 1, 1}, TensorPolicy::kQuantise},
                              {{3, 3, 3}, TensorPolicy::kQuantise}},
                             Uneven(216 + 150 + 18 + 98 + 72 + 27, 14)));
  }
  // Three chunks; segments begin and end within them. The longest power of two would be 2^19 if
  // segments were not aligned to bytes.
  cases.push_back(MakeCase("bu_8_chunks", codec::BuSpec(8),
                           {{{400, 1000}, TensorPolicy::kQuantise},
                            {{7}, TensorPolicy::kFp32},
                            {{200000}, TensorPolicy::kQuantise}},
                           Values(600007, 7, 1009)));
  // The other quantisers and options; the name of a case is its spec.
  for (const char* text :
       {"fp16", "int8", "int8,round=stochastic", "bu:16,repr=mean", "bu:16,round=stochastic",
        "bu:5,scope=block:8", "bu:5,round=stochastic,scope=block:8", "bu:4,repr=mean,scope=block:8",
        "bu:7,scope=model", "bu:7,round=stochastic,scope=model", "bu:6,repr=mean,scope=model",
        "bq:2", "bq:8", "bq:256", "bq:3,scope=block:8", "bq:8,scope=model"}) {
    cases.push_back(MakeCase(NameOf(text), *codec::ParseSpec(text), Small(), Values(37, 50, 37)));
  }
  for (const char* text :
       {"uniform:3,step=2rms", "uniform:15,step=0.00390625", "uniform:255,step=0.1rms",
        "uniform:15,step=0.7rms,round=stochastic", "uniform:7,repr=gain,step=1.5rms,zero=0.75",
        "uniform:5,repr=gain,step=3rms,zero=0.5,round=stochastic", "bq:4,unbias=true",
        "bu:4,repr=mean,unbias=true,scope=block:8"}) {
    cases.push_back(MakeCase(NameOf(text), *codec::ParseSpec(text), Small(), Values(37, 60, 37)));
  }
  // Low rates, entropy-coded: nearly every code is the middle one.
  for (const char* text :
       {"uniform:15,step=6rms,pack=rans", "uniform:15,repr=gain,step=3rms,zero=0.6,pack=rans",
        "uniform:255,step=9rms,round=stochastic,pack=rans"}) {
    cases.push_back(MakeCase(NameOf(text), *codec::ParseSpec(text),
                             {{{40, 50}, TensorPolicy::kQuantise},
                              {{5}, TensorPolicy::kFp32},
                              {{700}, TensorPolicy::kQuantise}},
                             Peaked(2705, 13)));
  }
  // What is left of quantiser, scope, pack and context; where these two pay, with any quantiser.
  for (const char* text :
       {"int8,pack=rans", "int8,pack=rans,context=own,transform=dct",
        "uniform:15,step=1rms,pack=rans", "uniform:15,repr=gain,step=1rms,pack=rans,context=own",
        "bu:16,pack=rans,context=own", "bu:16,scope=block:32,pack=rans",
        "bu:16,scope=block:32,pack=rans,context=own", "bu:16,scope=model,pack=rans",
        "bu:16,scope=model,pack=rans,context=own", "bq:5,pack=rans", "bq:5,pack=rans,context=own",
        "bq:5,scope=block:64,pack=rans", "bq:5,scope=block:64,pack=rans,context=own",
        "bq:5,scope=model,pack=rans", "bq:5,scope=model,pack=rans,context=own"}) {
    cases.push_back(MakeCase(NameOf(text), *codec::ParseSpec(text),
                             {{{48, 64}, TensorPolicy::kQuantise},
                              {{5}, TensorPolicy::kFp32},
                              {{91}, TensorPolicy::kQuantise},
                              {{32, 7, 3, 3}, TensorPolicy::kQuantise},
                              {{1, 32, 2, 1}, TensorPolicy::kQuantise}},
                             RowsApart(3072 + 5 + 91 + 2016 + 64, 16)));
  }
  // Two chunks of pack rans, whose classes go on in the second one.
  const char* const two_chunks = "uniform:255,step=7rms,pack=rans,context=own";
  cases.push_back(MakeCase(absl::StrCat(NameOf(two_chunks), "_chunks"),
                           *codec::ParseSpec(two_chunks),
                           {{{13}, TensorPolicy::kQuantise}, {{260, 512}, TensorPolicy::kQuantise}},
                           RowsApart(13 + 260 * 512, 17)));
  // Constant tensors, zeros of both signs, denormals, large values, ties, one parameter.
  for (const char* text :
       {"fp16", "int8", "bu:4,repr=mean", "bu:4,round=stochastic", "bu:4,scope=block:8", "bq:4",
        "bq:4,scope=block:8", "uniform:15", "uniform:3,repr=gain,step=1e-09"}) {
    cases.push_back(MakeCase(absl::StrCat(NameOf(text), "_edges"), *codec::ParseSpec(text),
                             {{{3}, TensorPolicy::kQuantise},
                              {{2}, TensorPolicy::kQuantise},
                              {{4}, TensorPolicy::kQuantise},
                              {{3}, TensorPolicy::kQuantise},
                              {{1}, TensorPolicy::kQuantise},
                              {{6}, TensorPolicy::kQuantise}},
                             {0.1f, 0.1f, 0.1f,                              //
                              -0.0f, 0.0f,                                   //
                              0.0f, denormal, 40 * denormal, -3 * denormal,  //
                              -largest / 4, 1e30f, largest / 4,              //
                              -7.5f,                                         //
                              1e-5f, 1e-5f, 1e-5f, 1e-9f, 1e-9f, -2.0f}));
  }
  // Two chunks of blocks; the second tensor ends with a short block in each.
  cases.push_back(MakeCase("bq_16_block_32_chunks", *codec::ParseSpec("bq:16,scope=block:32"),
                           {{{13}, TensorPolicy::kQuantise}, {{70, 2003}, TensorPolicy::kQuantise}},
                           Values(140223, 8, 509)));
  return cases;
}

std::string UpdateFileOf(const Case& golden) {
  return codec::SerializeUpdate(
      *codec::Encode(golden.delta, golden.MakeLayout(), golden.spec, kKey));
}

std::string JsonOf(const Case& golden) {
  const codec::Layout layout = golden.MakeLayout();
  const codec::EncodedUpdate update = *codec::Encode(golden.delta, layout, golden.spec, kKey);
  const std::vector<float> values = *codec::Decode(update.header, update.chunks, layout);
  const absl::string_view raw(reinterpret_cast<const char*>(values.data()),
                              values.size() * sizeof(float));
  std::vector<std::string> tensors;
  for (const codec::TensorLayout& tensor : golden.tensors) {
    tensors.push_back(absl::StrFormat("    {\"shape\": [%s], \"policy\": \"%s\"}",
                                      absl::StrJoin(tensor.shape, ", "),
                                      tensor.policy == TensorPolicy::kFp32 ? "fp32" : "quantise"));
  }
  std::vector<std::string> shown;
  for (size_t i = 0; i < values.size() && values.size() <= kValuesShown; ++i) {
    shown.push_back(absl::StrFormat("\"%08x\"", std::bit_cast<uint32_t>(values[i])));
  }
  return absl::StrFormat(
      "{\n  \"spec\": \"%s\",\n  \"schema_digest\": \"%s\",\n  \"tensors\": [\n%s\n  ],\n"
      "  \"values_sha256\": \"%s\",\n  \"values\": [%s]\n}\n",
      codec::ToString(golden.spec), absl::BytesToHexString(golden.schema_digest),
      absl::StrJoin(tensors, ",\n"), base::Sha256(raw).Hex(), absl::StrJoin(shown, ", "));
}

}  // namespace quantfl::golden
