#include "common/model/near_misses.h"

#include <algorithm>
#include <numeric>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_replace.h"

namespace quantfl::model {
namespace {

constexpr size_t kTextMax = 256;  // a tensor's name is no longer

// Insertions, deletions and replacements of characters that make `a` of `b`.
size_t EditDistance(absl::string_view a, absl::string_view b) {
  std::vector<size_t> row(b.size() + 1);
  std::iota(row.begin(), row.end(), size_t{0});
  for (size_t i = 0; i < a.size(); ++i) {
    size_t diagonal = row[0];
    row[0] = i + 1;
    for (size_t j = 0; j < b.size(); ++j) {
      const size_t replaced = diagonal + (a[i] == b[j] ? 0 : 1);
      diagonal = row[j + 1];
      row[j + 1] = std::min({replaced, row[j] + 1, diagonal + 1});
    }
  }
  return row.back();
}

}  // namespace

std::vector<std::string> NearMisses(absl::string_view text, const Schema& schema, size_t most) {
  const std::string plain = absl::StrReplaceAll(text.substr(0, kTextMax), {{"*", ""}, {"?", ""}});
  std::vector<std::pair<size_t, const std::string*>> alike;
  if (!plain.empty()) {
    for (const TensorInfo& tensor : schema.tensors()) {
      const std::string& name = tensor.name;
      const absl::string_view start = absl::string_view(name).substr(0, plain.size());
      const size_t whole = EditDistance(plain, name), begun = EditDistance(plain, start);
      const size_t distance = std::min(whole, begun);
      if (whole <= std::max(plain.size(), name.size()) / 3 || begun <= plain.size() / 3 ||
          absl::StrContains(name, plain) || absl::StrContains(plain, name)) {
        alike.emplace_back(distance, &name);
      }
    }
  }
  std::stable_sort(alike.begin(), alike.end(),
                   [](const auto& a, const auto& b) { return a.first < b.first; });
  std::vector<std::string> names;
  for (size_t i = 0; i < std::min(most, alike.size()); ++i) names.push_back(*alike[i].second);
  return names;
}

}  // namespace quantfl::model
