#ifndef QUANTFL_TESTS_FUZZ_FUZZ_SUPPORT_H_
#define QUANTFL_TESTS_FUZZ_FUZZ_SUPPORT_H_

#include <cstddef>
#include <cstdint>
#include <string>

#include "absl/strings/string_view.h"
#include "common/codec/wire.h"
#include "tests/golden/golden_cases.h"
#include "tests/support/seal.h"

namespace quantfl::fuzz {

inline absl::string_view View(const uint8_t* data, size_t size) {
  return {reinterpret_cast<const char*>(data), size};
}

// The input with a checksum that fits, which mutation alone does not find.
inline std::string Sealed(absl::string_view input) {
  std::string bytes(input);
  if (bytes.size() >= codec::wire::kCrcBytes) codec::Seal(bytes);
  return bytes;
}

// A chunk is judged against a header of one of these.
inline constexpr const char* kChunkSpecs[] = {"fp32",
                                              "bu:5",
                                              "fp16",
                                              "int8",
                                              "bq:5",
                                              "bu:5,scope=block:8",
                                              "bq:3,scope=block:8",
                                              "bu:7,scope=model",
                                              "bu:16,pack=rans",
                                              "uniform:5,repr=gain,step=0.5rms",
                                              "uniform:15,step=2rms,pack=rans",
                                              "bu:200,scope=block:8,pack=rans"};

// Every input is judged against this update's layout.
inline const golden::Case& Reference() {
  static const golden::Case* const reference = [] {
    for (const golden::Case& golden : golden::Cases()) {
      if (golden.name == "bu_5") return new golden::Case(golden);
    }
    return static_cast<golden::Case*>(nullptr);
  }();
  return *reference;
}

inline const codec::Layout& ReferenceLayout() {
  static const auto* const layout = new codec::Layout(Reference().MakeLayout());
  return *layout;
}

// Tensors with exponents of rows, columns and positions, some without, one in full precision: as
// few parameters as that takes, since fitting them is what an input costs.
inline const codec::Layout& ContextLayout() {
  using codec::TensorPolicy;
  static const auto* const layout =
      new codec::Layout(*codec::Layout::Create({{{8, 12}, TensorPolicy::kQuantise},
                                                {{3}, TensorPolicy::kFp32},
                                                {{4, 4, 3, 3}, TensorPolicy::kQuantise},
                                                {{7}, TensorPolicy::kQuantise},
                                                {{1, 16, 2, 1}, TensorPolicy::kQuantise}},
                                               std::string(32, 'c')));
  return *layout;
}
// The codes that contexts are chosen for.
inline constexpr const char* kContextSpecs[] = {"bu:16", "uniform:7", "bu:3", "int8"};

}  // namespace quantfl::fuzz

#endif  // QUANTFL_TESTS_FUZZ_FUZZ_SUPPORT_H_
