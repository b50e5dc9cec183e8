// Rate control of whatever values: within its limit or an error, and what it gives decodes.
//   input: which spec, u16 limit, then fp32 values

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <iterator>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/base/check.h"
#include "common/codec/update.h"
#include "tests/fuzz/fuzz_support.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace quantfl;
  constexpr size_t kFront = 3;
  constexpr size_t kValuesMax = 64;  // each costs up to 48 encodings
  if (size < kFront + sizeof(float)) return 0;
  const uint8_t choice = data[0];
  uint16_t limit;
  std::memcpy(&limit, data + 1, sizeof(limit));
  std::vector<float> delta(std::min(kValuesMax, (size - kFront) / sizeof(float)));
  std::memcpy(delta.data(), data + kFront, delta.size() * sizeof(float));
  for (float& x : delta) x = std::isfinite(x) ? x : 1.0f;

  static constexpr const char* kHeads[] = {"uniform:31", "uniform:15,repr=gain,zero=0.75", "bu:16",
                                           "bq:8", "bu:8,repr=mean,unbias=true"};
  const bool is_size = (choice & 1) != 0;
  const std::string text =
      absl::StrCat(kHeads[(choice >> 1) % std::size(kHeads)],
                   is_size ? absl::StrCat(",max_bytes=", limit + 1)
                           : absl::StrCat(",target_nmse=", (limit + 1) / 65537.0),
                   ",pack=rans");
  // One tensor, or two.
  const uint64_t first = (choice & 128) != 0 ? delta.size() / 2 : 0;
  std::vector<codec::TensorLayout> tensors;
  if (first > 0) tensors.push_back({{first}, codec::TensorPolicy::kQuantise});
  tensors.push_back({{delta.size() - first}, codec::TensorPolicy::kQuantise});
  const codec::Layout layout = *codec::Layout::Create(tensors, std::string(32, 'd'));
  const codec::Spec spec = *codec::ParseSpec(text);
  const auto update = codec::Encode(delta, layout, spec, {.run_seed = choice});
  if (!update.ok()) {
    QFL_CHECK(absl::IsInvalidArgument(update.status()));
    return 0;
  }
  if (is_size) QFL_CHECK(update->payload.total() <= limit + 1u);
  const auto header = codec::ParseHeader(update->header, layout);
  QFL_CHECK(header.ok() && codec::Fulfils(header->spec, spec));
  QFL_CHECK(codec::Decode(update->header, update->chunks, layout).ok());
  return 0;
}
