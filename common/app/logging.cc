#include "common/app/logging.h"

#include <spdlog/logger.h>
#include <spdlog/pattern_formatter.h>
#include <spdlog/sinks/basic_file_sink.h>
#include <spdlog/sinks/stdout_sinks.h>

#include <string_view>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "common/app/config_text.h"

namespace quantfl::app {
namespace {

// JSON's escapes; what is not UTF-8 becomes one replacement character a byte.
std::string Escape(absl::string_view text) {
  std::string out;
  const bool utf8 = IsUtf8(text);
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (c == '"' || c == '\\') {
      out += '\\';
      out += c;
    } else if (c == '\n') {
      out += "\\n";
    } else if (c == '\r') {
      out += "\\r";
    } else if (c == '\t') {
      out += "\\t";
    } else if (byte < 0x20 || byte == 0x7f) {
      absl::StrAppendFormat(&out, "\\u%04x", byte);
    } else if (byte >= 0x80 && !utf8) {
      out += "\\ufffd";
    } else {
      out += c;
    }
  }
  return out;
}

bool NeedsQuotes(absl::string_view text) {
  if (text.empty()) return true;
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte <= 0x20 || byte == 0x7f || c == '"' || c == '\\' || c == '=') return true;
  }
  return !IsUtf8(text);
}

std::string FieldName(const std::string& key) {
  return key == "time" || key == "level" || key == "event" ? absl::StrCat(key, "_") : key;
}

spdlog::level::level_enum ToSpdlog(base::LogLevel level) {
  switch (level) {
    case base::LogLevel::kDebug:
      return spdlog::level::debug;
    case base::LogLevel::kInfo:
      return spdlog::level::info;
    case base::LogLevel::kWarning:
      return spdlog::level::warn;
    case base::LogLevel::kError:
      break;
  }
  return spdlog::level::err;
}

class SpdlogLogger final : public base::Logger {
 public:
  SpdlogLogger(std::shared_ptr<spdlog::logger> logger, LogFormat format)
      : logger_(std::move(logger)), format_(format) {}

  void Log(base::LogLevel level, absl::string_view event,
           std::vector<base::LogField> fields) override {
    const spdlog::level::level_enum at = ToSpdlog(level);
    if (!logger_->should_log(at)) return;
    const std::string line = FormatEvent(format_, event, fields);
    logger_->log(at, spdlog::string_view_t(line.data(), line.size()));
  }

 private:
  const std::shared_ptr<spdlog::logger> logger_;
  const LogFormat format_;
};

}  // namespace

std::string FormatEvent(LogFormat format, absl::string_view event,
                        const std::vector<base::LogField>& fields) {
  std::string out;
  if (format == LogFormat::kJson) {
    absl::StrAppend(&out, "\"event\":\"", Escape(event), "\"");
    for (const base::LogField& field : fields) {
      absl::StrAppend(&out, ",\"", Escape(FieldName(field.key)), "\":\"", Escape(field.value),
                      "\"");
    }
    return out;
  }
  absl::StrAppend(&out, "event=", event);
  for (const base::LogField& field : fields) {
    absl::StrAppend(&out, " ", FieldName(field.key), "=");
    if (NeedsQuotes(field.value)) {
      absl::StrAppend(&out, "\"", Escape(field.value), "\"");
    } else {
      absl::StrAppend(&out, field.value);
    }
  }
  return out;
}

void DeclareLogKeys(Config& config, LogOptions* options, const std::string& default_file) {
  config.Section("log", "Events: one line each, on standard error and in a file.");
  config.Text("log.level", &options->level, {.choices = {"debug", "info", "warning", "error"}},
              {.help = "The least that is logged."});
  config.Text("log.format", &options->format, {.choices = {"text", "json"}},
              {.help = "key=value pairs, or one JSON object a line.", .flag = "log-format"});
  config.Text("log.file", &options->file, {},
              {.help = "A file to append to, besides standard error.", .unset = default_file});
}

absl::StatusOr<std::unique_ptr<base::Logger>> MakeLogger(const LogOptions& options) {
  spdlog::level::level_enum level = spdlog::level::info;
  if (options.level == "debug") {
    level = spdlog::level::debug;
  } else if (options.level == "warning") {
    level = spdlog::level::warn;
  } else if (options.level == "error") {
    level = spdlog::level::err;
  } else if (options.level != "info") {
    return absl::InvalidArgumentError(
        absl::StrCat("log level is \"", options.level, "\", not debug, info, warning or error"));
  }
  if (options.format != "text" && options.format != "json") {
    return absl::InvalidArgumentError(
        absl::StrCat("log format is \"", options.format, "\", not text or json"));
  }
  const LogFormat format = options.format == "json" ? LogFormat::kJson : LogFormat::kText;
  std::vector<spdlog::sink_ptr> sinks = {std::make_shared<spdlog::sinks::stderr_sink_mt>()};
  if (!options.file.empty()) {
    try {
      sinks.push_back(std::make_shared<spdlog::sinks::basic_file_sink_mt>(options.file));
    } catch (const spdlog::spdlog_ex& error) {
      return absl::PermissionDeniedError(
          absl::StrCat("cannot open the log file ", options.file, ": ", error.what()));
    }
  }
  auto logger = std::make_shared<spdlog::logger>("quantfl", sinks.begin(), sinks.end());
  logger->set_level(level);
  // A line that explains a crash must be there after it.
  logger->flush_on(spdlog::level::trace);
  logger->set_formatter(std::make_unique<spdlog::pattern_formatter>(
      format == LogFormat::kJson ? R"({"time":"%Y-%m-%dT%H:%M:%S.%eZ","level":"%l",%v})"
                                 : "time=%Y-%m-%dT%H:%M:%S.%eZ level=%l %v",
      spdlog::pattern_time_type::utc));
  return std::make_unique<SpdlogLogger>(std::move(logger), format);
}

}  // namespace quantfl::app
