#include "server/coordinator/recovery.h"

#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "common/base/status.h"
#include "common/codec/spec.h"
#include "server/coordinator/kept_records.h"

namespace quantfl::coordinator {
namespace {

using federation::Role;
using Stage = round::Resumption::Stage;

constexpr size_t kCounterBytes = 8;
constexpr char kForEver[] = "for ever";

std::string Text(double value) { return absl::StrFormat("%.17g", value); }
std::string Text(const federation::PerChannel& numbers) {
  return absl::StrJoin(numbers.values, ",",
                       [](std::string* out, double v) { absl::StrAppend(out, Text(v)); });
}

// Those beside mean and stddev, where they are in use: a run that an earlier version began goes on.
void AddInput(const federation::InputSpec& input, std::map<std::string, std::string>& settings) {
  if (input.height != 0) {
    settings["input.height"] = absl::StrCat(input.height);
    settings["input.width"] = absl::StrCat(input.width);
  }
  if (input.augment.crop_padding != 0) {
    settings["input.crop_padding"] = absl::StrCat(input.augment.crop_padding);
  }
  if (input.augment.flip) settings["input.flip"] = "true";
}

absl::Status Wrong(absl::string_view what) {
  return absl::DataLossError(absl::StrCat("the kept state of the run is damaged: ", what));
}

absl::StatusOr<double> SecondsOf(const store::Notes& notes, const std::string& key) {
  const auto found = notes.find(key);
  double seconds = 0;
  if (found == notes.end()) return seconds;
  if (!absl::SimpleAtod(found->second, &seconds) || !(seconds >= 0 && seconds < 1e12)) {
    return Wrong(absl::StrCat(key, " = \"", found->second, "\""));
  }
  return seconds;
}

absl::StatusOr<federation::ByteCounters> CountersOf(const store::Notes& notes,
                                                    const std::string& key) {
  const auto found = notes.find(key);
  if (found != notes.end()) return ParseCounters(found->second);
  return ledger::NoBytes();
}

Stage StageOf(store::RecoveredRun::Stage stage) {
  switch (stage) {
    case store::RecoveredRun::Stage::kNone:
      return Stage::kNone;
    case store::RecoveredRun::Stage::kCollecting:
      return Stage::kCollecting;
    case store::RecoveredRun::Stage::kAbandoned:
      return Stage::kAbandoned;
    case store::RecoveredRun::Stage::kCommitted:
      return Stage::kCommitted;
  }
  return Stage::kNone;
}

absl::Status ReadOffences(const store::Notes& notes, base::MemberId id, KeptMember& member) {
  if (const auto offences = notes.find(OffencesKey(id));
      offences != notes.end() && !absl::SimpleAtoi(offences->second, &member.offences)) {
    return Wrong(absl::StrCat(offences->first, " = \"", offences->second, "\""));
  }
  const auto until = notes.find(QuarantineKey(id));
  if (member.evicted.empty() || until == notes.end() || until->second.empty()) {
    return absl::OkStatus();
  }
  int64_t seconds = 0;
  if (until->second == kForEver) {
    member.quarantined_until = absl::InfiniteFuture();
  } else if (absl::SimpleAtoi(until->second, &seconds)) {
    member.quarantined_until = absl::FromUnixSeconds(seconds);
  } else {
    return Wrong(absl::StrCat(until->first, " = \"", until->second, "\""));
  }
  return absl::OkStatus();
}

absl::Status ReadMembers(const store::RecoveredRun& found, KeptRun& run) {
  for (const store::MemberRow& row : found.members) {
    KeptMember member;
    member.name = {row.device, row.ordinal};
    if (row.role != static_cast<uint32_t>(Role::kTrainer) &&
        row.role != static_cast<uint32_t>(Role::kEvaluator)) {
      return Wrong(absl::StrCat("role ", row.role, " of ", member.name.ToString()));
    }
    member.role = static_cast<Role>(row.role);
    member.client_index = row.client_index;
    member.evicted = row.evicted;
    QFL_RETURN_IF_ERROR(ReadOffences(found.notes, row.member, member));
    run.machine.members.push_back(
        {member.role, row.client_index, !row.evicted.empty(), row.last_accepted, row.last_round});
    run.members.push_back(std::move(member));
  }
  return absl::OkStatus();
}

absl::Status ReadUpdates(const store::RecoveredRun& found,
                         const std::shared_ptr<const model::Schema>& schema,
                         const std::shared_ptr<const std::vector<int8_t>>& bounds, KeptRun& run) {
  std::map<base::TaskId, base::MemberId> members;
  for (const store::IssuedTask& task : found.tasks) {
    run.machine.tasks.push_back({task.task, task.member});
    members[task.task] = task.member;
  }
  for (const store::RecoveredUpdate& kept : found.updates) {
    const store::AcceptedUpdate& update = kept.update;
    const std::string what = absl::StrCat("the update of task ", update.task.value());
    const auto member = members.find(update.task);
    if (member == members.end()) return Wrong(absl::StrCat(what, ", which was not issued"));
    auto header = codec::ParseHeader(kept.codec_header, schema->update_layout());
    if (!header.ok()) return Wrong(absl::StrCat(what, ": ", header.status().message()));
    if (header->chunk_count != kept.chunks) {
      return Wrong(absl::StrCat(what, " has ", kept.chunks, " chunks of ", header->chunk_count));
    }
    auto payload = UnpackPayload(update.details);
    if (!payload.ok()) return Wrong(absl::StrCat(what, ": ", payload.status().message()));
    UploadPlan plan;
    plan.task = update.task;
    plan.member = member->second;
    plan.round = update.round;
    plan.offer.task_id = update.task;
    plan.offer.digest = update.digest;
    plan.offer.codec_header = kept.codec_header;
    plan.offer.payload_bytes = payload->total();
    plan.offer.chunk_count = header->chunk_count;
    plan.offer.examples = plan.weight = update.weight;
    plan.header = *std::move(header);
    plan.schema = schema;
    plan.bounds = bounds;
    run.machine.stored.push_back(update.task);
    run.machine.weights.push_back(update.weight);
    run.updates.push_back(std::make_shared<UploadState>(std::move(plan), *payload));
  }
  return absl::OkStatus();
}

absl::Status ReadNotes(const store::RecoveredRun& found, KeptRun& run) {
  const store::Notes& notes = found.notes;
  for (size_t i = 0;; ++i) {
    const auto record = notes.find(RecordKey(i));
    if (record == notes.end()) break;
    QFL_ASSIGN_OR_RETURN(RoundRecord read, ParseRecord(record->second));
    if (read.committed && (read.accuracy || read.clients.accuracy)) {
      run.machine.evaluations.push_back({read.round, read.accuracy, read.clients.accuracy});
    }
    run.records.push_back(std::move(read));
  }
  for (size_t i = 0; i < run.machine.members.size(); ++i) {
    const auto weight = notes.find(WeightKey(base::MemberId(static_cast<uint32_t>(i))));
    const auto totals = notes.find(ClientTotalsKey(base::MemberId(static_cast<uint32_t>(i))));
    if (totals != notes.end()) {
      QFL_ASSIGN_OR_RETURN(run.clients[base::MemberId(static_cast<uint32_t>(i))],
                           ParseClientTotals(totals->second));
    }
    if (weight == notes.end()) continue;
    if (!absl::SimpleAtoi(weight->second, &run.machine.members[i].examples)) {
      return Wrong(absl::StrCat(weight->first, " = \"", weight->second, "\""));
    }
  }
  for (const store::IssuedTask& task : found.tasks) {
    const auto report = notes.find(ReportKey(task.task));
    if (report == notes.end()) continue;
    QFL_ASSIGN_OR_RETURN(run.reports[task.task], ParseReport(report->second));
  }
  QFL_ASSIGN_OR_RETURN(run.trainers, CountersOf(notes, kNoteTrainers));
  QFL_ASSIGN_OR_RETURN(run.evaluators, CountersOf(notes, kNoteEvaluators));
  QFL_ASSIGN_OR_RETURN(const double started, SecondsOf(notes, kNoteStarted));
  QFL_ASSIGN_OR_RETURN(const double uptime, SecondsOf(notes, kNoteUptime));
  QFL_ASSIGN_OR_RETURN(const double collected, SecondsOf(notes, kNoteCollected));
  QFL_ASSIGN_OR_RETURN(const double evaluated, SecondsOf(notes, kNoteEvaluated));
  run.started = absl::FromUnixSeconds(static_cast<int64_t>(started));
  run.uptime = absl::Seconds(uptime);
  run.machine.collected_for = absl::Seconds(collected);
  run.machine.evaluated = notes.count(kNoteEvaluated) > 0 && evaluated == found.model_round.value();
  const auto paused = notes.find(kNotePaused);
  run.machine.paused = paused != notes.end() && paused->second == "1";
  if (const auto stop = notes.find(kNoteStop); stop != notes.end()) run.stop = stop->second;
  return absl::OkStatus();
}

}  // namespace

std::string RecordKey(size_t index) { return absl::StrFormat("record/%08d", index); }
std::string ClientRoundsKey(size_t index) {
  return absl::StrFormat("archive/client_rounds/%08d", index);
}
std::string ClientTotalsKey(base::MemberId member) {
  return absl::StrCat("client/", member.value());
}
std::string WeightKey(base::MemberId member) { return absl::StrCat("weight/", member.value()); }
std::string ReportKey(base::TaskId task) { return absl::StrCat("attempt/report/", task.value()); }

std::string OffencesKey(base::MemberId member) { return absl::StrCat("offences/", member.value()); }
std::string QuarantineKey(base::MemberId member) {
  return absl::StrCat("quarantine/", member.value());
}
std::string SerializeUntil(absl::Time until) {
  return until == absl::InfiniteFuture() ? kForEver : absl::StrCat(absl::ToUnixSeconds(until));
}

std::map<std::string, std::string> Settings(const RunOptions& options) {
  const federation::RunDescriptor& run = options.run;
  const round::RoundPolicy& policy = options.policy;
  const round::EarlyStop& stop = policy.early_stop;
  const federation::TrainingSpec& training = options.training;
  const aggregation::ServerOptimiserSpec& optimiser = options.server_optimiser;
  std::map<std::string, std::string> settings = {
      {"name", run.name},
      {"seed", absl::StrCat(run.seed)},
      {"model.architecture", run.architecture},
      {"model.classes", absl::StrCat(run.classes)},
      {"model.file", absl::StrCat("sha256:", run.initial_model.Hex())},
      {"model schema", absl::StrCat("sha256:", run.schema.Hex())},
      {"input.mean", Text(run.input.mean)},
      {"input.stddev", Text(run.input.stddev)},
      {"data.partition", absl::StrCat(static_cast<int>(run.partition.kind))},
      {"data.partitions", absl::StrCat(run.partition.partitions)},
      {"data.alpha", Text(run.partition.alpha)},
      {"data.seed", absl::StrCat(run.partition.seed)},
      {"data.shards_per_client", absl::StrCat(run.partition.shards_per_client)},
      {"data.examples_max", absl::StrCat(run.partition.examples_max)},
      {"training.learning_rate", Text(training.learning_rate)},
      {"training.momentum", Text(training.momentum)},
      {"training.weight_decay", Text(training.weight_decay)},
      {"training.batch_size", absl::StrCat(training.batch_size)},
      {"training.local_epochs", absl::StrCat(training.local_epochs)},
      {"training.optimiser", std::string(federation::ToString(training.optimiser))},
      {"training.adam_beta1", Text(training.beta1)},
      {"training.adam_beta2", Text(training.beta2)},
      {"training.adam_epsilon", Text(training.epsilon)},
      {"training.label_smoothing", Text(training.label_smoothing)},
      {"training.local_steps", absl::StrCat(training.local_steps)},
      {"training.schedule", std::string(ToString(options.schedule.kind))},
      {"training.schedule_final", Text(options.schedule.final_fraction)},
      {"training.schedule_rounds", absl::StrCat(options.schedule.step_rounds)},
      {"training.schedule_factor", Text(options.schedule.factor)},
      {"training.cache_passes", absl::StrCat(training.cache_passes)},
      {"training.cache_dtype", std::string(federation::ToString(training.cache_dtype))},
      {"training.max_examples", absl::StrCat(options.max_examples)},
      {"codec.uplink", codec::ToString(options.codec)},
      {"server_optimiser.kind", aggregation::ToString(optimiser.kind)},
      {"server_optimiser.learning_rate", Text(optimiser.learning_rate)},
      {"server_optimiser.momentum", Text(optimiser.momentum)},
      {"server_optimiser.beta1", Text(optimiser.beta1)},
      {"server_optimiser.beta2", Text(optimiser.beta2)},
      {"server_optimiser.tau", Text(optimiser.tau)},
      {"round.bound_factor", Text(options.bound.factor)},
      {"round.bound_min", Text(options.bound.least)},
      {"round.rounds", absl::StrCat(policy.rounds)},
      {"round.cohort", absl::StrCat(policy.cohort)},
      {"round.over_selection", Text(policy.over_selection)},
      {"round.goal", absl::StrCat(policy.goal)},
      {"round.min_fraction", Text(policy.min_fraction)},
      {"round.selection", round::SelectionNames()[static_cast<size_t>(policy.selection)]},
      {"evaluation.enabled", options.evaluate ? "true" : "false"},
      {"evaluation.clients_every", absl::StrCat(policy.client_evaluation_every)},
      {"evaluation.clients_cohort", absl::StrCat(policy.client_evaluation_cohort)},
      {"early_stop.watch", round::WatchNames()[static_cast<size_t>(stop.watch)]},
      {"early_stop.target_accuracy", stop.target_accuracy ? Text(*stop.target_accuracy) : "none"},
      {"early_stop.patience", absl::StrCat(stop.patience)},
      {"early_stop.min_delta", Text(stop.min_delta)}};
  AddInput(run.input, settings);
  // Not where it is what an earlier version did, whose runs go on.
  if (options.downlink.codec != codec::Fp32Spec()) {
    settings["downlink.codec"] = codec::ToString(options.downlink.codec);
  }
  return settings;
}

absl::Status CompareSettings(const std::map<std::string, std::string>& kept,
                             const std::map<std::string, std::string>& configured) {
  std::map<std::string, std::string> all = configured;
  all.insert(kept.begin(), kept.end());
  const auto value = [](const std::map<std::string, std::string>& settings,
                        const std::string& key) {
    const auto found = settings.find(key);
    return found == settings.end() ? std::string("nothing") : found->second;
  };
  for (const auto& [key, unused] : all) {
    const std::string before = value(kept, key), now = value(configured, key);
    if (before == now) continue;
    return absl::FailedPreconditionError(absl::StrCat(
        key, " is ", now, " now, but the run that is kept here was begun with ", before,
        ": set it back, choose another name or state_dir, or begin anew with --fresh"));
  }
  return absl::OkStatus();
}

std::string PackPayload(const codec::PayloadBytes& payload) {
  std::string packed;
  for (const uint64_t value :
       {payload.codes, payload.tables, payload.side_information, payload.headers}) {
    for (size_t i = 0; i < kCounterBytes; ++i) {
      packed.push_back(static_cast<char>((value >> (8 * i)) & 0xff));
    }
  }
  return packed;
}

absl::StatusOr<codec::PayloadBytes> UnpackPayload(const std::string& details) {
  if (details.size() != 4 * kCounterBytes) {
    return absl::DataLossError(absl::StrCat(details.size(), " bytes of details"));
  }
  const auto read = [&](size_t index) {
    uint64_t value = 0;
    for (size_t i = 0; i < kCounterBytes; ++i) {
      value |= uint64_t{static_cast<uint8_t>(details[kCounterBytes * index + i])} << (8 * i);
    }
    return value;
  };
  return codec::PayloadBytes{read(0), read(1), read(2), read(3)};
}

absl::StatusOr<KeptRun> ReadKeptRun(const store::RecoveredRun& found,
                                    const std::shared_ptr<const model::Schema>& schema,
                                    const std::shared_ptr<const std::vector<int8_t>>& bounds) {
  KeptRun run;
  run.machine.next_task = found.next_task;
  run.machine.stage = StageOf(found.stage);
  run.machine.round = found.round;
  run.machine.attempt = found.attempt;
  QFL_RETURN_IF_ERROR(ReadMembers(found, run));
  QFL_RETURN_IF_ERROR(ReadUpdates(found, schema, bounds, run));
  QFL_RETURN_IF_ERROR(ReadNotes(found, run));
  if (absl::Status status = round::RoundMachine::Check(run.machine); !status.ok()) {
    return Wrong(status.message());
  }
  return run;
}

absl::StatusOr<Moments> ReadKeptMoments(const store::RecoveredRun& found,
                                        const aggregation::ServerOptimiserSpec& spec,
                                        const model::Schema& schema) {
  if (aggregation::MomentCount(spec.kind) == 0) return Moments::Begin(spec, schema);
  const auto digest = found.notes.find(kNoteMoments);
  if (digest == found.notes.end()) return Wrong("no moments were committed");
  if (base::Sha256(found.moments).Hex() != digest->second) {
    return Wrong(absl::StrCat("the moments after round ", found.model_round.value(),
                              " are missing, or not those that were committed"));
  }
  return Moments::Parse(spec, schema, found.moments);
}

absl::Status ReadKeptRows(store::RunStore& store, KeptRun& run) {
  for (size_t i = 0; i < run.records.size(); ++i) {
    for (const ClientRound& row : run.rows) run.sums[row.client].Add(row);
    run.rows.clear();
    const absl::StatusOr<std::string> lines = store.ReadNote(ClientRoundsKey(i));
    if (absl::IsNotFound(lines.status())) continue;
    QFL_RETURN_IF_ERROR(lines.status());
    QFL_ASSIGN_OR_RETURN(run.rows, ParseClientRounds(*lines));
  }
  return absl::OkStatus();
}

}  // namespace quantfl::coordinator
