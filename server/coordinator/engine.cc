#include "server/coordinator/engine.h"

#include <algorithm>
#include <utility>
#include <variant>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "common/base/check.h"
#include "common/base/status.h"
#include "common/codec/update.h"
#include "common/model/safetensors.h"

namespace quantfl::coordinator {
namespace {

using base::LogLevel;
using base::SteadyTime;

constexpr size_t kRunIdBytes = 8;

}  // namespace

absl::StatusOr<std::shared_ptr<const std::vector<int8_t>>> BoundsOf(const std::string& safetensors,
                                                                    const model::Schema& schema,
                                                                    const RunOptions& options) {
  QFL_ASSIGN_OR_RETURN(std::vector<float> flat, model::LoadFlat(safetensors, schema));
  const codec::Layout& layout = schema.update_layout();
  if (layout.n() != schema.size()) flat = schema.Gather(flat);
  return std::make_shared<const std::vector<int8_t>>(
      aggregation::BoundExponents(flat, layout, options.codec, options.bound));
}

absl::StatusOr<std::unique_ptr<Coordinator>> Coordinator::Create(RunOptions options,
                                                                 model::Schema schema,
                                                                 std::string initial,
                                                                 CoordinatorDeps deps) {
  QFL_CHECK(deps.engine && deps.storage && deps.compute && deps.clock && deps.logger &&
            deps.store && deps.ledger);
  QFL_RETURN_IF_ERROR(Validate(options));
  if (!options.run.architecture.empty() && options.run.architecture != schema.architecture()) {
    return absl::InvalidArgumentError(absl::StrCat("the run's architecture is ",
                                                   options.run.architecture, ", its schema is for ",
                                                   schema.architecture()));
  }
  if (options.codec.max_bytes != 0) {
    // What no update of this model can undercut: one in which nothing has changed.
    const codec::Layout& layout = schema.update_layout();
    const auto least = codec::Encode(std::vector<float>(layout.n()), layout, options.codec, {});
    QFL_RETURN_IF_ERROR(base::Annotate(least.status(), "codec, an update of zeros"));
  }
  auto initial_bounds = BoundsOf(initial, schema, options);
  if (!initial_bounds.ok()) {
    return absl::InvalidArgumentError(
        absl::StrCat("initial model: ", initial_bounds.status().message()));
  }
  QFL_ASSIGN_OR_RETURN(const model::SafetensorsView view, model::ParseSafetensors(initial));
  std::map<std::string, std::string> metadata = view.metadata;
  const std::shared_ptr<const Artifact> initial_artifact = MakeArtifact(std::move(initial));
  Model model{initial_artifact, initial_artifact, *std::move(initial_bounds)};
  std::vector<KeptStep> steps;
  QFL_ASSIGN_OR_RETURN(Moments moments, Moments::Begin(options.server_optimiser, schema));
  options.run.architecture = schema.architecture();
  options.run.schema = schema.digest();
  options.run.initial_model = model.artifact->digest;

  QFL_ASSIGN_OR_RETURN(store::RecoveredRun found, deps.store->Load());
  auto shared_schema = std::make_shared<const model::Schema>(std::move(schema));
  std::optional<KeptRun> kept;
  if (found.run.run_id.empty()) {
    options.run.run_id = absl::BytesToHexString(base::SecureRandomBytes(kRunIdBytes));
    QFL_RETURN_IF_ERROR(deps.store->BeginRun({options.run.run_id, Settings(options)}));
  } else {
    QFL_RETURN_IF_ERROR(CompareSettings(found.run.settings, Settings(options)));
    options.run.run_id = found.run.run_id;
    if (found.model_round > base::RoundId(0)) {
      QFL_ASSIGN_OR_RETURN(KeptDownlink downlink, ReadKeptDownlink(found));
      model.artifact = MakeArtifact(std::move(found.safetensors));
      model.broadcast = downlink.broadcast != nullptr ? downlink.broadcast : model.artifact;
      steps = std::move(downlink.steps);
      auto bounds = BoundsOf(model.broadcast->bytes, *shared_schema, options);
      if (!bounds.ok()) {
        return absl::DataLossError(absl::StrCat("the model after round ", found.model_round.value(),
                                                ": ", bounds.status().message()));
      }
      model.bounds = *std::move(bounds);
      QFL_ASSIGN_OR_RETURN(moments,
                           ReadKeptMoments(found, options.server_optimiser, *shared_schema));
      std::string().swap(found.moments);
    }
    QFL_ASSIGN_OR_RETURN(kept, ReadKeptRun(found, shared_schema, model.bounds));
    QFL_RETURN_IF_ERROR(ReadKeptRows(*deps.store, *kept));
  }
  return std::make_unique<Engine>(std::move(options), std::move(shared_schema), std::move(model),
                                  std::move(moments), std::move(metadata), deps, std::move(kept),
                                  std::move(steps));
}

Engine::Engine(RunOptions options, std::shared_ptr<const model::Schema> schema, Model current,
               Moments moments, std::map<std::string, std::string> metadata,
               const CoordinatorDeps& deps, std::optional<KeptRun> kept,
               std::vector<KeptStep> steps)
    : options_(std::move(options)),
      deps_(deps),
      schema_(std::move(schema)),
      metadata_(std::move(metadata)),
      link_(std::make_shared<Link>()),
      machine_({options_.policy, options_.run.seed, options_.evaluate},
               kept ? kept->machine : round::Resumption()),
      events_(*deps.clock, *deps.logger),
      join_limiter_({options_.joins_per_second, options_.joins_per_second_of_device,
                     2.0 * options_.policy.members_max, 2.0 * options_.sessions_per_device_max}),
      model_(std::move(current)),
      steps_(options_.downlink.steps_kept),
      moments_(std::move(moments)),
      statistics_(StatisticsOf(*schema_)),
      update_bytes_max_(
          options_.budget.any() ? UpdateBytesMax(options_.codec, schema_->update_layout()) : 0) {
  {
    base::MutexLock lock(link_->mutex);
    link_->engine = this;
  }
  Publish(model_.artifact);
  Publish(model_.broadcast);
  steps_.Know(base::RoundId(0), options_.run.initial_model);
  Publish(MakeArtifact(schema_->CanonicalBytes()));
  if (!kept) return;
  resumed_ = true;
  uptime_before_ = kept->uptime;
  started_wall_ = kept->started;
  stop_before_ = kept->stop;
  totals_ = totals_before_ = {kept->trainers, kept->evaluators, {}};
  RestoreMembers(*kept);
  RestoreRows(*kept);
  clients_ = clients_before_ = kept->clients;
  for (const RoundRecord& record : kept->records) {
    if (record.committed) steps_.Know(record.round, record.broadcast);
  }
  for (KeptStep& step : steps) {
    Publish(step.artifact);
    const base::RoundId round = step.round;
    const auto base = steps_.DigestOf(round);
    if (!base) continue;
    for (const base::Digest& digest :
         steps_.Add(round, *base, model_.broadcast->bytes.size(), std::move(step))) {
      Withdraw(digest);
    }
  }
  records_ = RecordBook(std::move(kept->records));
  if (kept->machine.stage == round::Resumption::Stage::kCollecting) RestoreAttempt(*kept);
}

Engine::~Engine() {
  base::MutexLock lock(link_->mutex);
  link_->engine = nullptr;
}

void Engine::Publish(std::shared_ptr<const Artifact> artifact) {
  base::MutexLock lock(mutex_);
  artifacts_[artifact->digest] = std::move(artifact);
}

void Engine::Withdraw(const base::Digest& digest) {
  base::MutexLock lock(mutex_);
  artifacts_.erase(digest);
}

absl::StatusOr<std::shared_ptr<const Artifact>> Engine::Find(const base::Digest& digest) const {
  base::MutexLock lock(mutex_);
  const auto found = artifacts_.find(digest);
  if (found != artifacts_.end()) return found->second;
  return absl::NotFoundError(
      absl::StrCat("artifact ", digest.Hex(), " is not, or no longer, one of this run"));
}

void Engine::Start(Callback<RunStatus> on_end) {
  Post([this, on_end = std::move(on_end)]() mutable {
    QFL_CHECK(!started_);
    started_ = true;
    on_end_ = std::move(on_end);
    started_at_ = Now();
    LookAtDisk();
    if (resumed_) {
      NoteResumed();
      // A round that was to be the last must not be followed by another.
      if (stop_before_) Dispatch(round::Pause{});
      Dispatch(round::Start{});
      if (stop_before_) Dispatch(round::Stop{*stop_before_});
      for (size_t i = 0; i < members_.size(); ++i) {
        if (members_[i].quarantined_until) ArmQuarantine(base::MemberId(static_cast<uint32_t>(i)));
      }
      return;
    }
    started_wall_ = deps_.clock->WallNow();
    Keep({{kNoteStarted, absl::StrCat(absl::ToUnixSeconds(started_wall_))}}, /*durable=*/false);
    Note(LogLevel::kInfo, "run_started",
         {{"run", options_.run.run_id},
          {"name", options_.run.name},
          {"architecture", options_.run.architecture},
          {"parameters", schema_->update_layout().n()},
          {"codec", codec::ToString(options_.codec)},
          {"rounds", options_.policy.rounds}});
    Dispatch(round::Start{});
  });
}

// ---- the machine ----

void Engine::Dispatch(const round::Event& event) {
  QFL_CHECK(!dispatching_);
  dispatching_ = true;
  const round::Phase before = machine_.phase();
  std::vector<round::Effect> effects = machine_.Handle(event, Now());
  if (machine_.phase() != before && machine_.phase() == round::Phase::kEvaluating) {
    phase_began_ = Now();
    // Somebody looks at a run that stands still, and must learn what it waits for.
    if (machine_.waits_for_evaluator()) {
      Note(LogLevel::kWarning, "waiting_for_evaluator",
           {{"round", machine_.round().value()},
            {"at_most_s", absl::ToInt64Seconds(options_.policy.evaluation_deadline)}});
    }
  }
  for (round::Effect& effect : effects) {
    std::visit([this](auto& e) { Apply(e); }, effect);
  }
  dispatching_ = false;
  ArmTimer();
  KeepTime();
  GrantSlots();
}

void Engine::ArmTimer() {
  const SteadyTime wake = machine_.next_wake();
  if (wake >= timer_) return;
  timer_ = wake;
  deps_.engine->PostAt(wake, [this, wake] {
    if (wake != timer_) return;  // an earlier one took its place
    timer_ = SteadyTime::InfiniteFuture();
    Dispatch(round::Tick{});
  });
}

federation::Instruction Engine::Fill(const round::Instruct& e) const {
  federation::Instruction instruction;
  instruction.sequence = e.sequence;
  if (const auto* train = std::get_if<round::TrainOrder>(&e.order)) {
    federation::TrainTask task;
    task.task_id = train->task;
    task.round = train->round;
    task.model = model_.broadcast->digest;
    task.steps = steps_.From(HeldBy(members_[e.member.value()]));
    task.model_bytes = model_.broadcast->bytes.size();
    task.codec = options_.codec;
    task.bound_exponents = *model_.bounds;
    task.max_examples = options_.max_examples;
    task.training = options_.training;
    task.training.learning_rate = LearningRate(options_.schedule, options_.training.learning_rate,
                                               train->round.value(), options_.policy.rounds);
    instruction.what = std::move(task);
  } else if (const auto* evaluate = std::get_if<round::EvaluateOrder>(&e.order)) {
    // An evaluator looks at what the run is for, trainers at what they hold.
    const Member& member = members_[e.member.value()];
    const bool master = member.role == federation::Role::kEvaluator;
    const Artifact& model = master ? *model_.artifact : *model_.broadcast;
    federation::EvaluateTask task{evaluate->task, evaluate->round, model.digest};
    if (model.digest == model_.broadcast->digest) task.steps = steps_.From(HeldBy(member));
    task.model_bytes = model.bytes.size();
    instruction.what = std::move(task);
  } else if (const auto* wait = std::get_if<federation::WaitUntil>(&e.order)) {
    instruction.what = *wait;
  } else if (const auto* finished = std::get_if<federation::Finished>(&e.order)) {
    instruction.what = *finished;
  } else {
    instruction.what = federation::StandBy{};
  }
  return instruction;
}

void Engine::Apply(round::Instruct& e) {
  Member& member = members_[e.member.value()];
  QFL_CHECK(member.sink != nullptr);
  const federation::Instruction instruction = Fill(e);
  const bool last = std::holds_alternative<federation::WaitUntil>(instruction.what) ||
                    std::holds_alternative<federation::Finished>(instruction.what);
  // What it fetches for its task comes after this.
  if (const auto* train = std::get_if<federation::TrainTask>(&instruction.what)) {
    member.instructed = train->task_id;
    deps_.ledger->SetIdle(e.member, false);
  } else if (const auto* evaluate = std::get_if<federation::EvaluateTask>(&instruction.what)) {
    member.instructed = evaluate->task_id;
    deps_.ledger->SetIdle(e.member, false);
  } else {
    deps_.ledger->SetIdle(e.member, true);
  }
  member.sink->Push(instruction);
  if (last) {
    member.sink_closed = true;
    member.sink->Close(absl::OkStatus());
  }
}

void Engine::Apply(round::StoreTasks& e) {
  if (!e.evaluation) BeginRecord(e);
  for (const auto& item : e.items) {
    if (!e.evaluation || members_[item.member.value()].role != federation::Role::kTrainer) continue;
    evaluations_[item.task] = {item.member, records_.empty() ? 0 : records_.size() - 1};
  }
  std::vector<store::IssuedTask> rows;
  for (const auto& item : e.items) {
    rows.push_back({item.task, e.round, e.attempt, item.member, e.evaluation});
  }
  std::optional<RoundEstimate> estimate;
  if (!e.evaluation && options_.budget.any()) estimate = EstimateRound(e);
  deps_.storage->Post([this, rows = std::move(rows), estimate = std::move(estimate), e] {
    const std::string why = estimate ? CheckBudget(*estimate) : "";
    if (!why.empty()) return Post([this, batch = e.batch, why] { EndForBudget(batch, why); });
    const absl::Status status = deps_.store->RecordTasks(rows);
    SeeStore(status);
    Post([this, e, status] {
      if (!e.evaluation && machine_.phase() == round::Phase::kAssigning) NoteRoundStarted(e);
      Dispatch(round::TasksStored{e.batch, status});
    });
  });
}

void Engine::Apply(round::AdmitUpload&) {
  QFL_CHECK(offer_ != nullptr);
  offer_->admitted = true;
}

void Engine::Apply(round::AnswerUpload& e) {
  if (offer_ != nullptr && offer_->member == e.member && offer_->offer.task_id == e.task) {
    CountVerdict(e.member, e.task, e.verdict, 0);
    if (e.offence) offer_->offence = e.verdict.reason;
    OfferAnswer answer;
    answer.verdict = std::move(e.verdict);
    Answer(*offer_, std::move(answer));
    return;
  }
  ResolveFinish(e.task, std::move(e.verdict));
}

void Engine::Apply(round::FailUpload& e) {
  if (offer_ != nullptr && offer_->member == e.member && offer_->offer.task_id == e.task) {
    Answer(*offer_, e.status);
    return;
  }
  ResolveFinish(e.task, e.status);
}

void Engine::Apply(round::MemberLost& e) {
  Note(LogLevel::kWarning, "member_lost",
       {{"client", NameOf(e.member)},
        {"task", e.task.value()},
        {"idle_timeout", absl::FormatDuration(options_.policy.idle_timeout)}});
}

void Engine::Apply(round::RunEnded& e) {
  const bool failed = machine_.state() == round::RunState::kFailed;
  Note(failed ? LogLevel::kError : LogLevel::kInfo, "run_finished",
       {{"state", round::ToString(machine_.state())}, {"reason", e.reason}});
  for (const auto& pending : waiting_) {
    Answer(*pending, absl::UnavailableError("the run is over: offer again to be told"));
  }
  waiting_.clear();
}

void Engine::Apply(round::RunOver&) {
  deps_.storage->Post([this, trainers = MembersOf(federation::Role::kTrainer),
                       evaluators = MembersOf(federation::Role::kEvaluator)] {
    const Totals totals = ReadTotals(trainers, evaluators);
    Post([this, totals] {
      totals_ = totals;
      totals_.members.clear();
      events_.Close();
      if (!on_end_) return;
      SumReports();
      RunStatus status = StatusWithoutRounds();
      status.rounds = records_.Read().All();
      std::exchange(on_end_, nullptr)(std::move(status));
    });
  });
}

// ---- operators ----

RunStatus Engine::StatusWithoutRounds() const {
  RunStatus status;
  status.run = options_.run;
  status.state = std::string(round::ToString(machine_.state()));
  status.reason = machine_.reason();
  status.goes_on = machine_.storage_failed();
  status.phase = std::string(round::ToString(machine_.phase()));
  status.round = machine_.round();
  status.rounds_total = options_.policy.rounds;
  status.members = static_cast<uint32_t>(members_.size());
  status.trainers_connected = machine_.trainers_connected();
  status.cohort = machine_.cohort();
  status.accepted = machine_.accepted();
  status.uptime = Uptime();
  status.started = started_wall_;
  status.model = model_.artifact->digest;
  status.broadcast = model_.broadcast->digest;
  status.budget_spent_bytes = SpentBytes(totals_.trainers, options_.budget.level).value_or(0);
  status.trainer_bytes = totals_.trainers;
  status.evaluator_bytes = totals_.evaluators;
  return status;
}

void Engine::GetStatus(Callback<RunStatus> done) {
  Post([this, done = std::move(done)]() mutable {
    SumReports();
    // The records of a long run are copied, and made into an answer, where nobody waits for the
    // machine.
    deps_.storage->Post([status = StatusWithoutRounds(), rounds = records_.Read(),
                         done = std::move(done)]() mutable {
      status.rounds = rounds.All();
      done(std::move(status));
    });
  });
}

void Engine::Watch(uint64_t after, std::shared_ptr<EventSink> sink) {
  Post([this, after, sink = std::move(sink)] { events_.Watch(after, sink); });
}

void Engine::Unwatch(std::shared_ptr<EventSink> sink) {
  Post([this, sink = std::move(sink)] { events_.Unwatch(sink); });
}

void Engine::Command(RunCommand command, Callback<absl::Status> done) {
  Post([this, command, done = std::move(done)] {
    if (machine_.phase() == round::Phase::kOver) {
      return done(absl::FailedPreconditionError(absl::StrCat(
          "the run is over (", round::ToString(machine_.state()), ": ", machine_.reason(), ")")));
    }
    // Answered once a restart would not forget it.
    switch (command) {
      case RunCommand::kPause:
        Note(LogLevel::kInfo, "run_paused", {});
        Keep({{kNotePaused, "1"}}, /*durable=*/true, done);
        Dispatch(round::Pause{});
        break;
      case RunCommand::kResume:
        Note(LogLevel::kInfo, "run_resumed", {});
        Keep({{kNotePaused, "0"}}, /*durable=*/true, done);
        Dispatch(round::Resume{});
        break;
      case RunCommand::kStop: {
        Note(LogLevel::kInfo, "run_stopping", {});
        const std::string reason = "stopped by the operator";
        Keep({{kNoteStop, reason}}, /*durable=*/true, done);
        Dispatch(round::Stop{reason});
        break;
      }
    }
  });
}

}  // namespace quantfl::coordinator
