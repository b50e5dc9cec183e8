// Config::Load: the three sources, and every mistake in them.

#include <toml++/toml.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <sstream>
#include <string_view>
#include <tuple>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "common/app/config.h"
#include "common/app/config_text.h"
#include "common/app/exit_codes.h"
#include "common/app/version.h"

namespace quantfl::app {
namespace {

constexpr uint64_t kFileBytesMax = 1u << 20;
constexpr char kConfigVariable[] = "QUANTFL_CONFIG";

std::string Std(absl::string_view text) { return std::string(text); }
absl::string_view Absl(std::string_view text) { return {text.data(), text.size()}; }

// What a node is, as a message shows it.
std::string Got(const toml::node& node) {
  if (node.is_table()) return "a table";
  if (node.is_array()) return absl::StrCat("an array of ", node.as_array()->size());
  if (const auto* text = node.as_string()) return Shorten(ToToml(text->get()));
  if (const auto* whole = node.as_integer()) return absl::StrCat(whole->get());
  if (const auto* real = node.as_floating_point()) return ToToml(real->get());
  if (const auto* truth = node.as_boolean()) return truth->get() ? "true" : "false";
  return "a date or time";
}

}  // namespace

struct Config::Loader {
  enum Source { kDefault, kFile, kEnvironment, kFlag };
  struct Setting {
    Source source;
    std::string where;  // "run.toml:3:9", "QUANTFL_SEED", "--seed"
    Value value;
  };
  // Mistakes of the file stand in its order, the others behind it in the order of their keys.
  struct Mistake {
    Source source;
    uint32_t line, column;
    std::string text;
  };

  static absl::string_view SourceName(Source source) {
    switch (source) {
      case kFile:
        return "file";
      case kEnvironment:
        return "environment";
      case kFlag:
        return "flag";
      default:
        return "default";
    }
  }

  Config& config;
  std::vector<Mistake> mistakes;
  std::map<std::string, std::vector<Setting>> settings;  // by key, in the order of sources
  std::map<std::string, bool> wrong;                     // keys with a mistake
  bool file_is_whole = true;

  void Report(Source source, const std::string& where, absl::string_view key,
              const std::string& got, const std::string& expected, uint32_t line = 0,
              uint32_t column = 0) {
    mistakes.push_back({source, line, column,
                        absl::StrCat(where, ": ", key, ": got ", got, ", expected ", expected)});
    wrong[Std(key)] = true;
  }

  // Keeps `value` if it may be.
  void Set(const Key& key, Source source, const std::string& where, Value value,
           const std::string& got, uint32_t line = 0, uint32_t column = 0) {
    const absl::Status status = key.check(value);
    if (status.ok()) {
      settings[key.name].push_back({source, where, std::move(value)});
      return;
    }
    std::string expected = key.expected;
    if (!status.message().empty()) absl::StrAppend(&expected, ": ", status.message());
    Report(source, where, key.name, got, expected, line, column);
  }

  static std::optional<Value> FromNode(Type type, const toml::node& node) {
    switch (type) {
      case Type::kText:
        if (const auto* text = node.as_string()) return Value(text->get());
        break;
      case Type::kInteger:
        if (const auto* whole = node.as_integer()) return Value(whole->get());
        break;
      case Type::kReal:
        if (const auto* real = node.as_floating_point()) return Value(real->get());
        if (const auto* whole = node.as_integer()) {
          return Value(static_cast<double>(whole->get()));
        }
        break;
      case Type::kBool:
        if (const auto* truth = node.as_boolean()) return Value(truth->get());
        break;
      case Type::kList:
        if (const auto* array = node.as_array()) {
          std::vector<std::string> items;
          for (const toml::node& item : *array) {
            const auto* text = item.as_string();
            if (text == nullptr) return std::nullopt;
            items.push_back(text->get());
          }
          return Value(std::move(items));
        }
        break;
      case Type::kReals: {
        std::vector<double> numbers;
        const auto add = [&numbers](const toml::node& item) {
          const std::optional<Value> real = FromNode(Type::kReal, item);
          if (real.has_value()) numbers.push_back(std::get<double>(*real));
          return real.has_value();
        };
        if (const auto* array = node.as_array()) {
          if (!std::all_of(array->begin(), array->end(), add)) return std::nullopt;
        } else if (!add(node)) {
          return std::nullopt;
        }
        return Value(std::move(numbers));
      }
    }
    return std::nullopt;
  }

  // A flag's or a variable's text. Lists are a,b or in TOML's syntax.
  static std::optional<Value> FromText(Type type, const std::string& text) {
    int64_t whole = 0;
    double real = 0;
    switch (type) {
      case Type::kText:
        return Value(text);
      case Type::kInteger:
        if (absl::SimpleAtoi(text, &whole)) return Value(whole);
        break;
      case Type::kReal:
        if (absl::SimpleAtod(text, &real)) return Value(real);
        break;
      case Type::kBool:
        if (text == "true") return Value(true);
        if (text == "false") return Value(false);
        break;
      case Type::kList:
        if (absl::StartsWith(text, "[")) {
          try {
            const toml::table table = toml::parse(absl::StrCat("list = ", text));
            return FromNode(Type::kList, *table.get("list"));
          } catch (const toml::parse_error&) {
            return std::nullopt;
          }
        }
        if (text.empty()) return Value(std::vector<std::string>());
        return Value(std::vector<std::string>(absl::StrSplit(text, ',')));
      case Type::kReals: {
        absl::string_view rest = text;
        if (absl::ConsumePrefix(&rest, "[") && !absl::ConsumeSuffix(&rest, "]")) {
          return std::nullopt;
        }
        std::vector<double> numbers;
        for (const absl::string_view part : absl::StrSplit(rest, ',')) {
          if (!absl::SimpleAtod(part, &real)) return std::nullopt;
          numbers.push_back(real);
        }
        return Value(std::move(numbers));
      }
    }
    return std::nullopt;
  }

  void SetText(const Key& key, Source source, const std::string& where, const std::string& text) {
    const std::string got = Shorten(ToToml(text));
    std::optional<Value> value = FromText(key.type, text);
    if (value.has_value()) {
      Set(key, source, where, *std::move(value), got);
    } else {
      Report(source, where, key.name, got, key.expected);
    }
  }

  void ReadNode(const std::string& file, const std::string& name, const toml::key& at,
                const toml::node& node) {
    const Key* key = config.Find(name);
    const toml::source_position key_place = at.source().begin;
    if (key == nullptr) {
      const bool section = node.is_table();
      Report(kFile, absl::StrCat(file, ":", key_place.line, ":", key_place.column), Shorten(name),
             section ? "an unknown section" : "an unknown key",
             absl::StrCat(section ? "a section" : "a key", " of this program",
                          section ? SuggestSection(name) : config.Suggest(name)),
             key_place.line, key_place.column);
      return;
    }
    // A table that dotted keys made has no place of its own.
    toml::source_position place = node.source().begin;
    if (place.line == 0) place = key_place;
    const std::string where = absl::StrCat(file, ":", place.line, ":", place.column);
    std::optional<Value> value = FromNode(key->type, node);
    if (value.has_value()) {
      Set(*key, kFile, where, *std::move(value), Got(node), place.line, place.column);
    } else {
      Report(kFile, where, name, Got(node), key->expected, place.line, place.column);
    }
  }

  std::string SuggestSection(const std::string& name) const {
    const std::string* best = nullptr;
    size_t best_distance = std::max<size_t>(2, name.size() / 3) + 1;
    for (const SectionDoc& section : config.sections_) {
      const size_t distance = EditDistance(section.name, name);
      if (!section.name.empty() && distance < best_distance) {
        best = &section.name, best_distance = distance;
      }
    }
    return best == nullptr ? "" : absl::StrCat(" (did you mean [", *best, "]?)");
  }

  void ReadFile(const std::string& file, const std::string& text) {
    toml::table root;
    try {
      root = toml::parse(text, file);
    } catch (const toml::parse_error& error) {
      const toml::source_position place = error.source().begin;
      mistakes.push_back({kFile, place.line, place.column,
                          absl::StrCat(file, ":", place.line, ":", place.column,
                                       ": syntax: ", Shorten(Std(Absl(error.description()))))});
      file_is_whole = false;
      return;
    }
    for (auto&& [key, node] : root) {
      const std::string name(key.str());
      if (!config.HasSection(name)) {
        ReadNode(file, name, key, node);
        continue;
      }
      const toml::table* table = node.as_table();
      if (table == nullptr) {
        const toml::source_position place = key.source().begin;
        Report(kFile, absl::StrCat(file, ":", place.line, ":", place.column), name, Got(node),
               absl::StrCat("the section [", name, "]"), place.line, place.column);
        continue;
      }
      for (auto&& [inner, value] : *table) {
        ReadNode(file, absl::StrCat(name, ".", Absl(inner.str())), inner, value);
      }
    }
  }

  // A flag that no key has.
  std::string UnknownFlag(const std::string& argument) const {
    std::string name = argument.substr(0, argument.find('='));
    absl::string_view bare = name;
    while (absl::ConsumePrefix(&bare, "-")) {
    }
    std::string suggestion = config.Suggest(bare);
    return absl::StrCat(Shorten(name), ": got an unknown flag, expected one that --help lists",
                        suggestion);
  }

  void CheckRequired() {
    if (!file_is_whole) return;
    for (const Key& key : config.keys_) {
      if (!key.doc.required || wrong.count(key.name) > 0 || settings.count(key.name) > 0) continue;
      mistakes.push_back({kFlag, 0, 0,
                          absl::StrCat(key.name, ": got nothing, expected ", key.expected,
                                       "; set it in the file, by ", EnvironmentName(key.name),
                                       " or --", key.name)});
      wrong[key.name] = true;
    }
  }

  void CheckRules() {
    for (const Rule& rule : config.rules_) {
      if (std::any_of(rule.keys.begin(), rule.keys.end(),
                      [this](const std::string& key) { return wrong.count(key) > 0; })) {
        continue;
      }
      const absl::Status status = rule.rule();
      if (status.ok()) continue;
      const std::string* key = nullptr;
      const Setting* setting = nullptr;
      for (const std::string& name : rule.keys) {
        const auto found = settings.find(name);
        if (found == settings.end()) continue;
        const bool named = absl::StrContains(status.message(), LastPart(name));
        if (key != nullptr && !named) continue;
        key = &name;
        setting = &found->second.back();
        if (named) break;
      }
      const std::string where = setting == nullptr ? "default" : setting->where;
      if (key == nullptr) key = &rule.keys.front();
      mistakes.push_back({kFlag, 0, 0, absl::StrCat(where, ": ", *key, ": ", status.message())});
    }
  }

  void Assign(LoadResult& result) {
    for (const Key& key : config.keys_) {
      const auto found = settings.find(key.name);
      if (found == settings.end()) continue;
      std::string before = key.default_value.empty() ? "unset" : key.default_value;
      Source before_source = kDefault;
      for (const Setting& setting : found->second) {
        const std::string now = ToToml(setting.value);
        if (setting.source > kFile) {
          result.overrides.push_back({key.name, now, Std(SourceName(setting.source)), before,
                                      Std(SourceName(before_source))});
        }
        before = now;
        before_source = setting.source;
      }
      key.assign(found->second.back().value);
    }
  }
};

LoadResult Config::Load(const std::vector<std::string>& arguments,
                        const std::map<std::string, std::string>& environment, base::Env& env) {
  LoadResult result;
  Loader loader{*this, {}, {}, {}};

  // Flags first: they say which file.
  CLI::App cli(summary_, program_);
  cli.set_help_flag("");
  cli.allow_extras();
  bool help = false, version = false, print = false;
  std::string config_flag;
  cli.add_flag("-h,--help", help);
  cli.add_flag("-V,--version", version);
  cli.add_flag("--print-config", print);
  cli.add_option("--config", config_flag);
  std::map<std::string, std::string> flags;
  for (const Key& key : keys_) {
    std::string names = absl::StrCat("--", key.name);
    if (!key.doc.flag.empty()) absl::StrAppend(&names, ",--", key.doc.flag);
    cli.add_option_function<std::string>(
        names, [&flags, name = key.name](const std::string& text) { flags[name] = text; });
  }
  try {
    // CLI11 takes them last first.
    cli.parse(std::vector<std::string>(arguments.rbegin(), arguments.rend()));
  } catch (const CLI::ParseError& error) {
    result.exit_code = kExitUsage;
    result.error = absl::StrCat(error.what(), "\n");
    return result;
  }
  if (help || version) {
    result.exit_code = kExitOk;
    result.out = help ? Help() : absl::StrCat(program_, " ", kVersion, "\n");
    return result;
  }
  bool unknown_flag = false;
  for (const std::string& extra : cli.remaining()) {
    if (!absl::StartsWith(extra, "-")) continue;
    unknown_flag = true;
    loader.mistakes.push_back({Loader::kFlag, 0, 0, loader.UnknownFlag(extra)});
  }
  // What follows an unknown flag is probably its value.
  if (!unknown_flag) {
    for (const std::string& extra : cli.remaining()) {
      loader.mistakes.push_back({Loader::kFlag, 0, 0,
                                 absl::StrCat(Shorten(ToToml(extra)),
                                              ": got an argument, expected flags only; the "
                                              "configuration is --config FILE")});
    }
  }

  const auto config_variable = environment.find(kConfigVariable);
  result.config_file = !config_flag.empty()                   ? config_flag
                       : config_variable != environment.end() ? config_variable->second
                                                              : "";
  if (!result.config_file.empty()) {
    const absl::StatusOr<std::string> text = env.ReadFile(result.config_file, kFileBytesMax);
    if (!text.ok()) {
      result.exit_code = kExitNoInput;
      result.error = absl::StrCat(text.status().message(), "\n");
      return result;
    }
    loader.ReadFile(result.config_file, *text);
  }
  for (const Key& key : keys_) {
    const std::string name = EnvironmentName(key.name);
    const auto found = environment.find(name);
    if (found != environment.end()) {
      loader.SetText(key, Loader::kEnvironment, name, found->second);
    }
    const auto flag = flags.find(key.name);
    if (flag != flags.end()) {
      loader.SetText(key, Loader::kFlag, absl::StrCat("--", key.name), flag->second);
    }
  }
  for (const auto& [name, text] : environment) {
    if (name == kConfigVariable) continue;
    const Key* near = nullptr;
    bool known = false;
    for (const Key& key : keys_) {
      const size_t distance = EditDistance(EnvironmentName(key.name), name);
      known = known || distance == 0;
      if (distance <= 2) near = &key;
    }
    if (!known && near != nullptr) {
      result.warnings.push_back(absl::StrCat("the environment variable ", name,
                                             " is no key of this program; did you mean ",
                                             EnvironmentName(near->name), "?"));
    }
  }
  loader.CheckRequired();
  loader.Assign(result);
  loader.CheckRules();

  if (!loader.mistakes.empty()) {
    std::stable_sort(loader.mistakes.begin(), loader.mistakes.end(),
                     [](const Loader::Mistake& a, const Loader::Mistake& b) {
                       return std::tie(a.source, a.line, a.column) <
                              std::tie(b.source, b.line, b.column);
                     });
    result.exit_code = kExitUsage;
    for (const Loader::Mistake& mistake : loader.mistakes) {
      absl::StrAppend(&result.error, mistake.text, "\n");
    }
    return result;
  }
  if (print) {
    result.exit_code = kExitOk;
    result.out = Print();
  }
  return result;
}

}  // namespace quantfl::app
