#include "server/coordinator/records.h"

#include <cmath>
#include <optional>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "common/base/status.h"
#include "nlohmann/json.hpp"

namespace quantfl::coordinator {
namespace {

using Json = nlohmann::ordered_json;

constexpr int kFormat = 1;

// ---- CSV ----

std::string Cell(uint64_t value) { return absl::StrCat(value); }
std::string Cell(double value) { return absl::StrFormat("%.9g", value); }
template <typename T>
std::string Cell(const std::optional<T>& value) {
  return value ? Cell(*value) : "";
}
std::string Quoted(const std::string& text) {
  if (text.find_first_of(",\"\n\r") == std::string::npos) return text;
  return absl::StrCat("\"", absl::StrReplaceAll(text, {{"\"", "\"\""}}), "\"");
}

class Row {
 public:
  template <typename T>
  void Add(const std::string& name, const T& value) {
    names.push_back(name);
    cells.push_back(Cell(value));
  }
  void AddText(const std::string& name, const std::string& text) {
    names.push_back(name);
    cells.push_back(Quoted(text));
  }
  void Add(const std::string& way, const federation::LevelBytes& levels) {
    Add(way + "_payload_bytes", levels.payload);
    Add(way + "_messages_bytes", levels.messages);
    Add(way + "_stream_bytes", levels.stream);
    Add(way + "_tcp_bytes", levels.tcp);
  }

  std::vector<std::string> names, cells;
};

Row MakeRow(const RoundRecord& r) {
  Row row;
  row.Add("round", uint64_t{r.round.value()});
  row.Add("attempt", uint64_t{r.attempt});
  row.Add("committed", uint64_t{r.committed});
  row.AddText("reason", r.reason);
  row.Add("cohort", uint64_t{r.cohort});
  row.Add("accepted", uint64_t{r.accepted});
  row.Add("late", uint64_t{r.late});
  row.Add("refused", uint64_t{r.refused});
  row.Add("examples", r.examples);
  row.Add("train_loss", r.accepted > 0 ? std::optional<double>(r.train_loss) : std::nullopt);
  row.Add("accuracy", r.accuracy);
  row.Add("loss", r.loss);
  row.Add("parameters", r.parameters);
  row.Add("bits_per_parameter", r.bits_per_parameter);
  row.Add("quantisation_nmse", r.quantisation_nmse);
  row.Add("accepted_codes_bytes", r.payload.codes);
  row.Add("accepted_tables_bytes", r.payload.tables);
  row.Add("accepted_side_information_bytes", r.payload.side_information);
  row.Add("accepted_headers_bytes", r.payload.headers);
  row.Add("uplink", r.bytes.uplink);
  row.Add("downlink", r.bytes.downlink);
  row.Add("evaluator_uplink", r.evaluator_bytes.uplink);
  row.Add("evaluator_downlink", r.evaluator_bytes.downlink);
  row.Add("late_payload_bytes", r.late_bytes);
  row.Add("refused_payload_bytes", r.refused_bytes);
  row.Add("collect_s", r.collect_s);
  row.Add("fold_s", r.fold_s);
  row.Add("commit_s", r.commit_s);
  row.Add("evaluate_s", r.evaluate_s);
  row.Add("total_s", r.total_s);
  row.Add("client_train_s_max", r.client_train_s_max);
  row.Add("client_upload_s_max", r.client_upload_s_max);
  row.AddText("model_sha256", r.model.Hex());
  return row;
}

// ---- JSON ----

// JSON has no infinities.
Json Number(double value) { return std::isfinite(value) ? Json(value) : Json(nullptr); }
template <typename T>
Json Maybe(const std::optional<T>& value) {
  return value ? Json(*value) : Json(nullptr);
}

Json ToJson(const federation::LevelBytes& levels) {
  return {{"payload_bytes", levels.payload},
          {"messages_bytes", levels.messages},
          {"stream_bytes", Maybe(levels.stream)},
          {"tcp_bytes", Maybe(levels.tcp)}};
}

Json ToJson(const federation::ByteCounters& counters) {
  return {{"uplink", ToJson(counters.uplink)}, {"downlink", ToJson(counters.downlink)}};
}

Json ToJson(const RoundRecord& r) {
  Json json;
  json["round"] = r.round.value();
  json["attempt"] = r.attempt;
  json["committed"] = r.committed;
  json["reason"] = r.reason;
  json["cohort"] = r.cohort;
  json["accepted"] = r.accepted;
  json["late"] = r.late;
  json["refused"] = r.refused;
  json["examples"] = r.examples;
  json["train_loss"] = r.accepted > 0 ? Number(r.train_loss) : Json(nullptr);
  json["accuracy"] = Maybe(r.accuracy);
  json["loss"] = Maybe(r.loss);
  json["parameters"] = r.parameters;
  json["bits_per_parameter"] = Number(r.bits_per_parameter);
  json["quantisation_nmse"] = Maybe(r.quantisation_nmse);
  json["accepted_payload"] = {{"codes_bytes", r.payload.codes},
                              {"tables_bytes", r.payload.tables},
                              {"side_information_bytes", r.payload.side_information},
                              {"headers_bytes", r.payload.headers}};
  json["bytes"] = ToJson(r.bytes);
  json["evaluator_bytes"] = ToJson(r.evaluator_bytes);
  json["late_payload_bytes"] = r.late_bytes;
  json["refused_payload_bytes"] = r.refused_bytes;
  json["seconds"] = {{"collect", r.collect_s},
                     {"fold", r.fold_s},
                     {"commit", r.commit_s},
                     {"evaluate", r.evaluate_s},
                     {"total", r.total_s},
                     {"client_train_max", r.client_train_s_max},
                     {"client_upload_max", r.client_upload_s_max}};
  json["model_sha256"] = r.model.Hex();
  return json;
}

std::string Text(absl::string_view text) { return std::string(text); }

}  // namespace

std::string RoundsCsv(const RunStatus& status) {
  std::string csv = absl::StrCat(absl::StrJoin(MakeRow(RoundRecord{}).names, ","), "\n");
  for (const RoundRecord& record : status.rounds) {
    absl::StrAppend(&csv, absl::StrJoin(MakeRow(record).cells, ","), "\n");
  }
  return csv;
}

std::string SummaryJson(const RunStatus& status, const RunOptions& options,
                        const std::string& software_version) {
  const federation::RunDescriptor& run = status.run;
  const federation::PartitionSpec& partition = run.partition;
  Json json;
  json["format"] = kFormat;
  json["software_version"] = software_version;
  json["state"] = status.state;
  json["reason"] = status.reason;
  json["started"] = absl::FormatTime(absl::RFC3339_sec, status.started, absl::UTCTimeZone());
  json["seconds"] = absl::ToDoubleSeconds(status.uptime);
  json["run"] = {{"run_id", run.run_id},
                 {"name", run.name},
                 {"seed", run.seed},
                 {"architecture", run.architecture},
                 {"classes", run.classes},
                 {"schema_sha256", run.schema.Hex()},
                 {"initial_model_sha256", run.initial_model.Hex()},
                 {"codec", codec::ToString(options.codec)}};
  json["data"] = {{"partition", Text(federation::ToString(partition.kind))},
                  {"partitions", partition.partitions},
                  {"alpha", partition.alpha},
                  {"seed", partition.seed},
                  {"examples_max", partition.examples_max},
                  {"shards_per_client", partition.shards_per_client},
                  {"input_mean", run.input.mean},
                  {"input_stddev", run.input.stddev}};
  json["training"] = {{"learning_rate", options.training.learning_rate},
                      {"momentum", options.training.momentum},
                      {"weight_decay", options.training.weight_decay},
                      {"batch_size", options.training.batch_size},
                      {"local_epochs", options.training.local_epochs},
                      {"max_examples", options.max_examples}};
  json["policy"] = {
      {"rounds", options.policy.rounds}, {"min_clients", options.policy.min_clients},
      {"cohort", options.policy.cohort}, {"over_selection", options.policy.over_selection},
      {"goal", options.policy.goal},     {"min_fraction", options.policy.min_fraction}};
  uint32_t committed = 0;
  const RoundRecord* last = nullptr;
  for (const RoundRecord& record : status.rounds) {
    if (!record.committed) continue;
    last = &record;
    if (record.round.value() > 0) ++committed;
  }
  json["rounds_committed"] = committed;
  json["members"] = status.members;
  json["final"] = {{"model", "final.safetensors"},
                   {"model_sha256", status.model.Hex()},
                   {"accuracy", last != nullptr ? Maybe(last->accuracy) : Json(nullptr)},
                   {"loss", last != nullptr ? Maybe(last->loss) : Json(nullptr)}};
  json["trainer_bytes"] = ToJson(status.trainer_bytes);
  json["evaluator_bytes"] = ToJson(status.evaluator_bytes);
  json["rounds"] = Json::array();
  for (const RoundRecord& record : status.rounds) json["rounds"].push_back(ToJson(record));
  // Reasons can hold what clients sent; a byte that is no UTF-8 must not cost the records.
  return json.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

absl::Status WriteRecords(base::Env& env, const std::string& folder, const RunStatus& status,
                          const RunOptions& options, const std::string& software_version,
                          const Artifact& final_model) {
  QFL_RETURN_IF_ERROR(env.CreateDirs(folder));
  QFL_RETURN_IF_ERROR(env.WriteFileAtomically(folder + "/rounds.csv", RoundsCsv(status)));
  QFL_RETURN_IF_ERROR(env.WriteFileAtomically(folder + "/summary.json",
                                              SummaryJson(status, options, software_version)));
  return env.WriteFileAtomically(folder + "/final.safetensors", final_model.bytes);
}

}  // namespace quantfl::coordinator
