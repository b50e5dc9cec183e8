#include "server/report/report.h"

#include <optional>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "common/base/csv.h"
#include "common/base/status.h"
#include "nlohmann/json.hpp"
#include "server/report/assets.h"

namespace quantfl::report {
namespace {

using Json = nlohmann::ordered_json;

constexpr uint64_t kFileBytesMax = uint64_t{1} << 30;
constexpr size_t kRunsMax = 64;
constexpr int kFormat = 1;

std::string Dump(const Json& json) {
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

absl::StatusOr<Json> ToJson(const RunRecords& run) {
  Json summary = Json::parse(run.summary_json, nullptr, false);
  const bool is_summary = summary.is_object() && summary.contains("rounds") &&
                          summary["rounds"].is_array() && summary.contains("run") &&
                          summary["run"].is_object();
  if (!is_summary) {
    return absl::DataLossError(
        absl::StrCat(run.folder, "/summary.json is no summary of a run of quantfl-coordinator"));
  }
  if (summary.value("format", Json(0)) != Json(kFormat)) {
    return absl::DataLossError(absl::StrCat(run.folder, "/summary.json has format ",
                                            Dump(summary.value("format", Json(nullptr))),
                                            "; this program reads format ", kFormat));
  }
  return Json{{"folder", run.folder},
              {"summary", std::move(summary)},
              {"configuration", run.configuration}};
}

// JSON inside a script element: a "<" could end the element, or begin a comment in it.
std::string ForScript(const Json& json) {
  return absl::StrReplaceAll(
      Dump(json), {{"<", "\\u003c"}, {"\xe2\x80\xa8", "\\u2028"}, {"\xe2\x80\xa9", "\\u2029"}});
}

std::string Fill(const Json& json) {
  // One pass: what is put in is never searched for further marks.
  return absl::StrReplaceAll(assets::Html(), {{"@STYLE@", assets::Style()},
                                              {"@CHART@", assets::Chart()},
                                              {"@SCRIPT@", assets::Script()},
                                              {"@DATA@", ForScript(json)}});
}

std::string Generator(absl::string_view version) { return absl::StrCat("quantfl ", version); }

// The lines of a CSV: a line break inside quotes ends none.
std::vector<std::string> Lines(const std::string& csv) {
  std::vector<std::string> lines;
  std::string line;
  bool quoted = false;
  for (const char c : csv) {
    if (c == '"') quoted = !quoted;
    if (c == '\n' && !quoted) {
      lines.push_back(std::move(line));
      line.clear();
    } else {
      line += c;
    }
  }
  if (!line.empty()) lines.push_back(std::move(line));
  return lines;
}

}  // namespace

absl::StatusOr<RunRecords> LoadRun(base::Env& env, const std::string& results_dir) {
  RunRecords run;
  run.folder = results_dir;
  const std::string file = absl::StrCat(results_dir, "/summary.json");
  absl::StatusOr<std::string> summary = env.ReadFile(file, kFileBytesMax);
  if (absl::IsNotFound(summary.status())) {
    return absl::NotFoundError(absl::StrCat(
        file,
        " is not there: is it a results folder, and has its run ended? A run that goes on "
        "has a live page, whose address is in the coordinator's first log line"));
  }
  if (!summary.ok()) return summary.status();
  run.summary_json = *std::move(summary);
  const std::string effective = absl::StrCat(results_dir, "/effective.toml");
  if (env.Exists(effective)) {
    QFL_ASSIGN_OR_RETURN(run.configuration, env.ReadFile(effective, kFileBytesMax));
  }
  return run;
}

absl::StatusOr<std::string> Page(const std::vector<RunRecords>& runs,
                                 absl::string_view software_version) {
  if (runs.empty()) return absl::InvalidArgumentError("no run to report: name results folders");
  if (runs.size() > kRunsMax) {
    return absl::InvalidArgumentError(
        absl::StrCat(runs.size(), " runs; one page shows at most ", kRunsMax, ": make several"));
  }
  Json json = {{"generator", Generator(software_version)}, {"live", false}};
  json["runs"] = Json::array();
  for (const RunRecords& run : runs) {
    QFL_ASSIGN_OR_RETURN(Json one, ToJson(run));
    json["runs"].push_back(std::move(one));
  }
  return Fill(json);
}

absl::StatusOr<std::string> LivePage(const RunRecords& run, absl::string_view software_version) {
  QFL_ASSIGN_OR_RETURN(Json one, ToJson(run));
  Json json = {{"generator", Generator(software_version)}, {"live", true}};
  json["runs"] = Json::array();
  json["runs"].push_back(std::move(one));
  return Fill(json);
}

absl::StatusOr<std::string> RunJson(const RunRecords& run) {
  QFL_ASSIGN_OR_RETURN(const Json one, ToJson(run));
  return Dump(one);
}

absl::StatusOr<std::string> JoinCsv(const std::vector<NamedCsv>& files) {
  std::optional<std::string> header;
  std::string joined;
  for (const NamedCsv& file : files) {
    const std::vector<std::string> lines = Lines(file.csv);
    if (lines.empty()) return absl::DataLossError(absl::StrCat("run ", file.run, ": an empty CSV"));
    if (!header.has_value()) {
      header = lines[0];
      absl::StrAppend(&joined, "run,", *header, "\n");
    } else if (*header != lines[0]) {
      return absl::DataLossError(
          absl::StrCat("run ", file.run,
                       ": its columns are not those of the first run, so they were recorded by "
                       "another version of this program; report them one by one"));
    }
    for (size_t i = 1; i < lines.size(); ++i) {
      absl::StrAppend(&joined, base::CsvQuoted(file.run), ",", lines[i], "\n");
    }
  }
  return joined;
}

}  // namespace quantfl::report
