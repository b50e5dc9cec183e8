#include "common/model/trainable.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "common/base/status.h"
#include "common/model/near_misses.h"

namespace quantfl::model {
namespace {

constexpr size_t kNearMissesShown = 4;

// Shell-like; linear in pattern x name.
bool Matches(absl::string_view pattern, absl::string_view name) {
  size_t p = 0, n = 0;
  size_t star = absl::string_view::npos, resume = 0;
  while (n < name.size()) {
    if (p < pattern.size() && (pattern[p] == '?' || pattern[p] == name[n]) && pattern[p] != '*') {
      ++p;
      ++n;
    } else if (p < pattern.size() && pattern[p] == '*') {
      star = p++;
      resume = n;
    } else if (star != absl::string_view::npos) {
      p = star + 1;
      n = ++resume;
    } else {
      return false;
    }
  }
  while (p < pattern.size() && pattern[p] == '*') ++p;
  return p == pattern.size();
}

// What training changes by gradients, as opposed to running statistics.
bool IsParameter(const TensorInfo& tensor) {
  return !absl::EndsWith(tensor.name, ".running_mean") &&
         !absl::EndsWith(tensor.name, ".running_var") &&
         !absl::EndsWith(tensor.name, ".num_batches_tracked");
}

std::string Shown(absl::string_view text) {
  return absl::StrCat("\"", absl::CHexEscape(text.substr(0, 100)), "\"");
}

// K of "head" and "last:K", 0 where `trainable` is neither.
absl::StatusOr<uint64_t> Layers(absl::string_view trainable) {
  if (trainable == "head") return 1;
  absl::string_view digits = trainable;
  if (!absl::ConsumePrefix(&digits, "last:")) return 0;
  uint64_t layers = 0;
  if (!std::all_of(digits.begin(), digits.end(), absl::ascii_isdigit) ||
      !absl::SimpleAtoi(digits, &layers) || layers < 1) {
    return absl::InvalidArgumentError(absl::StrCat(
        "trainable ", Shown(trainable), ": last:K takes a number of layers, at least 1"));
  }
  return layers;
}

absl::StatusOr<std::vector<bool>> SelectLast(const Schema& schema, uint64_t layers) {
  const std::vector<TensorInfo>& tensors = schema.tensors();
  const auto starts_layer = [](const TensorInfo& t) { return t.shape.size() >= 2; };
  const auto there =
      static_cast<uint64_t>(std::count_if(tensors.begin(), tensors.end(), starts_layer));
  if (layers > there) {
    return absl::InvalidArgumentError(absl::StrCat("trainable: the last ", layers, " layers, but ",
                                                   schema.architecture(), " has ", there));
  }
  std::vector<bool> selected(tensors.size(), false);
  uint64_t begun = 0;
  for (size_t i = tensors.size(); i-- > 0 && begun < layers;) {
    selected[i] = true;
    begun += starts_layer(tensors[i]);
  }
  return selected;
}

absl::StatusOr<std::vector<bool>> SelectByPatterns(const Schema& schema,
                                                   absl::string_view trainable) {
  std::vector<bool> selected(schema.tensors().size(), false);
  for (const absl::string_view piece : absl::StrSplit(trainable, ',')) {
    const absl::string_view pattern = absl::StripAsciiWhitespace(piece);
    bool any = false;
    for (size_t i = 0; i < selected.size(); ++i) {
      if (!Matches(pattern, schema.tensors()[i].name)) continue;
      selected[i] = any = true;
    }
    if (any) continue;
    const std::vector<std::string> near = NearMisses(pattern, schema, kNearMissesShown);
    return absl::InvalidArgumentError(absl::StrCat(
        "trainable ", Shown(pattern), " matches no tensor of ", schema.architecture(),
        near.empty() ? absl::StrCat(", whose first is ", Shown(schema.tensors().front().name))
                     : absl::StrCat("; near: ", absl::StrJoin(near, ", "))));
  }
  return selected;
}

}  // namespace

absl::StatusOr<Schema> FreezeStatistics(const Schema& schema) {
  std::vector<TensorInfo> tensors = schema.tensors();
  for (TensorInfo& tensor : tensors) {
    if (!IsParameter(tensor)) tensor.policy = Policy::kSkip;
  }
  return Schema::Create(schema.architecture(), std::move(tensors));
}

absl::Status CheckTrainable(absl::string_view trainable) {
  QFL_RETURN_IF_ERROR(Layers(trainable).status());
  for (const absl::string_view pattern : absl::StrSplit(trainable, ',')) {
    if (absl::StripAsciiWhitespace(pattern).empty()) {
      return absl::InvalidArgumentError(
          absl::StrCat("trainable ", Shown(trainable),
                       ": expected all, head, last:K, or patterns of tensor names with commas "
                       "between them"));
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<Schema> ApplyTrainable(const Schema& schema, absl::string_view trainable) {
  QFL_RETURN_IF_ERROR(CheckTrainable(trainable));
  QFL_ASSIGN_OR_RETURN(const uint64_t layers, Layers(trainable));
  std::vector<bool> selected(schema.tensors().size(), true);
  if (layers > 0) {
    QFL_ASSIGN_OR_RETURN(selected, SelectLast(schema, layers));
  } else if (trainable != "all") {
    QFL_ASSIGN_OR_RETURN(selected, SelectByPatterns(schema, trainable));
  }
  std::vector<TensorInfo> tensors = schema.tensors();
  bool trains = false;
  for (size_t i = 0; i < tensors.size(); ++i) {
    if (!selected[i]) tensors[i].policy = Policy::kSkip;
    trains = trains || (tensors[i].policy != Policy::kSkip && IsParameter(tensors[i]));
  }
  if (!trains) {
    return absl::InvalidArgumentError(
        absl::StrCat("trainable ", Shown(trainable),
                     " selects running statistics alone: there is no parameter to train"));
  }
  return Schema::Create(schema.architecture(), std::move(tensors));
}

}  // namespace quantfl::model
