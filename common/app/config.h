#ifndef QUANTFL_COMMON_APP_CONFIG_H_
#define QUANTFL_COMMON_APP_CONFIG_H_

// One program's configuration: every key is declared once, with the variable that it sets; the
// file, the environment, the flags, --help and --print-config all follow from that declaration.
//
//   RunConfig c;
//   Config config("quantfl-coordinator", "One federated run.");
//   config.Section("training", "What a client does with its data.");
//   config.Real("training.learning_rate", &c.learning_rate, {.min = 0, .min_excluded = true, .max =
//   10},
//               {.help = "Step size of SGD."});
//   LoadResult loaded = config.Load({argv + 1, argv + argc}, ProcessEnvironment(),
//   base::PosixEnv());
//
// One order: flag (--training.learning_rate 0.1) over environment (QUANTFL_TRAINING_LEARNING_RATE)
// over file over default. Not thread-safe.

#include <cstdint>
#include <functional>
#include <limits>
#include <map>
#include <optional>
#include <string>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "common/base/env.h"
#include "common/base/log.h"

namespace quantfl::app {

using Value =
    std::variant<std::string, int64_t, double, bool, std::vector<std::string>, std::vector<double>>;

// What --help says of a key besides its name, type, range and default.
struct Doc {
  std::string help = {};   // one sentence or two
  std::string unit = {};   // "seconds", "bytes", "parameters"; empty: none
  bool required = false;   // no default: the program does not start without it
  std::string unset = {};  // what an empty text or an absent number means: "runs/<name>"
  std::string flag = {};   // a second flag besides --section.key: "data-dir"
};

// What a text must be. Both may be left out: then any text, and an empty one only where it is the
// default.
struct TextRule {
  std::vector<std::string> choices = {};
  // Its message is added to the mistake.
  std::function<absl::Status(const std::string&)> check = {};
  std::string expected = {};  // in words, for `check`: "host:port"
};

struct RealRange {
  double min = -std::numeric_limits<double>::max();
  bool min_excluded = false;
  double max = std::numeric_limits<double>::max();
  bool max_excluded = false;
};

// A value that another one was preferred to.
struct Override {
  std::string key;
  std::string value;            // as TOML
  std::string source;           // "flag", "environment"
  std::string replaces;         // as TOML, of the next source in order
  std::string replaced_source;  // "environment", "file", "default"
};

struct LoadResult {
  // Set: the program ends with it, after `out` on standard output and `error` on standard error
  // (--help,
  // --version, --print-config, mistakes). Not set: every variable is valid.
  std::optional<int> exit_code;
  std::string out;
  std::string error;
  std::string config_file;            // empty: none was given
  std::vector<Override> overrides;    // to be logged: LogOverrides
  std::vector<std::string> warnings;  // e.g. a QUANTFL_ variable that looks like a misspelt key
};

class Config {
 public:
  // `program` is the executable's name, `summary` a sentence or two for --help.
  Config(std::string program, std::string summary);

  // Declarations, before Load. `name` is "key" or "section.key" of [a-z0-9_]; keys of a section
  // follow its Section call. A target's value at that moment is the default; targets outlive this
  // object's last call. CHECK-fails on a name that is declared twice.
  void Section(const std::string& name, const std::string& help);
  void Text(const std::string& name, std::string* target, TextRule rule, Doc doc);
  void Bool(const std::string& name, bool* target, Doc doc);
  void Real(const std::string& name, double* target, RealRange range, Doc doc);
  void Real(const std::string& name, std::optional<double>* target, RealRange range, Doc doc);
  void List(const std::string& name, std::vector<std::string>* target, Doc doc);
  // Real numbers; one alone may stand without brackets. An empty target means unset, and no list
  // that is read is empty.
  void Reals(const std::string& name, std::vector<double>* target, RealRange range, Doc doc);
  // In seconds or milliseconds, which the name says near its end (wait_s, wait_ms_max; CHECKed);
  // fractions are allowed.
  void Duration(const std::string& name, absl::Duration* target, absl::Duration min,
                absl::Duration max, Doc doc);
  // Whole numbers. TOML's are 64 bits with a sign, so the largest is 2^63 - 1.
  // It is moved, which clang-tidy does not see in a template.
  // NOLINTBEGIN(performance-unnecessary-value-param)
  template <typename T>
  void Integer(const std::string& name, T* target, int64_t min, int64_t max, Doc doc) {
    static_assert(std::is_integral_v<T>);
    AddInteger(
        name, [target](int64_t v) { *target = static_cast<T>(v); },
        [target]() -> std::optional<int64_t> { return static_cast<int64_t>(*target); }, min, max,
        std::move(doc));
  }
  template <typename T>
  void Integer(const std::string& name, std::optional<T>* target, int64_t min, int64_t max,
               Doc doc) {
    static_assert(std::is_integral_v<T>);
    AddInteger(
        name, [target](int64_t v) { *target = static_cast<T>(v); },
        [target]() -> std::optional<int64_t> {
          if (!target->has_value()) return std::nullopt;
          return static_cast<int64_t>(**target);
        },
        min, max, std::move(doc));
  }
  // NOLINTEND(performance-unnecessary-value-param)
  // A rule over several keys, asked when each of them is right by itself. A mistake is reported at
  // the first key that was set and that the rule's message names, else at the first that was set.
  void Check(std::vector<std::string> keys, std::function<absl::Status()> rule);

  // Reads everything and reports every mistake there is, one a line:
  //   run.toml:12:17: training.momentum: got 1.5, expected a real number in [0, 1)
  // Exit codes: 64 for mistakes, 66 for a file that cannot be read. Call once.
  //   arguments    without the program's name
  //   environment  variables whose name begins with QUANTFL_; others are ignored
  LoadResult Load(const std::vector<std::string>& arguments,
                  const std::map<std::string, std::string>& environment, base::Env& env);

  // The variables as they are now, as a TOML file that Load reads back to the same values.
  std::string Print() const;
  std::string Help() const;

 private:
  enum class Type { kText, kInteger, kReal, kBool, kList, kReals };
  struct Key {
    std::string name;
    Type type = Type::kText;
    Doc doc;
    std::string expected;  // "an integer in 1..65535"
    std::string range;     // "1..65535", for --help
    std::string default_value;
    // The first one whether `value`, already of the right type, may be; it sets nothing. An empty
    // message of a mistake says no more than `expected`.
    std::function<absl::Status(const Value&)> check;
    std::function<void(const Value&)> assign;
    std::function<std::optional<Value>()> current;
  };
  struct SectionDoc {
    std::string name;
    std::string help;
  };
  struct Rule {
    std::vector<std::string> keys;
    std::function<absl::Status()> rule;
  };
  struct FileValue;
  struct Loader;

  void AddInteger(const std::string& name, std::function<void(int64_t)> set,
                  std::function<std::optional<int64_t>()> get, int64_t min, int64_t max, Doc doc);
  void AddReal(const std::string& name, std::function<void(double)> set,
               std::function<std::optional<double>()> get, RealRange range, Doc doc);
  void Add(Key key);
  const Key* Find(absl::string_view name) const;
  bool HasSection(absl::string_view name) const;
  // ` (did you mean "x"?)`, or nothing where no key is near.
  std::string Suggest(absl::string_view name) const;

  std::string program_;
  std::string summary_;
  std::vector<SectionDoc> sections_;
  std::vector<Key> keys_;
  std::vector<Rule> rules_;
};

// QUANTFL_TRAINING_LEARNING_RATE of training.learning_rate.
std::string EnvironmentName(absl::string_view key);
// This process's variables that begin with QUANTFL_.
std::map<std::string, std::string> ProcessEnvironment();
// One event for each: key, value, source and what it replaces; the warnings too.
void LogOverrides(const LoadResult& loaded, base::Logger& logger);

// A value in TOML's syntax: strings quoted and escaped, the shortest digits that read back the
// same.
std::string ToToml(const Value& value);
// The number of single-character edits (a swap of neighbours is one) between two texts.
size_t EditDistance(absl::string_view a, absl::string_view b);

}  // namespace quantfl::app

#endif  // QUANTFL_COMMON_APP_CONFIG_H_
