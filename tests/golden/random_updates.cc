// random_updates SEED COUNT: COUNT random updates, each followed by changed ones whose checksums
// fit, as a line of JSON each for decode_reference.py: "spec", "schema_digest" and "tensors" as in
// the golden files, "update" the update file in base64, and what this decoder says to it: either
// "values_sha256" of the decoded values or "refused", why.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <iterator>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "common/base/digest.h"
#include "common/base/prng.h"
#include "common/codec/update.h"
#include "common/codec/wire.h"
#include "tests/support/seal.h"

namespace quantfl {
namespace {

namespace wire = codec::wire;

constexpr int kChanges = 12;        // of each update
constexpr uint64_t kParams = 3000;  // about, without kernels
// One of so many has several chunks, and is not changed: they take a decoder in Python a while.
constexpr uint64_t kLargeEvery = 40;

template <typename T, size_t kSize>
T OneOf(base::Prng& prng, const T (&choices)[kSize]) {
  return choices[prng.Below(kSize)];
}

// Two or more chunks of most specs.
std::vector<codec::TensorLayout> LargeTensors() {
  return {{{700, 400}, codec::TensorPolicy::kQuantise},
          {{7}, codec::TensorPolicy::kFp32},
          {{20, 10, 3, 3}, codec::TensorPolicy::kQuantise}};
}

std::vector<codec::TensorLayout> RandomTensors(base::Prng& prng) {
  std::vector<codec::TensorLayout> tensors;
  const uint64_t count = 1 + prng.Below(prng.Below(8) == 0 ? 80 : 6);
  for (uint64_t t = 0; t < count; ++t) {
    codec::TensorLayout tensor;
    if (prng.Below(6) == 0) tensor.policy = codec::TensorPolicy::kFp32;
    const uint64_t rank = prng.Below(5);
    uint64_t left = 1 + prng.Below(kParams / count + 1);
    const uint64_t side = OneOf<uint64_t>(prng, {1, 3, 3, 5, 7});
    for (uint64_t d = 0; d < rank; ++d) {
      const bool is_kernel = rank == 4 && d >= 2;
      const uint64_t size = is_kernel ? side : 1 + prng.Below(1 + (d == 0 ? left / 4 : left));
      tensor.shape.push_back(size);
      left = std::max<uint64_t>(1, left / size);
    }
    tensors.push_back(std::move(tensor));
  }
  return tensors;
}

// Options at random until they go together. Each draw is a statement: the order of arguments is the
// compiler's.
codec::Spec RandomSpec(base::Prng& prng) {
  while (true) {
    const bool is_coarse = prng.Below(2) == 0;
    const uint64_t levels = 2 + prng.Below(is_coarse ? 15 : 255);
    const double step = std::exp2(4.0 * prng.Gaussian());
    std::string text =
        OneOf<const char*>(prng, {"fp32", "fp16", "int8", "uniform", "uniform", "bq", "bu", "bu"});
    if (text == "uniform") {
      absl::StrAppend(&text, ":", levels | 1, ",step=", step, "rms");
    } else if (text == "bq" || text == "bu") {
      absl::StrAppend(&text, ":", levels);
    }
    for (const char* option : {"round=stochastic", "scope=model", "repr=mean", "repr=gain",
                               "unbias=true", "zero=0.75", "transform=dct"}) {
      if (prng.Below(5) == 0) absl::StrAppend(&text, ",", option);
    }
    if (prng.Below(4) == 0) {
      absl::StrAppend(&text, ",scope=block:", 8 * (1 + prng.Below(is_coarse ? 8 : 80)));
    }
    if (prng.Below(2) == 0) {
      absl::StrAppend(&text, ",pack=rans");
      if (prng.Below(2) == 0) absl::StrAppend(&text, ",context=own");
    }
    if (const absl::StatusOr<codec::Spec> spec = codec::ParseSpec(text); spec.ok()) return *spec;
  }
}

// Peaked, of some size that tensors, rows and columns differ in; with zeros, constants and, seldom,
// numbers from fp32's ends.
std::vector<float> RandomDelta(base::Prng& prng, const std::vector<codec::TensorLayout>& tensors) {
  std::vector<float> delta;
  const double unit = std::exp2(prng.Below(4) == 0 ? 30 * prng.Gaussian() : -8);
  for (const codec::TensorLayout& tensor : tensors) {
    uint64_t size = 1;
    for (const uint64_t d : tensor.shape) size *= d;
    const uint64_t columns = tensor.shape.size() < 2 ? size : size / tensor.shape[0];
    const double of_tensor = unit * std::exp2(2 * prng.Gaussian());
    const uint64_t kind = prng.Below(12);
    double of_row = 1;
    for (uint64_t i = 0; i < size; ++i) {
      if (i % columns == 0) of_row = std::exp2(prng.Gaussian());
      const double x = prng.Gaussian();
      double value = of_tensor * of_row * x * x * x;
      if (kind == 0) value = of_tensor;
      if (kind == 1 || prng.Below(50) == 0) value = prng.Below(2) == 0 ? 0.0 : -0.0;
      if (prng.Below(20'000) == 0) value = OneOf(prng, {1e-45, -1e-39, 3e38, -3e38, 1.2e-38});
      delta.push_back(static_cast<float>(std::clamp(value, -3.4e38, 3.4e38)));
    }
  }
  return delta;
}

// Makes the header's checksum of codes that of the chunks, where these can be read.
void FitCodesChecksum(codec::EncodedUpdate& update, const codec::Layout& layout) {
  const absl::StatusOr<codec::UpdateHeader> header = codec::ParseHeader(update.header, layout);
  if (!header.ok() || header->chunk_count != update.chunks.size()) return;
  codec::CodesChecksum checksum;
  for (uint32_t i = 0; i < header->chunk_count; ++i) {
    const auto chunk = codec::ParseChunk(update.chunks[i], *header, layout, i);
    if (!chunk.ok()) return;
    checksum.Add(*chunk, *header);
  }
  wire::Store(update.header, wire::kCodesCrc, checksum.value());
  codec::Seal(update.header);
}

// One change of the header or of a chunk, or of what both say about their lengths.
void Change(codec::EncodedUpdate& update, base::Prng& prng) {
  const bool in_header = prng.Below(2) == 0;
  std::string& part = in_header ? update.header : update.chunks[prng.Below(update.chunks.size())];
  const size_t begin = in_header ? wire::kSide : wire::kChunkCodes;
  const size_t end = part.size() - wire::kCrcBytes;
  if (prng.Below(10) == 0) {
    // Longer or shorter, in a place of its own.
    const size_t at = begin + prng.Below(end - begin + 1);
    if (prng.Below(2) == 0) {
      part.insert(at, 1 + prng.Below(3), static_cast<char>(prng.NextU32()));
    } else {
      part.erase(at, std::min<size_t>(1 + prng.Below(3), end - at));
    }
    wire::Store(part, in_header ? wire::kSideSize : wire::kChunkCodeSize,
                static_cast<uint32_t>(part.size() - begin - wire::kCrcBytes));
  } else {
    // In the fields, in the first bytes of what follows, or anywhere in it.
    const std::pair<size_t, size_t> parts[] = {
        {0, begin}, {begin, std::min(end, begin + 16)}, {begin, end}};
    const auto [from, to] = parts[begin == end ? 0 : prng.Below(std::size(parts))];
    const size_t at = from + prng.Below(to - from);
    const auto byte = static_cast<uint8_t>(part[at]);
    const uint8_t changed[] = {static_cast<uint8_t>(byte ^ 1u << prng.Below(8)),
                               static_cast<uint8_t>(byte + 1),
                               static_cast<uint8_t>(byte - 1),
                               static_cast<uint8_t>(prng.NextU32()),
                               0,
                               0x7f,
                               0x80,
                               0xff};
    part[at] = static_cast<char>(changed[prng.Below(std::size(changed))]);
  }
  codec::Seal(part);
}

void Print(const codec::EncodedUpdate& update, const codec::Layout& layout, nlohmann::json line) {
  line["update"] = absl::Base64Escape(codec::SerializeUpdate(update));
  const auto values = codec::Decode(update.header, update.chunks, layout);
  if (values.ok()) {
    line["values_sha256"] = base::Sha256({reinterpret_cast<const char*>(values->data()),
                                          values->size() * sizeof(float)})
                                .Hex();
  } else {
    line["refused"] = std::string(values.status().message());
  }
  std::printf("%s\n", line.dump().c_str());
}

void PrintRandom(base::Prng& prng, uint64_t index) {
  const bool is_large = index % kLargeEvery == kLargeEvery - 1;
  const std::vector<codec::TensorLayout> tensors = is_large ? LargeTensors() : RandomTensors(prng);
  const std::string digest(base::Sha256(absl::StrCat(prng.NextU64())).AsBytes());
  const codec::Layout layout = *codec::Layout::Create(tensors, digest);
  const std::vector<float> delta = RandomDelta(prng, tensors);
  nlohmann::json line;
  line["schema_digest"] = absl::BytesToHexString(digest);
  for (const codec::TensorLayout& tensor : tensors) {
    const bool is_fp32 = tensor.policy == codec::TensorPolicy::kFp32;
    line["tensors"].push_back({{"shape", tensor.shape}, {"policy", is_fp32 ? "fp32" : "quantise"}});
  }
  // Some numbers are beyond what some quantisers send.
  absl::StatusOr<codec::EncodedUpdate> update;
  codec::Spec spec;
  do {
    do spec = RandomSpec(prng);
    while (is_large && codec::ChunkCount(spec, layout) == 1);
    update = codec::Encode(delta, layout, spec, {.run_seed = prng.NextU64(), .round = 1});
  } while (!update.ok());
  line["spec"] = codec::ToString(spec);
  Print(*update, layout, line);
  for (int i = 0; i < (is_large ? 0 : kChanges); ++i) {
    codec::EncodedUpdate changed = *update;
    for (uint64_t n = 1 + prng.Below(2); n > 0; --n) Change(changed, prng);
    if (prng.Below(8) != 0) FitCodesChecksum(changed, layout);
    line["changed"] = i;
    Print(changed, layout, line);
  }
}

}  // namespace
}  // namespace quantfl

int main(int argc, char** argv) {
  uint64_t seed = 0;
  uint64_t count = 0;
  if (argc != 3 || !absl::SimpleAtoi(argv[1], &seed) || !absl::SimpleAtoi(argv[2], &count)) {
    std::fprintf(stderr, "usage: random_updates SEED COUNT\n");
    return 2;
  }
  quantfl::base::Prng prng({.run_seed = seed, .purpose = quantfl::base::PrngPurpose::kSynthetic});
  for (uint64_t i = 0; i < count; ++i) quantfl::PrintRandom(prng, i);
  return 0;
}
