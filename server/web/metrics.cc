#include "server/web/metrics.h"

#include <cmath>
#include <map>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_replace.h"

namespace quantfl::web {
namespace {

using Labels = std::vector<std::pair<std::string, std::string>>;

class Exposition {
 public:
  // Begins a family; its samples follow.
  void Family(absl::string_view name, absl::string_view type, absl::string_view help) {
    name_ = std::string(name);
    absl::StrAppend(&text_, "# HELP ", name, " ", help, "\n# TYPE ", name, " ", type, "\n");
  }
  void Sample(double value, const Labels& labels = {}) {
    absl::StrAppend(&text_, name_);
    for (size_t i = 0; i < labels.size(); ++i) {
      absl::StrAppend(
          &text_, i == 0 ? "{" : ",", labels[i].first, "=\"",
          absl::StrReplaceAll(labels[i].second, {{"\\", "\\\\"}, {"\"", "\\\""}, {"\n", "\\n"}}),
          "\"");
    }
    if (!labels.empty()) absl::StrAppend(&text_, "}");
    // Counts of bytes stay exact to 2^53.
    if (std::isfinite(value)) {
      absl::StrAppendFormat(&text_, " %.17g\n", value);
    } else {
      absl::StrAppend(&text_, std::isnan(value) ? " NaN\n" : value > 0 ? " +Inf\n" : " -Inf\n");
    }
  }
  void Sample(const std::optional<double>& value, const Labels& labels = {}) {
    if (value.has_value()) Sample(*value, labels);
  }
  std::string Take() && { return std::move(text_); }

 private:
  std::string name_;
  std::string text_;
};

std::optional<double> Number(const std::optional<uint64_t>& value) {
  return value.has_value() ? std::optional<double>(static_cast<double>(*value)) : std::nullopt;
}

void Levels(Exposition& out, const federation::LevelBytes& bytes, const Labels& labels) {
  const auto with = [&labels](const char* level) {
    Labels all = labels;
    all.emplace_back("level", level);
    return all;
  };
  out.Sample(static_cast<double>(bytes.payload), with("payload"));
  out.Sample(static_cast<double>(bytes.messages), with("messages"));
  out.Sample(Number(bytes.stream), with("stream"));
  out.Sample(Number(bytes.tcp), with("tcp"));
  out.Sample(Number(bytes.link), with("link"));
}

}  // namespace

std::string MetricsText(const coordinator::RunStatus& status,
                        const std::vector<coordinator::MemberStatus>& members,
                        absl::string_view codec, absl::string_view software_version) {
  Exposition out;
  out.Family("quantfl_run_info", "gauge", "The run, as labels.");
  out.Sample(1, {{"run", status.run.name},
                 {"run_id", status.run.run_id},
                 {"architecture", status.run.architecture},
                 {"codec", std::string(codec)},
                 {"version", std::string(software_version)}});
  out.Family("quantfl_run_state", "gauge", "1 for the state that the run is in.");
  for (const char* state :
       {"waiting_for_clients", "running", "paused", "finished", "stopped", "failed"}) {
    out.Sample(status.state == state ? 1 : 0, {{"state", state}});
  }
  out.Family("quantfl_run_start_time_seconds", "gauge", "When the run began, Unix time.");
  out.Sample(absl::ToDoubleSeconds(status.started - absl::UnixEpoch()));
  out.Family("quantfl_round", "gauge", "The round under way.");
  out.Sample(status.round.value());
  out.Family("quantfl_rounds_planned", "gauge", "Rounds of the run.");
  out.Sample(status.rounds_total);
  out.Family("quantfl_members", "gauge", "Clients and evaluators that have joined.");
  out.Sample(status.members);
  out.Family("quantfl_trainers_connected", "gauge", "Trainers with an open stream of tasks.");
  out.Sample(status.trainers_connected);
  out.Family("quantfl_cohort_size", "gauge", "Clients asked in the round under way.");
  out.Sample(status.cohort);

  double committed = 0, abandoned = 0, accepted = 0, late = 0, refused = 0, examples = 0;
  double late_bytes = 0, refused_bytes = 0, repeated_bytes = 0;
  ledger::EnergyUse energy;
  std::map<std::string, double> seconds = {
      {"collect", 0}, {"fold", 0}, {"commit", 0}, {"evaluate", 0}};
  const coordinator::RoundRecord* last = nullptr;
  std::optional<double> accuracy, loss;
  for (const coordinator::RoundRecord& r : status.rounds) {
    if (r.committed) {
      if (r.round.value() > 0) ++committed;
      last = &r;
      if (r.accuracy.has_value()) accuracy = r.accuracy;
      if (r.loss.has_value()) loss = r.loss;
    } else {
      ++abandoned;
    }
    accepted += r.accepted;
    late += r.late;
    refused += r.refused;
    examples += static_cast<double>(r.examples);
    late_bytes += static_cast<double>(r.late_bytes);
    refused_bytes += static_cast<double>(r.refused_bytes);
    repeated_bytes += static_cast<double>(r.repeated_bytes());
    energy = energy + r.energy;
    seconds["collect"] += r.collect_s;
    seconds["fold"] += r.fold_s;
    seconds["commit"] += r.commit_s;
    seconds["evaluate"] += r.evaluate_s;
  }
  out.Family("quantfl_rounds_total", "counter", "Rounds that have ended.");
  out.Sample(committed, {{"outcome", "committed"}});
  out.Sample(abandoned, {{"outcome", "abandoned"}});
  out.Family("quantfl_updates_total", "counter", "Updates of the rounds that have ended.");
  out.Sample(accepted, {{"verdict", "accepted"}});
  out.Sample(late, {{"verdict", "late"}});
  out.Sample(refused, {{"verdict", "refused"}});
  out.Family("quantfl_wasted_payload_bytes_total", "counter", "Payload received for nothing.");
  out.Sample(late_bytes, {{"verdict", "late"}});
  out.Sample(refused_bytes, {{"verdict", "refused"}});
  out.Sample(repeated_bytes, {{"verdict", "repeated"}});
  out.Family("quantfl_examples_total", "counter", "Examples trained on, summed over updates.");
  out.Sample(examples);
  out.Family("quantfl_phase_seconds_total", "counter", "Seconds by phase of a round.");
  for (const auto& [phase, total] : seconds) out.Sample(total, {{"phase", phase}});
  out.Family("quantfl_cpu_seconds_total", "counter", "CPU time of trainers.");
  out.Sample(energy.cpu_s);
  if (energy.compute_measured_j || energy.compute_modelled_j || energy.link_j) {
    out.Family(
        "quantfl_energy_joules_total", "counter",
        "Of trainers: computing, measured by RAPL or modelled from CPU time; link, modelled.");
    out.Sample(energy.compute_measured_j, {{"part", "compute"}, {"kind", "measured"}});
    out.Sample(energy.compute_modelled_j, {{"part", "compute"}, {"kind", "modelled"}});
    out.Sample(energy.link_j, {{"part", "link"}, {"kind", "modelled"}});
  }
  if (energy.co2e_g) {
    out.Family("quantfl_co2e_grams_total", "counter", "Modelled from the joules.");
    out.Sample(*energy.co2e_g);
  }
  if (accuracy.has_value()) {
    out.Family("quantfl_accuracy_ratio", "gauge", "Of the last evaluated model, 0..1.");
    out.Sample(*accuracy);
  }
  if (loss.has_value()) {
    out.Family("quantfl_loss", "gauge", "Of the last evaluated model.");
    out.Sample(*loss);
  }
  if (last != nullptr && last->accepted > 0) {
    out.Family("quantfl_train_loss", "gauge", "Weighted mean of what clients reported.");
    out.Sample(last->train_loss);
    // In the base unit, as the naming rules ask for.
    out.Family("quantfl_payload_bytes_per_parameter", "gauge",
               "Of the last round's accepted updates: an eighth of the bits.");
    out.Sample(last->bits_per_parameter / 8);
    if (last->quantisation_nmse.has_value()) {
      out.Family("quantfl_quantisation_nmse_ratio", "gauge",
                 "Squared error of the quantiser over the squared norm, last round.");
      out.Sample(*last->quantisation_nmse);
    }
  }

  const bool each = members.size() <= kClientSeriesMax;
  const auto labels = [](const coordinator::MemberStatus& m) {
    return Labels{{"client", m.name.ToString()},
                  {"role", std::string(federation::ToString(m.role))}};
  };
  const auto levels = [&](const char* name, const char* help, auto way) {
    out.Family(name, "counter", help);
    if (each) {
      for (const coordinator::MemberStatus& m : members) Levels(out, way(m.counters), labels(m));
    } else {
      Levels(out, way(status.trainer_bytes), {{"role", "trainer"}});
      Levels(out, way(status.evaluator_bytes), {{"role", "evaluator"}});
    }
  };
  levels("quantfl_uplink_bytes_total", "From clients, counted at the coordinator.",
         [](const federation::ByteCounters& c) { return c.uplink; });
  levels("quantfl_downlink_bytes_total", "To clients, counted at the coordinator.",
         [](const federation::ByteCounters& c) { return c.downlink; });
  if (each && !members.empty()) {
    for (const bool up : {true, false}) {
      out.Family(up ? "quantfl_idle_uplink_bytes_total" : "quantfl_idle_downlink_bytes_total",
                 "counter", "Of these, while the client had no task.");
      for (const coordinator::MemberStatus& m : members) {
        Levels(out, up ? m.idle.uplink : m.idle.downlink, labels(m));
      }
    }
  }
  return std::move(out).Take();
}

}  // namespace quantfl::web
