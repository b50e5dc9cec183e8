#include "common/app/config.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/app/config_text.h"
#include "common/app/version.h"
#include "common/base/check.h"

namespace quantfl::app {
namespace {

constexpr size_t kHelpWidth = 100;

std::string SectionOf(absl::string_view name) {
  const size_t dot = name.find('.');
  return std::string(dot == absl::string_view::npos ? "" : name.substr(0, dot));
}

bool IsName(absl::string_view name) {
  return !name.empty() && name.find_first_not_of("abcdefghijklmnopqrstuvwxyz0123456789_.") ==
                              absl::string_view::npos;
}

std::string WithUnit(const std::string& expected, const Doc& doc) {
  return doc.unit.empty() ? expected : absl::StrCat(expected, " (", doc.unit, ")");
}

std::string RangeText(const RealRange& range) {
  const bool low = range.min > -std::numeric_limits<double>::max();
  const bool high = range.max < std::numeric_limits<double>::max();
  if (low && high) {
    return absl::StrCat(range.min_excluded ? "(" : "[", ToToml(range.min), ", ", ToToml(range.max),
                        range.max_excluded ? ")" : "]");
  }
  if (low) return absl::StrCat(range.min_excluded ? "> " : ">= ", ToToml(range.min));
  if (high) return absl::StrCat(range.max_excluded ? "< " : "<= ", ToToml(range.max));
  return "";
}

}  // namespace

Config::Config(std::string program, std::string summary)
    : program_(std::move(program)), summary_(std::move(summary)) {
  sections_.push_back({"", ""});
}

void Config::Section(const std::string& name, const std::string& help) {
  QFL_CHECK(IsName(name) && !HasSection(name) && Find(name) == nullptr);
  sections_.push_back({name, help});
}

void Config::Add(Key key) {
  QFL_CHECK(IsName(key.name) && Find(key.name) == nullptr);
  const std::string section = SectionOf(key.name);
  QFL_CHECK(section == sections_.back().name);
  for (const Key& other : keys_) {
    // training.batch_size and training_batch.size would be one variable.
    QFL_CHECK(EnvironmentName(other.name) != EnvironmentName(key.name));
  }
  const std::optional<Value> current = key.current();
  if (current.has_value()) key.default_value = ToToml(*current);
  keys_.push_back(std::move(key));
}

void Config::Text(const std::string& name, std::string* target, TextRule rule, Doc doc) {
  Key key;
  key.name = name;
  key.type = Type::kText;
  const bool empty_allowed = target->empty() && !doc.required;
  if (!rule.choices.empty()) {
    key.range = absl::StrJoin(rule.choices, " | ");
    key.expected = absl::StrCat("one of \"", absl::StrJoin(rule.choices, "\", \""), "\"");
  } else {
    key.range = rule.expected;
    key.expected = rule.expected.empty() ? (empty_allowed ? "a text" : "a text that is not empty")
                                         : absl::StrCat("a text: ", rule.expected);
  }
  key.expected = WithUnit(key.expected, doc);
  key.doc = std::move(doc);
  key.check = [rule = std::move(rule), empty_allowed](const Value& value) -> absl::Status {
    const auto& text = std::get<std::string>(value);
    if (text.empty() && empty_allowed) return absl::OkStatus();
    if (text.empty()) return absl::InvalidArgumentError("");
    if (!IsUtf8(text)) return absl::InvalidArgumentError("this is not UTF-8");
    if (!rule.choices.empty() &&
        std::find(rule.choices.begin(), rule.choices.end(), text) == rule.choices.end()) {
      return absl::InvalidArgumentError("");
    }
    return rule.check ? rule.check(text) : absl::OkStatus();
  };
  key.assign = [target](const Value& value) { *target = std::get<std::string>(value); };
  key.current = [target]() -> std::optional<Value> { return Value(*target); };
  Add(std::move(key));
}

void Config::Bool(const std::string& name, bool* target, Doc doc) {
  Key key;
  key.name = name;
  key.type = Type::kBool;
  key.range = "true | false";
  key.expected = "true or false";
  key.doc = std::move(doc);
  key.check = [](const Value&) { return absl::OkStatus(); };
  key.assign = [target](const Value& value) { *target = std::get<bool>(value); };
  key.current = [target]() -> std::optional<Value> { return Value(*target); };
  Add(std::move(key));
}

void Config::AddInteger(const std::string& name, std::function<void(int64_t)> set,
                        std::function<std::optional<int64_t>()> get, int64_t min, int64_t max,
                        Doc doc) {
  Key key;
  key.name = name;
  key.type = Type::kInteger;
  key.range = absl::StrCat(min, "..", max);
  key.expected = WithUnit(absl::StrCat("an integer in ", key.range), doc);
  key.doc = std::move(doc);
  key.check = [min, max](const Value& value) -> absl::Status {
    const int64_t v = std::get<int64_t>(value);
    return v >= min && v <= max ? absl::OkStatus() : absl::InvalidArgumentError("");
  };
  key.assign = [set = std::move(set)](const Value& value) { set(std::get<int64_t>(value)); };
  key.current = [get = std::move(get)]() -> std::optional<Value> {
    const std::optional<int64_t> v = get();
    if (!v.has_value()) return std::nullopt;
    return Value(*v);
  };
  Add(std::move(key));
}

void Config::AddReal(const std::string& name, std::function<void(double)> set,
                     std::function<std::optional<double>()> get, RealRange range, Doc doc) {
  Key key;
  key.name = name;
  key.type = Type::kReal;
  key.range = RangeText(range);
  key.expected =
      WithUnit(key.range.empty()
                   ? "a real number"
                   : absl::StrCat("a real number ",
                                  range.min > -1e300 && range.max < 1e300 ? "in " : "", key.range),
               doc);
  key.doc = std::move(doc);
  key.check = [range](const Value& value) -> absl::Status {
    const double v = std::get<double>(value);
    const bool low = range.min_excluded ? v > range.min : v >= range.min;
    const bool high = range.max_excluded ? v < range.max : v <= range.max;
    return std::isfinite(v) && low && high ? absl::OkStatus() : absl::InvalidArgumentError("");
  };
  key.assign = [set = std::move(set)](const Value& value) { set(std::get<double>(value)); };
  key.current = [get = std::move(get)]() -> std::optional<Value> {
    const std::optional<double> v = get();
    if (!v.has_value()) return std::nullopt;
    return Value(*v);
  };
  Add(std::move(key));
}

void Config::Real(const std::string& name, double* target, RealRange range, Doc doc) {
  AddReal(
      name, [target](double v) { *target = v; },
      [target]() -> std::optional<double> { return *target; }, range, std::move(doc));
}

void Config::Real(const std::string& name, std::optional<double>* target, RealRange range,
                  Doc doc) {
  AddReal(
      name, [target](double v) { *target = v; }, [target] { return *target; }, range,
      std::move(doc));
}

void Config::Reals(const std::string& name, std::vector<double>* target, RealRange range, Doc doc) {
  Key key;
  key.name = name;
  key.type = Type::kReals;
  key.range = RangeText(range);
  key.expected =
      WithUnit(absl::StrCat("a real number or a list of them", key.range.empty() ? "" : ", each ",
                            range.min > -1e300 && range.max < 1e300 ? "in " : "", key.range),
               doc);
  key.doc = std::move(doc);
  key.check = [range](const Value& value) -> absl::Status {
    const auto& numbers = std::get<std::vector<double>>(value);
    for (const double v : numbers) {
      const bool low = range.min_excluded ? v > range.min : v >= range.min;
      const bool high = range.max_excluded ? v < range.max : v <= range.max;
      if (!std::isfinite(v) || !low || !high) return absl::InvalidArgumentError("");
    }
    return numbers.empty() ? absl::InvalidArgumentError("") : absl::OkStatus();
  };
  key.assign = [target](const Value& value) { *target = std::get<std::vector<double>>(value); };
  key.current = [target]() -> std::optional<Value> {
    if (target->empty()) return std::nullopt;
    return Value(*target);
  };
  Add(std::move(key));
}

void Config::Duration(const std::string& name, absl::Duration* target, absl::Duration min,
                      absl::Duration max, Doc doc) {
  const auto has_unit = [&name](absl::string_view unit) {
    return absl::EndsWith(name, unit) || absl::EndsWith(name, absl::StrCat(unit, "_min")) ||
           absl::EndsWith(name, absl::StrCat(unit, "_max"));
  };
  const bool milliseconds = has_unit("_ms");
  QFL_CHECK(milliseconds || has_unit("_s"));
  const auto number = [milliseconds](absl::Duration d) {
    return milliseconds ? absl::ToDoubleMilliseconds(d) : absl::ToDoubleSeconds(d);
  };
  doc.unit = milliseconds ? "milliseconds" : "seconds";
  AddReal(
      name,
      [target, milliseconds](double v) {
        *target = milliseconds ? absl::Milliseconds(v) : absl::Seconds(v);
      },
      [target, number]() -> std::optional<double> { return number(*target); },
      {.min = number(min), .max = number(max)}, std::move(doc));
}

void Config::List(const std::string& name, std::vector<std::string>* target, Doc doc) {
  Key key;
  key.name = name;
  key.type = Type::kList;
  key.range = "texts";
  key.expected = WithUnit("a list of texts that are not empty", doc);
  key.doc = std::move(doc);
  key.check = [](const Value& value) -> absl::Status {
    for (const std::string& item : std::get<std::vector<std::string>>(value)) {
      if (item.empty()) return absl::InvalidArgumentError("");
      if (!IsUtf8(item)) return absl::InvalidArgumentError("this is not UTF-8");
    }
    return absl::OkStatus();
  };
  key.assign = [target](const Value& value) {
    *target = std::get<std::vector<std::string>>(value);
  };
  key.current = [target]() -> std::optional<Value> { return Value(*target); };
  Add(std::move(key));
}

void Config::Check(std::vector<std::string> keys, std::function<absl::Status()> rule) {
  QFL_CHECK(!keys.empty());
  for (const std::string& key : keys) QFL_CHECK(Find(key) != nullptr);
  rules_.push_back({std::move(keys), std::move(rule)});
}

const Config::Key* Config::Find(absl::string_view name) const {
  for (const Key& key : keys_) {
    if (key.name == name) return &key;
  }
  return nullptr;
}

bool Config::HasSection(absl::string_view name) const {
  return std::any_of(sections_.begin(), sections_.end(),
                     [name](const SectionDoc& s) { return s.name == name; });
}

std::string Config::Suggest(absl::string_view name) const {
  const Key* best = nullptr;
  size_t best_distance = std::max<size_t>(2, name.size() / 3) + 1;
  for (const Key& key : keys_) {
    // A right name in a wrong section is one slip, however long the section's name.
    const size_t distance = LastPart(key.name) == LastPart(name) ? 1 : EditDistance(key.name, name);
    if (distance < best_distance) best = &key, best_distance = distance;
  }
  return best == nullptr ? "" : absl::StrCat(" (did you mean \"", best->name, "\"?)");
}

std::string Config::Print() const {
  std::string out = absl::StrCat("# Configuration of ", program_, " ", kVersion, ".\n");
  for (const SectionDoc& section : sections_) {
    const bool any = std::any_of(keys_.begin(), keys_.end(), [&section](const Key& key) {
      return SectionOf(key.name) == section.name;
    });
    if (!any) continue;
    if (!section.name.empty()) absl::StrAppend(&out, "\n[", section.name, "]\n");
    for (const Key& key : keys_) {
      if (SectionOf(key.name) != section.name) continue;
      const std::optional<Value> value = key.current();
      const bool unset = !value.has_value() || (*value == Value(std::string()));
      std::vector<std::string> notes;
      const absl::string_view last = LastPart(key.name);
      const bool named = absl::StrContains(last, key.doc.unit) ||
                         (key.doc.unit == "milliseconds" && absl::StrContains(last, "_ms"));
      if (!named) notes.push_back(key.doc.unit);
      if (unset && !key.doc.unset.empty()) {
        notes.push_back(absl::StrCat("unset: ", key.doc.unset));
      }
      std::string line = absl::StrCat(value.has_value() ? "" : "# ", LastPart(key.name), " = ",
                                      value.has_value() ? ToToml(*value) : "");
      if (!notes.empty()) absl::StrAppend(&line, "  # ", absl::StrJoin(notes, "; "));
      absl::StrAppend(&out, line, "\n");
    }
  }
  return out;
}

std::string Config::Help() const {
  std::string out = Wrap(absl::StrCat(program_, " ", kVersion, ": ", summary_), 0, kHelpWidth);
  absl::StrAppend(&out, "\nusage: ", program_, " --config FILE [--KEY VALUE ...]\n\n");
  absl::StrAppend(&out, "  --config FILE    the configuration, TOML (QUANTFL_CONFIG)\n",
                  "  --print-config   print the effective configuration as TOML and end\n",
                  "  --version, -V    print the version and end\n",
                  "  --help, -h       print this and end\n\n");
  absl::StrAppend(
      &out,
      Wrap("Every key below can stand in the file, in the environment (training.batch_size is "
           "QUANTFL_TRAINING_BATCH_SIZE) and on the command line (--training.batch_size 32). A "
           "flag is "
           "preferred to the environment, the environment to the file, and the log says so. "
           "Relative "
           "paths start at the working folder. A list is written a,b or as TOML, [\"a\", \"b\"].",
           0, kHelpWidth));
  for (const SectionDoc& section : sections_) {
    const bool any = std::any_of(keys_.begin(), keys_.end(), [&section](const Key& key) {
      return SectionOf(key.name) == section.name;
    });
    if (!any) continue;
    out += "\n";
    if (!section.name.empty()) {
      absl::StrAppend(&out,
                      Wrap(absl::StrCat("[", section.name, "] ", section.help), 0, kHelpWidth));
    }
    for (const Key& key : keys_) {
      if (SectionOf(key.name) != section.name) continue;
      absl::string_view kind;
      switch (key.type) {
        case Type::kText:
          kind = "TEXT";
          break;
        case Type::kInteger:
          kind = "INTEGER";
          break;
        case Type::kReal:
          kind = "REAL";
          break;
        case Type::kBool:
          kind = "BOOL";
          break;
        case Type::kList:
          kind = "LIST";
          break;
        case Type::kReals:
          kind = "REALS";
          break;
      }
      absl::StrAppend(&out, "  --", key.name,
                      key.doc.flag.empty() ? "" : absl::StrCat(", --", key.doc.flag), " ", kind,
                      "\n");
      std::vector<std::string> facts;
      if (!key.range.empty()) facts.push_back(key.range);
      if (!key.doc.unit.empty()) facts.push_back(key.doc.unit);
      if (key.doc.required) {
        facts.push_back("required");
      } else if (!key.doc.unset.empty()) {
        facts.push_back(absl::StrCat("default: ", key.doc.unset));
      } else {
        facts.push_back(absl::StrCat("default: ", key.default_value));
      }
      absl::StrAppend(&out, Wrap(absl::StrCat(key.doc.help, " [", absl::StrJoin(facts, "; "), "]"),
                                 6, kHelpWidth));
    }
  }
  absl::StrAppend(
      &out, "\n",
      Wrap(
          "Exit codes: 0 done, or stopped by SIGTERM or SIGINT; 1 the run failed; 64 usage or "
          "configuration; 65 corrupt or unsuitable file; 66 missing file; 69 nobody answers, or an "
          "address in use; 70 internal; 73 cannot create a file; 75 a limit was hit; 77 not "
          "permitted; 130 the second SIGINT.",
          0, kHelpWidth));
  return out;
}

void LogOverrides(const LoadResult& loaded, base::Logger& logger) {
  for (const Override& o : loaded.overrides) {
    logger.Info("config_override", {{"key", o.key},
                                    {"value", o.value},
                                    {"source", o.source},
                                    {"replaces", o.replaces},
                                    {"replaced_source", o.replaced_source}});
  }
  for (const std::string& warning : loaded.warnings) {
    logger.Warning("config_warning", {{"message", warning}});
  }
}

}  // namespace quantfl::app
