#ifndef QUANTFL_COMMON_CODEC_CONTEXT_FIT_H_
#define QUANTFL_COMMON_CODEC_CONTEXT_FIT_H_

// The encoder's choice of contexts: exponents and tables for the codes of an update. Integers
// alone, so the same codes get the same contexts on every machine; what it chooses is no part of
// the format.

#include <cstdint>
#include <optional>
#include <string>

#include "absl/types/span.h"
#include "common/codec/context.h"
#include "common/codec/spec.h"

namespace quantfl::codec {

struct ContextFit {
  ContextModel model;
  std::string section;  // of the header
  // Of the section and all codes together, without states and chunk fields; exact to the coder's
  // rounding of a few bytes a chunk. What a rate control wants to know.
  uint64_t expected_bytes = 0;
  // About what one table for each tensor would take without contexts, the tables not counted.
  uint64_t plain_bytes = 0;
};

// Nothing if the layout has 2^28 parameters, or more than 64 quantised tensors whose zeros have
// codes of their own (bu and bq with scope tensor): README.md says why.
//   codes  [layout.n()], below spec.levels; at the places of fp32 tensors anything
// Two passes over the codes, and a few over a sample of those that are not the commonest. Memory:
// some tens of bytes for each row, column, position, and place in a row.
std::optional<ContextFit> FitContexts(absl::Span<const uint8_t> codes, const Layout& layout,
                                      const Spec& spec);

}  // namespace quantfl::codec

#endif  // QUANTFL_COMMON_CODEC_CONTEXT_FIT_H_
