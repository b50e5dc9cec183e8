#include <utility>

#include "absl/strings/match.h"
#include "server/coordinator/record_json.h"
#include "server/coordinator/records.h"

namespace quantfl::coordinator {
namespace {

constexpr int kFormat = 1;

// A number where there is one for all channels.
Json PerChannel(const federation::PerChannel& numbers) {
  if (numbers.values.size() == 1) return numbers.values[0];
  return numbers.values;
}

std::string Text(absl::string_view text) { return std::string(text); }

Json ClientJson(const MemberStatus& m) {
  return {{"name", m.name.ToString()},
          {"role", Text(federation::ToString(m.role))},
          {"client_index", m.client_index.has_value() ? Json(m.client_index->value()) : Json()},
          {"state", m.state},
          {"last_round", m.last_round.value()},
          {"upload_chunks_done", m.upload_chunks_done},
          {"upload_chunks_total", m.upload_chunks_total},
          {"bytes", ToJson(m.counters)},
          {"idle_bytes", ToJson(m.idle)},
          {"accepted_payload", FieldsToJson(m.accepted_payload)},
          {"late_payload_bytes", m.late_bytes},
          {"refused_payload_bytes", m.refused_bytes},
          {"energy", FieldsToJson(m.energy)},
          {"told_bytes", m.told ? ToJson(*m.told) : Json(nullptr)}};
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
  for (const MemberStatus& member : members) json["clients"].push_back(ClientJson(member));
  json["rounds"] = Json::array();
  for (const RoundRecord& record : status.rounds) json["rounds"].push_back(ToJson(record));
  // Reasons can hold what clients sent; a byte that is no UTF-8 must not cost the records.
  return json.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

}  // namespace quantfl::coordinator
