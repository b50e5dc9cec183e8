#ifndef QUANTFL_COMMON_APP_LOGGING_H_
#define QUANTFL_COMMON_APP_LOGGING_H_

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "common/app/config.h"
#include "common/base/log.h"

namespace quantfl::app {

enum class LogFormat { kText, kJson };

struct LogOptions {
  std::string level = "info";   // "debug", "info", "warning", "error"
  std::string format = "text";  // "text": key=value; "json": one object a line
  std::string file = {};        // appended to, besides standard error; empty: none
};

// The section [log]: log.level, log.format (also --log-format), log.file.
void DeclareLogKeys(Config& config, LogOptions* options, const std::string& default_file = "none");

// One line an event, to standard error and to `options.file`, flushed at once:
//   time=2026-01-01T00:00:00.000Z level=info event=round_committed round=3 accepted=4
//   {"time":"2026-01-01T00:00:00.000Z","level":"info","event":"round_committed","round":"3"}
// In text, values with spaces, quotes, '=' or control characters are quoted and escaped as in JSON;
// in JSON every value is a text. A field named time, level or event gets an underscore behind its
// name. Thread-safe. INVALID_ARGUMENT for an unknown level or format, PERMISSION_DENIED where the
// file cannot be opened; its folder must be there.
absl::StatusOr<std::unique_ptr<base::Logger>> MakeLogger(const LogOptions& options);

// The line without time and level, from `event` on; for tests of what a hostile value looks like.
std::string FormatEvent(LogFormat format, absl::string_view event,
                        const std::vector<base::LogField>& fields);

}  // namespace quantfl::app

#endif  // QUANTFL_COMMON_APP_LOGGING_H_
