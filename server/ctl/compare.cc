#include "server/ctl/compare.h"

#include <algorithm>
#include <cstdint>
#include <functional>
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/string_view.h"
#include "common/base/status.h"
#include "common/terminal/progress_line.h"
#include "server/ctl/table.h"

namespace quantfl::ctl {
namespace {

using Json = nlohmann::json;

constexpr uint64_t kSummaryBytesMax = 1u << 30;
constexpr size_t kTextShownMax = 20;  // of a name or a codec, in a column

// The value at `path`, or none where there is no number.
std::optional<double> NumberAt(const Json& json, std::initializer_list<const char*> path) {
  const Json* at = &json;
  for (const char* key : path) {
    if (!at->is_object()) return std::nullopt;
    const auto found = at->find(key);
    if (found == at->end()) return std::nullopt;
    at = &*found;
  }
  if (!at->is_number()) return std::nullopt;
  return at->get<double>();
}

std::string TextAt(const Json& json, const char* outer, const char* key) {
  const auto found = json.find(outer);
  if (found == json.end()) return "-";
  if (key == nullptr) return found->is_string() ? found->get<std::string>() : "-";
  if (!found->is_object() || !found->contains(key) || !(*found)[key].is_string()) return "-";
  return (*found)[key].get<std::string>();
}

// The sum of a number over all rounds, abandoned ones too; none where one of them lacks it.
std::optional<double> SumOverRounds(const Json& json, std::initializer_list<const char*> path) {
  double sum = 0;
  for (const Json& round : json.at("rounds")) {
    const std::optional<double> value = NumberAt(round, path);
    if (!value.has_value()) return std::nullopt;
    sum += *value;
  }
  return sum;
}

// Bits that an accepted update took for each parameter, over the whole run.
std::optional<double> BitsPerParameter(const Json& json) {
  double bytes = 0, parameters = 0;
  for (const Json& round : json.at("rounds")) {
    const std::optional<double> accepted = NumberAt(round, {"accepted"});
    const std::optional<double> size = NumberAt(round, {"parameters"});
    if (!accepted.has_value() || !size.has_value()) return std::nullopt;
    parameters += *accepted * *size;
    for (const char* part :
         {"codes_bytes", "tables_bytes", "side_information_bytes", "headers_bytes"}) {
      bytes += NumberAt(round, {"accepted_payload", part}).value_or(0);
    }
  }
  if (parameters == 0) return std::nullopt;
  return 8 * bytes / parameters;
}

// The same of the rounds that have it; none where none has.
std::optional<double> SumWherePresent(const Json& json, std::initializer_list<const char*> path) {
  std::optional<double> sum;
  for (const Json& round : json.at("rounds")) {
    const std::optional<double> value = NumberAt(round, path);
    if (value.has_value()) sum = sum.value_or(0) + *value;
  }
  return sum;
}

// The mean over the rounds that made a model for clients to fetch.
std::optional<double> DownlinkBitsPerParameter(const Json& json) {
  double sum = 0, rounds = 0;
  for (const Json& round : json.at("rounds")) {
    const std::optional<double> bits = NumberAt(round, {"downlink_bits_per_parameter"});
    if (!bits.has_value() || NumberAt(round, {"accepted"}).value_or(0) == 0 || *bits == 0) continue;
    sum += *bits;
    ++rounds;
  }
  if (rounds == 0) return std::nullopt;
  return sum / rounds;
}

std::string Bytes(double v) { return terminal::HumanBytes(static_cast<uint64_t>(v)); }
std::string Seconds(double v) { return absl::StrFormat(v < 10 ? "%.2f" : "%.1f", v); }
std::string Percent(double v) { return absl::StrFormat("%.2f %%", 100 * v); }
std::string Plain(double v) { return absl::StrFormat(v != 0 && v < 0.0005 ? "%.2g" : "%.3f", v); }

absl::StatusOr<Json> LoadSummary(const std::string& results_dir, base::Env& env) {
  const std::string file = absl::StrCat(results_dir, "/summary.json");
  QFL_ASSIGN_OR_RETURN(const std::string text, env.ReadFile(file, kSummaryBytesMax));
  Json json = Json::parse(text, nullptr, false);
  if (!json.is_object() || !json.contains("rounds") || !json["rounds"].is_array() ||
      !json.contains("run")) {
    return absl::DataLossError(absl::StrCat(file, " is no summary of a run"));
  }
  return json;
}

// A number of a file as a count; 0 where there is none.
template <typename T>
T CountAt(const Json& json, std::initializer_list<const char*> path) {
  const double v = NumberAt(json, path).value_or(0);
  return v >= 0 && v <= static_cast<double>(std::numeric_limits<T>::max()) ? static_cast<T>(v) : 0;
}

struct Measure {
  std::string title;
  std::function<std::optional<double>(const Json&)> get;
  std::string (*show)(double);
  bool points = false;    // the difference is in points, not a share
  bool optional = false;  // shown only where some run has it
};

std::vector<Measure> Measures() {
  std::vector<Measure> measures;
  const auto add = [&measures](std::string title,
                               std::function<std::optional<double>(const Json&)> get,
                               std::string (*show)(double), bool points = false) {
    measures.push_back({std::move(title), std::move(get), show, points});
  };
  add(
      "test accuracy",
      [](const Json& j) {
        return NumberAt(j, {"final", "accuracy"});
      },
      Percent, true);
  add(
      "accuracy on clients' data",
      [](const Json& j) {
        return NumberAt(j, {"final", "client_accuracy"});
      },
      Percent, true);
  measures.back().optional = true;
  for (const auto& [way, key] :
       {std::pair<const char*, const char*>{"uplink", "uplink"}, {"downlink", "downlink"}}) {
    const std::string name = way, at = key;
    for (const auto& [level, field] :
         {std::pair<const char*, const char*>{"codec payload", "payload_bytes"},
          {"Protobuf messages", "messages_bytes"},
          {"TCP stream", "stream_bytes"},
          {"TCP and repeats", "tcp_bytes"},
          {"link, IP packets", "link_bytes"}}) {
      add(
          absl::StrCat(name, ", ", level),
          [at, f = std::string(field)](const Json& j) {
            return NumberAt(j, {"trainer_bytes", at.c_str(), f.c_str()});
          },
          Bytes);
      measures.back().optional =
          field == absl::string_view("tcp_bytes") || field == absl::string_view("link_bytes");
    }
  }
  add("bits per parameter, uplink", BitsPerParameter, Plain);
  add("bits per parameter, downlink", DownlinkBitsPerParameter, Plain);
  measures.back().optional = true;
  for (const auto& [title, field] :
       {std::pair<const char*, const char*>{"budget of all trainers", "total_bytes"},
        {"budget of a round's uplink", "uplink_bytes_per_round"},
        {"budget of a client", "bytes_per_client"},
        {"spent, at the budget's level", "spent_bytes"}}) {
    add(
        title,
        [f = std::string(field)](const Json& j) {
          return NumberAt(j, {"budget", f.c_str()});
        },
        Bytes);
    measures.back().optional = true;
  }
  for (const auto& [title, field] :
       {std::pair<const char*, const char*>{"computing, measured, J", "compute_measured_j"},
        {"computing, modelled, J", "compute_modelled_j"},
        {"link, modelled, J", "link_modelled_j"},
        {"carbon, modelled, g CO2e", "co2e_modelled_g"}}) {
    add(
        title,
        [f = std::string(field)](const Json& j) {
          return SumWherePresent(j, {"energy", f.c_str()});
        },
        Plain);
    measures.back().optional = true;
  }
  add(
      "seconds, all rounds",
      [](const Json& j) {
        return SumOverRounds(j, {"seconds", "total"});
      },
      Seconds);
  for (const auto& [title, field] :
       {std::pair<const char*, const char*>{"  training and uploads", "collect"},
        {"  fold", "fold"},
        {"  commit", "commit"},
        {"  evaluation", "evaluate"},
        {"  slowest client, training", "client_train_max"},
        {"  slowest client, upload", "client_upload_max"}}) {
    add(
        title,
        [f = std::string(field)](const Json& j) {
          return SumOverRounds(j, {"seconds", f.c_str()});
        },
        Seconds);
  }
  return measures;
}

std::string Difference(const Measure& measure, double first, double second) {
  if (measure.points) return absl::StrFormat("%+.2f points", 100 * (second - first));
  if (first == 0) return "";
  return absl::StrFormat("%+.1f %%", 100 * (second - first) / first);
}

}  // namespace

absl::StatusOr<std::string> Compare(const std::vector<std::string>& results_dirs, base::Env& env) {
  if (results_dirs.empty())
    return absl::InvalidArgumentError("no run to show: name results folders");
  std::vector<Json> runs;
  for (const std::string& folder : results_dirs) {
    QFL_ASSIGN_OR_RETURN(Json json, LoadSummary(folder, env));
    runs.push_back(std::move(json));
  }
  // Long ones would make every column as wide: they stand above the table, which has numbers.
  const bool named = std::all_of(runs.begin(), runs.end(), [](const Json& run) {
    return TextAt(run, "run", "name").size() <= kTextShownMax &&
           TextAt(run, "run", "codec").size() <= kTextShownMax &&
           TextAt(run, "run", "downlink_codec").size() <= kTextShownMax;
  });
  std::string above;
  std::vector<Table::Column> columns = {{""}};
  for (const Json& run : runs) {
    const std::string name = TextAt(run, "run", "name"), number = absl::StrCat(columns.size());
    columns.push_back({named ? name : number, Table::Align::kRight});
    if (named) continue;
    absl::StrAppend(&above, number, "  ", Printable(name), "\n   up    ",
                    Printable(TextAt(run, "run", "codec")), "\n   down  ",
                    Printable(TextAt(run, "run", "downlink_codec")), "\n");
  }
  const bool two = runs.size() == 2;
  if (two) columns.push_back({"difference", Table::Align::kRight});
  Table table(std::move(columns));
  const auto add_text = [&](const char* title, const char* outer, const char* key) {
    std::vector<std::string> row = {title};
    for (const Json& run : runs) row.push_back(TextAt(run, outer, key));
    table.AddRow(std::move(row));
  };
  if (named) {
    add_text("uplink codec", "run", "codec");
    add_text("downlink codec", "run", "downlink_codec");
  }
  add_text("state", "state", nullptr);
  std::vector<std::string> rounds = {"rounds"};
  for (const Json& run : runs) {
    const std::optional<double> committed = NumberAt(run, {"rounds_committed"});
    rounds.push_back(committed.has_value() ? absl::StrFormat("%.0f", *committed) : "-");
  }
  table.AddRow(std::move(rounds));
  for (const Measure& measure : Measures()) {
    std::vector<std::string> row = {measure.title};
    std::vector<std::optional<double>> values;
    for (const Json& run : runs) {
      values.push_back(measure.get(run));
      row.push_back(values.back().has_value() ? measure.show(*values.back()) : "-");
    }
    // A row for who had it.
    if (measure.optional && std::none_of(values.begin(), values.end(),
                                         [](const auto& value) { return value.has_value(); })) {
      continue;
    }
    if (two && values[0].has_value() && values[1].has_value()) {
      row.push_back(Difference(measure, *values[0], *values[1]));
    }
    table.AddRow(std::move(row));
  }
  return absl::StrCat(above, table.ToString());
}

absl::StatusOr<coordinator::RunStatus> EndOfRun(const std::string& results_dir, base::Env& env) {
  QFL_ASSIGN_OR_RETURN(const Json json, LoadSummary(results_dir, env));
  coordinator::RunStatus status;
  status.run.run_id = TextAt(json, "run", "run_id");
  status.run.name = TextAt(json, "run", "name");
  status.run.architecture = TextAt(json, "run", "architecture");
  status.state = TextAt(json, "state", nullptr);
  status.reason = TextAt(json, "reason", nullptr);
  status.rounds_total = CountAt<uint32_t>(json, {"policy", "rounds"});
  status.members = CountAt<uint32_t>(json, {"members"});
  for (const Json& round : json.at("rounds")) {
    coordinator::RoundRecord record;
    record.round = base::RoundId(CountAt<uint32_t>(round, {"round"}));
    record.attempt = CountAt<uint32_t>(round, {"attempt"});
    record.committed = round.is_object() && round.value("committed", Json(false)) == Json(true);
    record.reason = round.is_object() ? TextAt(round, "reason", nullptr) : "-";
    record.cohort = CountAt<uint32_t>(round, {"cohort"});
    record.accepted = CountAt<uint32_t>(round, {"accepted"});
    record.train_loss = NumberAt(round, {"train_loss"}).value_or(0);
    record.accuracy = NumberAt(round, {"accuracy"});
    record.clients.accuracy = NumberAt(round, {"client_evaluation", "accuracy"});
    record.bytes.uplink.payload = CountAt<uint64_t>(round, {"bytes", "uplink", "payload_bytes"});
    record.bytes.downlink.payload =
        CountAt<uint64_t>(round, {"bytes", "downlink", "payload_bytes"});
    record.bits_per_parameter = NumberAt(round, {"bits_per_parameter"}).value_or(0);
    record.total_s = NumberAt(round, {"seconds", "total"}).value_or(0);
    status.round = record.round;
    status.rounds.push_back(std::move(record));
  }
  return status;
}

}  // namespace quantfl::ctl
