#include "server/coordinator/records.h"

#include <cmath>
#include <optional>
#include <type_traits>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "nlohmann/json.hpp"

namespace quantfl::coordinator {
namespace {

using base::RoundId;
using Json = nlohmann::ordered_json;

constexpr int kFormat = 1;

// ---- tables ----

using store::RecordCell;
using store::RecordTable;

RecordCell Cell(uint64_t value) { return value; }
RecordCell Cell(double value) { return value; }
template <typename T>
RecordCell Cell(const std::optional<T>& value) {
  return value ? Cell(*value) : RecordCell();
}

// A number where there is one for all channels.
Json PerChannel(const federation::PerChannel& numbers) {
  if (numbers.values.size() == 1) return numbers.values[0];
  return numbers.values;
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
    cells.emplace_back(text);
  }
  void Add(const std::string& way, const federation::LevelBytes& levels) {
    Add(way + "_payload_bytes", levels.payload);
    Add(way + "_messages_bytes", levels.messages);
    Add(way + "_stream_bytes", levels.stream);
    Add(way + "_tcp_bytes", levels.tcp);
    Add(way + "_link_bytes", levels.link);
  }

  std::vector<std::string> names;
  std::vector<RecordCell> cells;
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
  row.Add("client_accuracy", r.clients.accuracy);
  row.Add("client_loss", r.clients.loss);
  row.Add("client_examples", r.clients.examples);
  row.Add("clients_asked", uint64_t{r.clients.asked});
  row.Add("clients_answered", uint64_t{r.clients.answered});
  row.AddText("broadcast_sha256", r.broadcast.Hex());
  row.Add("broadcast_codes_bytes", r.broadcast_payload.codes);
  row.Add("broadcast_tables_bytes", r.broadcast_payload.tables);
  row.Add("broadcast_side_information_bytes", r.broadcast_payload.side_information);
  row.Add("broadcast_headers_bytes", r.broadcast_payload.headers);
  row.Add("downlink_bits_per_parameter", r.downlink_bits_per_parameter);
  row.Add("downlink_nmse", r.downlink_nmse);
  row.Add("model_repairs", uint64_t{r.model_repairs});
  row.Add("cpu_s", r.energy.cpu_s);
  row.Add("compute_measured_j", r.energy.compute_measured_j);
  row.Add("compute_modelled_j", r.energy.compute_modelled_j);
  row.Add("link_modelled_j", r.energy.link_j);
  row.Add("co2e_modelled_g", r.energy.co2e_g);
  return row;
}

Row MakeRow(const MemberStatus& m) {
  Row row;
  row.AddText("client", m.name.ToString());
  row.AddText("role", std::string(federation::ToString(m.role)));
  row.Add("client_index", m.client_index.has_value()
                              ? std::optional<uint64_t>(m.client_index->value())
                              : std::nullopt);
  row.AddText("state", m.state);
  row.Add("last_round", uint64_t{m.last_round.value()});
  row.Add("uplink", m.counters.uplink);
  row.Add("downlink", m.counters.downlink);
  return row;
}

// One row for each record. Without any, too, there are columns.
template <typename Record>
RecordTable MakeTable(std::string name, const std::vector<Record>& records) {
  RecordTable table{std::move(name), MakeRow(Record{}).names, {}};
  for (const Record& record : records) table.rows.push_back(MakeRow(record).cells);
  return table;
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
          {"tcp_bytes", Maybe(levels.tcp)},
          {"link_bytes", Maybe(levels.link)}};
}

Json ToJson(const federation::ByteCounters& counters) {
  return {{"uplink", ToJson(counters.uplink)}, {"downlink", ToJson(counters.downlink)}};
}

Json ToJson(const codec::PayloadBytes& payload) {
  return {{"codes_bytes", payload.codes},
          {"tables_bytes", payload.tables},
          {"side_information_bytes", payload.side_information},
          {"headers_bytes", payload.headers}};
}

Json ToJson(const ledger::EnergyUse& energy) {
  return {{"cpu_s", energy.cpu_s},
          {"compute_measured_j", Maybe(energy.compute_measured_j)},
          {"compute_modelled_j", Maybe(energy.compute_modelled_j)},
          {"link_modelled_j", Maybe(energy.link_j)},
          {"co2e_modelled_g", Maybe(energy.co2e_g)}};
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
  json["accepted_payload"] = ToJson(r.payload);
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
  json["client_evaluation"] = {{"accuracy", Maybe(r.clients.accuracy)},
                               {"loss", Maybe(r.clients.loss)},
                               {"examples", r.clients.examples},
                               {"asked", r.clients.asked},
                               {"answered", r.clients.answered}};
  json["broadcast_sha256"] = r.broadcast.Hex();
  json["broadcast_payload"] = ToJson(r.broadcast_payload);
  json["downlink_bits_per_parameter"] = Number(r.downlink_bits_per_parameter);
  json["downlink_nmse"] = Maybe(r.downlink_nmse);
  json["model_repairs"] = r.model_repairs;
  json["energy"] = ToJson(r.energy);
  return json;
}

std::string Text(absl::string_view text) { return std::string(text); }

Json ToJson(const MemberStatus& m) {
  return {{"name", m.name.ToString()},
          {"role", Text(federation::ToString(m.role))},
          {"client_index", m.client_index.has_value() ? Json(m.client_index->value()) : Json()},
          {"state", m.state},
          {"last_round", m.last_round.value()},
          {"upload_chunks_done", m.upload_chunks_done},
          {"upload_chunks_total", m.upload_chunks_total},
          {"bytes", ToJson(m.counters)}};
}

// Absent without a budget.
Json BudgetJson(const RunStatus& status, const BudgetOptions& budget, const Json& final_accuracy,
                uint32_t rounds) {
  if (!budget.any()) return nullptr;
  return {{"level", Text(ledger::ToString(budget.level))},
          {"total_bytes", Maybe(budget.total_bytes)},
          {"uplink_bytes_per_round", Maybe(budget.uplink_bytes_per_round)},
          {"bytes_per_client", Maybe(budget.bytes_per_client)},
          {"spent_bytes", status.budget_spent_bytes},
          {"reached", absl::StartsWith(status.reason, "budget.")},
          {"bought", {{"rounds", rounds}, {"accuracy", final_accuracy}}}};
}

// What the page shows: items in joules or grams, each measured or modelled, and where their
// constants are from.
Json EnergyJson(const RunStatus& status, const ledger::EnergyModel& model) {
  ledger::EnergyUse use;
  for (const RoundRecord& record : status.rounds) use = use + record.energy;
  Json items = Json::array();
  const auto add = [&items](const char* name, const char* kind, const std::optional<double>& value,
                            const char* unit) {
    if (value) {
      items.push_back({{"name", name}, {"kind", kind}, {"value", Number(*value)}, {"unit", unit}});
    }
  };
  add("computing, by RAPL", "measured", use.compute_measured_j, "J");
  add("computing, by CPU time", "modelled", use.compute_modelled_j, "J");
  add("link", "modelled", use.link_j, "J");
  add("carbon", "modelled", use.co2e_g, "g CO2e");
  return {{"link", model.link},
          {"cpu_w", model.cpu_w},
          {"carbon_g_per_kwh", model.carbon_g_per_kwh},
          {"cpu_s", use.cpu_s},
          {"items", std::move(items)},
          {"sources", ledger::EnergySources(model)}};
}

}  // namespace

RecordTable RoundsTable(const RunStatus& status) { return MakeTable("rounds", status.rounds); }

RecordTable ClientsTable(const std::vector<MemberStatus>& members) {
  return MakeTable("clients", members);
}

std::string RoundsCsv(const RunStatus& status) { return store::ToCsv(RoundsTable(status)); }

std::string ClientsCsv(const std::vector<MemberStatus>& members) {
  return store::ToCsv(ClientsTable(members));
}

std::string SummaryJson(const RunStatus& status, const RunOptions& options,
                        const std::string& software_version,
                        const std::vector<MemberStatus>& members) {
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
                 {"codec", codec::ToString(options.codec)},
                 {"downlink_codec", codec::ToString(options.downlink.codec)}};
  json["data"] = {{"partition", Text(federation::ToString(partition.kind))},
                  {"partitions", partition.partitions},
                  {"alpha", partition.alpha},
                  {"seed", partition.seed},
                  {"examples_max", partition.examples_max},
                  {"shards_per_client", partition.shards_per_client},
                  {"input_mean", PerChannel(run.input.mean)},
                  {"input_stddev", PerChannel(run.input.stddev)},
                  {"input_channels", run.input.channels},
                  {"input_height", run.input.height},
                  {"input_width", run.input.width},
                  {"input_crop_padding", run.input.augment.crop_padding},
                  {"input_flip", run.input.augment.flip}};
  json["training"] = {{"learning_rate", options.training.learning_rate},
                      {"momentum", options.training.momentum},
                      {"weight_decay", options.training.weight_decay},
                      {"batch_size", options.training.batch_size},
                      {"local_epochs", options.training.local_epochs},
                      {"optimiser", Text(federation::ToString(options.training.optimiser))},
                      {"adam_beta1", options.training.beta1},
                      {"adam_beta2", options.training.beta2},
                      {"adam_epsilon", options.training.epsilon},
                      {"label_smoothing", options.training.label_smoothing},
                      {"local_steps", options.training.local_steps},
                      {"schedule", Text(ToString(options.schedule.kind))},
                      {"schedule_final", options.schedule.final_fraction},
                      {"schedule_rounds", options.schedule.step_rounds},
                      {"schedule_factor", options.schedule.factor},
                      {"cache_passes", options.training.cache_passes},
                      {"cache_dtype", Text(federation::ToString(options.training.cache_dtype))},
                      {"max_examples", options.max_examples}};
  const aggregation::ServerOptimiserSpec& optimiser = options.server_optimiser;
  json["server_optimiser"] = {{"kind", aggregation::ToString(optimiser.kind)},
                              {"learning_rate", optimiser.learning_rate},
                              {"momentum", optimiser.momentum},
                              {"beta1", optimiser.beta1},
                              {"beta2", optimiser.beta2},
                              {"tau", optimiser.tau}};
  json["policy"] = {
      {"rounds", options.policy.rounds},
      {"min_clients", options.policy.min_clients},
      {"cohort", options.policy.cohort},
      {"over_selection", options.policy.over_selection},
      {"goal", options.policy.goal},
      {"min_fraction", options.policy.min_fraction},
      {"bound_factor", options.bound.factor},
      {"bound_min", options.bound.least},
      {"selection", round::SelectionNames()[static_cast<size_t>(options.policy.selection)]}};
  json["evaluation"] = {{"evaluator", options.evaluate},
                        {"clients_every", options.policy.client_evaluation_every},
                        {"clients_cohort", options.policy.client_evaluation_cohort}};
  const round::EarlyStop& stop = options.policy.early_stop;
  json["early_stop"] = {{"watch", round::WatchNames()[static_cast<size_t>(stop.watch)]},
                        {"target_accuracy", Maybe(stop.target_accuracy)},
                        {"patience", stop.patience},
                        {"min_delta", stop.min_delta}};
  uint32_t committed = 0;
  const RoundRecord* last = nullptr;
  for (const RoundRecord& record : status.rounds) {
    if (!record.committed) continue;
    last = &record;
    if (record.round.value() > 0) ++committed;
  }
  json["rounds_committed"] = committed;
  json["members"] = status.members;
  json["final"] = {
      {"model", "final.safetensors"},
      {"model_sha256", status.model.Hex()},
      {"broadcast_sha256", status.broadcast.Hex()},
      {"accuracy", last != nullptr ? Maybe(last->accuracy) : Json(nullptr)},
      {"loss", last != nullptr ? Maybe(last->loss) : Json(nullptr)},
      {"client_accuracy", last != nullptr ? Maybe(last->clients.accuracy) : Json(nullptr)},
      {"client_loss", last != nullptr ? Maybe(last->clients.loss) : Json(nullptr)}};
  json["downlink"] = {{"codec", codec::ToString(options.downlink.codec)},
                      {"steps_kept", options.downlink.steps_kept},
                      {"allow_divergent", options.downlink.allow_divergent}};
  Json accuracy = json["final"]["accuracy"];
  if (accuracy.is_null()) accuracy = json["final"]["client_accuracy"];
  json["budget"] = BudgetJson(status, options.budget, accuracy, committed);
  json["energy"] = EnergyJson(status, options.energy);
  json["trainer_bytes"] = ToJson(status.trainer_bytes);
  json["evaluator_bytes"] = ToJson(status.evaluator_bytes);
  json["clients"] = Json::array();
  for (const MemberStatus& member : members) json["clients"].push_back(ToJson(member));
  json["rounds"] = Json::array();
  for (const RoundRecord& record : status.rounds) json["rounds"].push_back(ToJson(record));
  // Reasons can hold what clients sent; a byte that is no UTF-8 must not cost the records.
  return json.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

// ---- what is kept ----

namespace {

// Reads an object's values; the first that is missing or of a wrong kind is remembered.
class Reader {
 public:
  explicit Reader(const std::string& text) : json_(Json::parse(text, nullptr, false)) {}
  explicit Reader(Json json) : json_(std::move(json)) {}

  template <typename T>
  void Get(const char* key, T& value) {
    const Json* found = Find(key);
    if (found == nullptr) return;
    if constexpr (std::is_same_v<T, bool>) {
      if (found->is_boolean()) return void(value = found->get<bool>());
    } else if constexpr (std::is_same_v<T, std::string>) {
      if (found->is_string()) return void(value = found->get<std::string>());
    } else if constexpr (std::is_floating_point_v<T>) {
      if (found->is_number()) return void(value = found->get<T>());
      if (found->is_null()) return;  // not finite when it was written
    } else {
      if (found->is_number_unsigned()) return void(value = found->get<T>());
    }
    Fail(key);
  }
  template <typename T>
  void Get(const char* key, std::optional<T>& value) {
    const Json* found = Find(key);
    if (found == nullptr) return;
    if (found->is_null()) return value.reset();
    T read{};
    Get(key, read);
    value = read;
  }
  void Get(const char* key, RoundId& value) {
    uint32_t number = 0;
    Get(key, number);
    value = RoundId(number);
  }
  void Get(const char* key, absl::Duration& value) {
    double seconds = 0;
    Get(key, seconds);
    value = absl::Seconds(seconds);
  }
  void Get(const char* key, base::Digest& value) {
    std::string hex;
    Get(key, hex);
    const auto digest = base::Digest::FromHex(hex);
    if (!digest.ok()) return Fail(key);
    value = *digest;
  }
  void Get(const char* key, codec::PayloadBytes& value) {
    Reader reader = Object(key);
    reader.Get("codes_bytes", value.codes);
    reader.Get("tables_bytes", value.tables);
    reader.Get("side_information_bytes", value.side_information);
    reader.Get("headers_bytes", value.headers);
    Join(reader);
  }
  void Get(const char* key, ledger::EnergyUse& value) {
    Reader reader = Object(key);
    reader.Get("cpu_s", value.cpu_s);
    reader.Get("compute_measured_j", value.compute_measured_j);
    reader.Get("compute_modelled_j", value.compute_modelled_j);
    reader.Get("link_modelled_j", value.link_j);
    reader.Get("co2e_modelled_g", value.co2e_g);
    Join(reader);
  }
  void Get(const char* key, federation::LevelBytes& value) {
    Reader reader = Object(key);
    reader.Get("payload_bytes", value.payload);
    reader.Get("messages_bytes", value.messages);
    reader.Get("stream_bytes", value.stream);
    reader.Get("tcp_bytes", value.tcp);
    reader.Get("link_bytes", value.link);
    Join(reader);
  }
  void Get(const char* key, federation::ByteCounters& value) {
    Reader reader = Object(key);
    reader.Read(value);
    Join(reader);
  }
  void Read(federation::ByteCounters& value) {
    Get("uplink", value.uplink);
    Get("downlink", value.downlink);
  }
  Reader Object(const char* key) {
    const Json* found = Find(key);
    return Reader(found == nullptr ? Json() : *found);
  }
  void Join(const Reader& other) {
    if (status_.ok()) status_ = other.status_;
  }
  void Fail(const char* key) {
    if (!status_.ok()) return;
    status_ = absl::DataLossError(absl::StrCat("a kept record: \"", key, "\" is missing or wrong"));
  }
  const absl::Status& status() const { return status_; }

 private:
  const Json* Find(const char* key) {
    if (json_.is_object()) {
      const auto found = json_.find(key);
      if (found != json_.end()) return &*found;
    }
    Fail(key);
    return nullptr;
  }

  Json json_;
  absl::Status status_;
};

std::string Dump(const Json& json) {
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

}  // namespace

std::string SerializeRecord(const RoundRecord& record) { return Dump(ToJson(record)); }

absl::StatusOr<RoundRecord> ParseRecord(const std::string& text) {
  RoundRecord r;
  Reader reader(text);
  reader.Get("round", r.round);
  reader.Get("attempt", r.attempt);
  reader.Get("committed", r.committed);
  reader.Get("reason", r.reason);
  reader.Get("cohort", r.cohort);
  reader.Get("accepted", r.accepted);
  reader.Get("late", r.late);
  reader.Get("refused", r.refused);
  reader.Get("examples", r.examples);
  reader.Get("train_loss", r.train_loss);
  reader.Get("accuracy", r.accuracy);
  reader.Get("loss", r.loss);
  reader.Get("parameters", r.parameters);
  reader.Get("bits_per_parameter", r.bits_per_parameter);
  reader.Get("quantisation_nmse", r.quantisation_nmse);
  reader.Get("accepted_payload", r.payload);
  reader.Get("bytes", r.bytes);
  reader.Get("evaluator_bytes", r.evaluator_bytes);
  reader.Get("late_payload_bytes", r.late_bytes);
  reader.Get("refused_payload_bytes", r.refused_bytes);
  Reader seconds = reader.Object("seconds");
  seconds.Get("collect", r.collect_s);
  seconds.Get("fold", r.fold_s);
  seconds.Get("commit", r.commit_s);
  seconds.Get("evaluate", r.evaluate_s);
  seconds.Get("total", r.total_s);
  seconds.Get("client_train_max", r.client_train_s_max);
  seconds.Get("client_upload_max", r.client_upload_s_max);
  reader.Join(seconds);
  Reader clients = reader.Object("client_evaluation");
  clients.Get("accuracy", r.clients.accuracy);
  clients.Get("loss", r.clients.loss);
  clients.Get("examples", r.clients.examples);
  clients.Get("asked", r.clients.asked);
  clients.Get("answered", r.clients.answered);
  reader.Join(clients);
  reader.Get("model_sha256", r.model);
  reader.Get("broadcast_sha256", r.broadcast);
  reader.Get("broadcast_payload", r.broadcast_payload);
  reader.Get("downlink_bits_per_parameter", r.downlink_bits_per_parameter);
  reader.Get("downlink_nmse", r.downlink_nmse);
  reader.Get("model_repairs", r.model_repairs);
  reader.Get("energy", r.energy);
  if (!reader.status().ok()) return reader.status();
  return r;
}

std::string SerializeCounters(const federation::ByteCounters& counters) {
  return Dump(ToJson(counters));
}

absl::StatusOr<federation::ByteCounters> ParseCounters(const std::string& text) {
  federation::ByteCounters counters;
  Reader reader(text);
  reader.Read(counters);
  if (!reader.status().ok()) return reader.status();
  return counters;
}

std::string SerializeReport(const federation::TrainingReport& report) {
  return Dump({{"loss", Number(report.loss)},
               {"examples", report.examples},
               {"squared_error", Number(report.squared_error)},
               {"squared_norm", Number(report.squared_norm)},
               {"fetch_s", absl::ToDoubleSeconds(report.fetch)},
               {"train_s", absl::ToDoubleSeconds(report.train)},
               {"encode_s", absl::ToDoubleSeconds(report.encode)},
               {"upload_s", absl::ToDoubleSeconds(report.upload)},
               {"cpu_s", Number(report.compute.cpu_s)},
               {"package_j", Maybe(report.compute.package_j)},
               {"model_repair", report.model_repair}});
}

absl::StatusOr<federation::TrainingReport> ParseReport(const std::string& text) {
  federation::TrainingReport report;
  Reader reader(text);
  reader.Get("loss", report.loss);
  reader.Get("examples", report.examples);
  reader.Get("squared_error", report.squared_error);
  reader.Get("squared_norm", report.squared_norm);
  reader.Get("fetch_s", report.fetch);
  reader.Get("train_s", report.train);
  reader.Get("encode_s", report.encode);
  reader.Get("upload_s", report.upload);
  reader.Get("cpu_s", report.compute.cpu_s);
  reader.Get("package_j", report.compute.package_j);
  reader.Get("model_repair", report.model_repair);
  if (!reader.status().ok()) return reader.status();
  return report;
}

absl::Status WriteRecords(base::Env& env, const std::string& folder, const RunStatus& status,
                          const RunOptions& options, const std::string& software_version,
                          const std::vector<MemberStatus>& members, const Artifact& final_model) {
  QFL_RETURN_IF_ERROR(env.CreateDirs(folder));
  const RecordTable rounds = RoundsTable(status), clients = ClientsTable(members);
  const std::string summary = SummaryJson(status, options, software_version, members);
  QFL_ASSIGN_OR_RETURN(const std::string database,
                       store::ToSqlite({rounds, clients, {"summary", {"json"}, {{summary}}}}));
  // summary.json last: where it is, the rest is, and another process has nothing to do.
  QFL_RETURN_IF_ERROR(env.WriteFileAtomically(folder + "/final.safetensors", final_model.bytes));
  for (const auto& [name, bytes] : {std::pair("/rounds.csv", store::ToCsv(rounds)),
                                    {"/clients.csv", store::ToCsv(clients)},
                                    {"/records.sqlite", database},
                                    {"/summary.json", summary}}) {
    QFL_RETURN_IF_ERROR(env.WriteFileAtomically(folder + name, bytes));
  }
  return absl::OkStatus();
}

}  // namespace quantfl::coordinator
