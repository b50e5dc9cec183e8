#include "client/model/name_map.h"

#include <map>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "common/base/status.h"
#include "common/model/architectures.h"
#include "common/model/near_misses.h"

namespace quantfl::model_tool {
namespace {

constexpr size_t kNearMissesShown = 4;

struct Rule {
  absl::string_view from, to;  // without `*`
  bool prefix = false;
};

absl::StatusOr<Rule> ParseRule(absl::string_view line) {
  const std::pair<absl::string_view, absl::string_view> sides =
      absl::StrSplit(line, absl::MaxSplits('=', 1));
  Rule rule = {absl::StripAsciiWhitespace(sides.first), absl::StripAsciiWhitespace(sides.second)};
  rule.prefix = absl::ConsumeSuffix(&rule.from, ".*");
  const bool to_prefix = absl::ConsumeSuffix(&rule.to, ".*");
  if (rule.from.empty() || rule.to.empty() || rule.prefix != to_prefix ||
      absl::StrContains(rule.from, "*") || absl::StrContains(rule.to, "*")) {
    return absl::InvalidArgumentError(
        absl::StrCat("got \"", absl::CHexEscape(line.substr(0, 100)),
                     "\", expected \"name = new.name\" or \"module.* = new.module.*\""));
  }
  return rule;
}

// Whether the rule applies, and then the new name.
bool Rename(const Rule& rule, absl::string_view name, std::string& to) {
  if (!rule.prefix) {
    if (name != rule.from) return false;
    to = std::string(rule.to);
    return true;
  }
  if (!absl::ConsumePrefix(&name, rule.from) || !absl::StartsWith(name, ".")) return false;
  to = absl::StrCat(rule.to, name);
  return true;
}

absl::Status Nothing(const Rule& rule, const model::Schema& schema) {
  const std::vector<std::string> near = model::NearMisses(rule.from, schema, kNearMissesShown);
  return absl::InvalidArgumentError(
      absl::StrCat("\"", absl::CHexEscape(rule.from.substr(0, 100)), rule.prefix ? ".*" : "",
                   "\" is no trainable tensor of the module that is still to be named",
                   near.empty() ? absl::StrCat("; its first is ", schema.tensors().front().name)
                                : absl::StrCat("; near: ", absl::StrJoin(near, ", "))));
}

}  // namespace

absl::StatusOr<std::vector<std::string>> ApplyNameMap(absl::string_view text,
                                                      const model::Schema& schema) {
  const std::vector<model::TensorInfo>& tensors = schema.tensors();
  std::vector<std::string> names(tensors.size());
  std::vector<int> lines(tensors.size(), 0);  // that named it
  const std::vector<absl::string_view> rows = absl::StrSplit(text, '\n');
  for (size_t row = 0; row < rows.size(); ++row) {
    const absl::string_view line =
        absl::StripAsciiWhitespace(rows[row].substr(0, rows[row].find('#')));
    if (line.empty()) continue;
    const int number = static_cast<int>(row) + 1;
    const auto apply = [&]() -> absl::Status {
      QFL_ASSIGN_OR_RETURN(const Rule rule, ParseRule(line));
      bool any = false;
      for (size_t i = 0; i < tensors.size(); ++i) {
        if (lines[i] != 0 || !Rename(rule, tensors[i].name, names[i])) continue;
        lines[i] = number;
        any = true;
        if (model::DefaultPolicy(names[i]) != model::DefaultPolicy(tensors[i].name)) {
          return absl::InvalidArgumentError(
              absl::StrCat(tensors[i].name, " cannot be ", names[i],
                           ": names that end in .running_mean and .running_var are for running "
                           "statistics, and for them alone"));
        }
      }
      return any ? absl::OkStatus() : Nothing(rule, schema);
    };
    QFL_RETURN_IF_ERROR(base::Annotate(apply(), absl::StrCat("line ", number)));
  }
  // The client finds a tensor by its place in the file, and takes a name of the file at another
  // place for a mistake.
  std::map<absl::string_view, size_t> own, taken;
  for (size_t i = 0; i < tensors.size(); ++i) {
    if (lines[i] == 0) names[i] = tensors[i].name;
    own[tensors[i].name] = i;
  }
  for (size_t i = 0; i < tensors.size(); ++i) {
    const auto [first, fresh] = taken.emplace(names[i], i);
    const auto original = own.find(names[i]);
    const bool swapped = original != own.end() && original->second != i;
    if (fresh && !swapped) continue;
    const size_t other = fresh ? original->second : first->second;
    const int line = lines[i] != 0 ? lines[i] : lines[other];
    return absl::InvalidArgumentError(absl::StrCat("line ", line, ": ", names[i],
                                                   " would be the name of ", tensors[other].name,
                                                   " and of ", tensors[i].name));
  }
  return names;
}

}  // namespace quantfl::model_tool
