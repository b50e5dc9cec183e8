#include <algorithm>
#include <cstdlib>
#include <vector>

#include "common/codec/chunk_extents.h"
#include "common/codec/context.h"
#include "common/codec/context_fit.h"
#include "tests/fuzz/fuzz_support.h"

// The first byte: which codes, and in the highest bit whether what follows is parsed as a section
// or fitted as codes, repeated to the layout's length.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace quantfl;
  if (size < 2) return 0;
  const codec::Layout& layout = fuzz::ContextLayout();
  const absl::string_view rest = fuzz::View(data + 1, size - 1);
  static const auto* const specs = [] {
    auto* const parsed = new std::vector<codec::Spec>;
    for (const char* text : fuzz::kContextSpecs) parsed->push_back(*codec::ParseSpec(text));
    return parsed;
  }();
  const codec::Spec& spec = (*specs)[data[0] % specs->size()];
  if (data[0] < 128) {
    const auto model = codec::ParseContextSection(rest, layout, spec.levels);
    if (!model.ok()) return 0;
    for (const codec::Extent& extent : codec::ChunkExtents(spec, layout, 1u << 20, 0)) {
      if (extent.is_fp32) continue;
      std::vector<uint8_t> classes(extent.count);
      codec::FillClasses(*model, layout, extent, classes.data());
      for (const uint8_t c : classes) {
        if (c >= model->tables.size()) std::abort();
      }
    }
    return 0;
  }
  std::vector<uint8_t> codes(layout.n());
  for (size_t i = 0; i < codes.size(); ++i) {
    codes[i] = static_cast<uint8_t>(static_cast<uint8_t>(rest[i % rest.size()]) % spec.levels);
  }
  const auto fit = codec::FitContexts(codes, layout, spec);
  if (!fit.has_value()) std::abort();
  const auto model = codec::ParseContextSection(fit->section, layout, spec.levels);
  if (!model.ok() || model->tables != fit->model.tables) std::abort();
  return 0;
}
