#ifndef QUANTFL_COMMON_BASE_LOG_H_
#define QUANTFL_COMMON_BASE_LOG_H_

#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"

namespace quantfl::base {

enum class LogLevel { kDebug, kInfo, kWarning, kError };

struct LogField {
  template <typename T>
  LogField(absl::string_view k, const T& v) : key(k), value(absl::StrCat(v)) {}
  std::string key;
  std::string value;
};

// Where events go: spdlog in the programs (common/app), a vector in tests. One line an event.
// Thread-safe. Never given a token or key.
class Logger {
 public:
  virtual ~Logger() = default;
  // `event` is a short snake_case name: "round_committed".
  virtual void Log(LogLevel level, absl::string_view event, std::vector<LogField> fields) = 0;

  void Info(absl::string_view event, std::vector<LogField> fields = {}) {
    Log(LogLevel::kInfo, event, std::move(fields));
  }
  void Warning(absl::string_view event, std::vector<LogField> fields = {}) {
    Log(LogLevel::kWarning, event, std::move(fields));
  }
  void Error(absl::string_view event, std::vector<LogField> fields = {}) {
    Log(LogLevel::kError, event, std::move(fields));
  }
};

// Drops everything.
Logger& NullLogger();

}  // namespace quantfl::base

#endif  // QUANTFL_COMMON_BASE_LOG_H_
