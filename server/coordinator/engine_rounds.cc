#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/check.h"
#include "common/base/status.h"
#include "common/model/model_step.h"
#include "common/model/safetensors.h"
#include "server/coordinator/engine.h"
#include "server/coordinator/kept_records.h"

namespace quantfl::coordinator {
namespace {

using base::LogLevel;
using base::MemberId;
using base::RoundId;
using base::TaskId;
using ledger::operator+;
using ledger::operator-;

// records.size() if there is none. It is not always the last one: a run that failed while a round
// began has that round's attempt too, and a restart evaluates again what was not kept.
size_t IndexOfCommitted(const RecordBook& records, base::RoundId round) {
  for (size_t i = records.size(); i > 0; --i) {
    if (records[i - 1].committed && records[i - 1].round == round) return i - 1;
  }
  return records.size();
}

// An accepted update where it lies.
class StoredUpdate : public aggregation::UpdateSource {
 public:
  StoredUpdate(const UploadPlan& plan, const store::RunStore& store) : plan_(plan), store_(store) {}
  const codec::UpdateHeader& header() const override { return plan_.header; }
  uint32_t weight() const override { return plan_.weight; }
  absl::StatusOr<std::string> ReadChunk(uint32_t index) const override {
    return store_.ReadChunk(plan_.task, index);
  }

 private:
  const UploadPlan& plan_;
  const store::RunStore& store_;
};

std::string Figure(double value) { return absl::StrCat(value); }

}  // namespace

// Of the members whose update was accepted in the attempt under way: what selection goes by.
store::Notes Engine::WeightNotes() const {
  store::Notes notes;
  if (options_.policy.selection != round::Selection::kWeighted) return notes;
  for (auto note = notes_.lower_bound(current_tasks_); note != notes_.end(); ++note) {
    if (!note->second.accepted) continue;
    notes[WeightKey(note->second.member)] = absl::StrCat(note->second.weight);
  }
  return notes;
}

RoundRecord* Engine::CurrentRecord() { return records_.empty() ? nullptr : &records_.back(); }

// ---- a round's beginning and end ----

void Engine::BeginRecord(const round::StoreTasks& e) {
  SumReports();
  // Reports for the attempt before this one may still come.
  notes_.erase(notes_.begin(), notes_.lower_bound(current_tasks_));
  evaluations_.erase(evaluations_.begin(), evaluations_.lower_bound(current_tasks_));
  while (!client_rounds_.empty() && client_rounds_.begin()->first + 1 < records_.size()) {
    const size_t old = client_rounds_.begin()->first;
    if (unkept_.count(old) > 0) Keep(RecordNotes(old), /*durable=*/false);
    for (const auto& [member, row] : client_rounds_.begin()->second) client_sums_[member].Add(row);
    client_rounds_.erase(old);
  }
  if (!e.items.empty()) current_tasks_ = e.items.front().task;
  for (const auto& item : e.items) {
    TaskNote& note = notes_[item.task];
    note.member = item.member;
    note.record = records_.size();
    members_[item.member.value()].task = item.task;
  }
  RoundRecord record;
  record.round = e.round;
  record.attempt = e.attempt;
  record.cohort = static_cast<uint32_t>(e.items.size());
  record.parameters = schema_->update_layout().n();
  record.model = model_.artifact->digest;
  record.broadcast = model_.broadcast->digest;
  records_.push_back(std::move(record));
  for (const auto& item : e.items) RowOf(records_.size() - 1, item.member).asked = true;
  for (const auto& [member, more] : std::exchange(told_since_, {})) {
    BookTold(records_.size() - 1, member, more);
  }
  round_began_ = Now();
}

void Engine::NoteRoundStarted(const round::StoreTasks& e) {
  Note(LogLevel::kInfo, "round_started",
       {{"round", e.round.value()},
        {"attempt", e.attempt},
        {"cohort", e.items.size()},
        {"goal", e.goal},
        {"needed", e.need}});
}

void Engine::Apply(round::AbandonRound& e) {
  SumReports();
  std::string reason = e.reason;
  if (!e.missing.empty()) absl::StrAppend(&reason, "; missing: ", NamesOf(e.missing));
  RoundRecord* record = CurrentRecord();
  QFL_CHECK(record != nullptr);
  record->reason = reason;
  record->total_s = absl::ToDoubleSeconds(Now() - round_began_);
  if (record->collect_s == 0) record->collect_s = record->total_s;
  Note(LogLevel::kWarning, "round_abandoned",
       {{"round", e.round.value()}, {"attempt", e.attempt}, {"reason", reason}});
  for (const auto& [task, state] : uploads_) {
    state->Revoke(absl::AbortedError("its round was abandoned"));
    if (notes_[task].accepted || finishing_.count(task) > 0) continue;
    BookLate(task, state->payload().total());
  }
  uploads_.clear();
  active_.clear();
  folding_.clear();
  next_model_.reset();
  // A run that has failed, by a full disk perhaps, keeps what was acknowledged: a restart goes on
  // with it.
  const bool failed = machine_.state() == round::RunState::kFailed;
  storing_ = records_.size() - 1;
  deps_.storage->Post([this, failed, round = e.round, index = records_.size() - 1, kept = *record,
                       before = totals_, weights = WeightNotes(), clients = clients_,
                       rows = AllRows(records_.size() - 1),
                       trainers = MembersOf(federation::Role::kTrainer),
                       evaluators = MembersOf(federation::Role::kEvaluator)]() mutable {
    // What the attempt cost is its own, not the next one's.
    const Totals totals = ReadTotals(trainers, evaluators);
    if (!failed) {
      FillBytes(kept, totals, before);
      CloseBooks(totals, clients, rows, kept);
      store::Notes notes = TotalsNotes(totals);
      notes[RecordKey(index)] = SerializeRecord(kept);
      notes.merge(ClientNotes(index, clients, rows));
      notes.insert(weights.begin(), weights.end());
      absl::Status status = deps_.store->Put(notes, /*durable=*/true);
      if (status.ok()) status = deps_.store->AbandonRound(round);
      SeeStore(status);
      if (!status.ok()) {
        deps_.logger->Warning("discard_failed",
                              {{"round", round.value()}, {"reason", status.message()}});
      }
    }
    Post([this, index, totals] {
      RecordBytes(index, totals);
      storing_.reset();
      KeepRecord(index);
    });
  });
}

void Engine::Apply(round::StartFold& e) {
  RoundRecord& record = *CurrentRecord();
  record.collect_s = absl::ToDoubleSeconds(Now() - round_began_);
  phase_began_ = Now();
  folding_ = e.tasks;
  std::vector<std::shared_ptr<UploadState>> accepted;
  for (const TaskId task : e.tasks) accepted.push_back(uploads_.at(task));
  std::vector<TaskId> late;
  for (const auto& [task, state] : uploads_) {
    if (notes_[task].accepted || finishing_.count(task) > 0) continue;
    late.push_back(task);
    BookLate(task, state->payload().total());
  }
  for (const TaskId task : late) ForgetUpload(task, absl::AbortedError("its round has ended"));

  aggregation::FoldOptions options;
  options.bound_exponents = *model_.bounds;
  options.cohort = record.cohort;
  options.max_examples = options_.max_examples;
  deps_.compute->Post([this, accepted = std::move(accepted), options = std::move(options),
                       round = e.round, model = model_]() mutable {
    FoldResult result;
    const auto bits = aggregation::FractionBits(options.cohort, options.max_examples);
    if (bits.ok()) {
      options.fraction_bits = *bits;
      result = FoldUpdates(accepted, options, round, model);
    } else {
      result.status = bits.status();
    }
    Post([this, result = std::move(result)]() mutable { Folded(std::move(result)); });
  });
}

Engine::FoldResult Engine::FoldUpdates(const std::vector<std::shared_ptr<UploadState>>& uploads,
                                       const aggregation::FoldOptions& options, RoundId round,
                                       const Model& model) {
  const auto apply = [this](const std::vector<float>& mean, absl::Span<float> trained) {
    return aggregation::ApplyServerOptimiser(options_.server_optimiser, mean, statistics_,
                                             moments_.values(), trained);
  };
  const auto fold = [&]() -> absl::StatusOr<std::shared_ptr<const Artifact>> {
    const codec::Layout& layout = schema_->update_layout();
    std::vector<StoredUpdate> sources;
    sources.reserve(uploads.size());
    for (const auto& upload : uploads) sources.emplace_back(upload->plan(), *deps_.store);
    std::vector<const aggregation::UpdateSource*> pointers;
    pointers.reserve(sources.size());
    for (const StoredUpdate& source : sources) pointers.push_back(&source);
    QFL_ASSIGN_OR_RETURN(std::vector<float> mean, aggregation::Fold(pointers, layout, options));
    QFL_ASSIGN_OR_RETURN(std::vector<float> flat, model::LoadFlat(model.artifact->bytes, *schema_));
    if (layout.n() == schema_->size()) {
      QFL_RETURN_IF_ERROR(apply(mean, absl::MakeSpan(flat)));
    } else {
      std::vector<float> trained = schema_->Gather(flat);
      QFL_RETURN_IF_ERROR(apply(mean, absl::MakeSpan(trained)));
      schema_->Scatter(trained, absl::MakeSpan(flat));
    }
    std::vector<float>().swap(mean);
    return MakeArtifact(model::SerializeSafetensors(
        *schema_, flat, model::MetadataOfRound(metadata_, *schema_, round.value())));
  };
  FoldResult result;
  const auto make = [&]() -> absl::Status {
    QFL_ASSIGN_OR_RETURN(result.model.artifact, fold());
    result.made = MakeBroadcast(options_.downlink.codec, *schema_, options_.run.seed, round,
                                model.broadcast, result.model.artifact);
    result.model.broadcast = result.made.broadcast;
    QFL_ASSIGN_OR_RETURN(result.model.bounds,
                         BoundsOf(result.model.broadcast->bytes, *schema_, options_));
    return absl::OkStatus();
  };
  result.status = make();
  if (!result.status.ok()) return result;
  if (!moments_.file().empty()) result.moments = base::Sha256(moments_.file());
  return result;
}

void Engine::Folded(FoldResult result) {
  if (RoundRecord* record = CurrentRecord(); record != nullptr) {
    record->fold_s = absl::ToDoubleSeconds(Now() - phase_began_);
  }
  phase_began_ = Now();
  if (result.status.ok()) {
    next_model_ = std::move(result.model);
    next_made_ = std::move(result.made);
    moments_digest_ = result.moments;
  }
  Dispatch(round::FoldDone{result.status});
}

void Engine::Apply(round::CommitRound& e) {
  QFL_CHECK(next_model_.has_value());
  store::CommittedRound row{e.round, next_model_->artifact->digest,
                            static_cast<uint32_t>(folding_.size()), folding_};
  SumReports();
  row.moments = moments_.file();
  // Complete but for the time that this takes, which Stored adds.
  RoundRecord kept = *CurrentRecord();
  kept.committed = true;
  kept.model = row.model;
  FillBroadcast(kept, next_made_);
  kept.total_s = absl::ToDoubleSeconds(Now() - round_began_);
  storing_ = records_.size() - 1;
  deps_.storage->Post([this, row = std::move(row), kept = std::move(kept), before = totals_,
                       index = records_.size() - 1, artifact = next_model_->artifact,
                       made = next_made_, moments = moments_digest_, weights = WeightNotes(),
                       clients = clients_, rows = AllRows(records_.size() - 1),
                       trainers = MembersOf(federation::Role::kTrainer),
                       evaluators = MembersOf(federation::Role::kEvaluator)]() mutable {
    const Totals totals = ReadTotals(trainers, evaluators);
    FillBytes(kept, totals, before);
    CloseBooks(totals, clients, rows, kept);
    row.notes = TotalsNotes(totals);
    row.notes[RecordKey(index)] = SerializeRecord(kept);
    row.notes.merge(ClientNotes(index, clients, rows));
    if (!row.moments.empty()) row.notes[kNoteMoments] = moments.Hex();
    row.notes.insert(weights.begin(), weights.end());
    NoteDownlink(artifact->digest, made, row.round, row.notes);
    if (made.broadcast->digest != artifact->digest) row.broadcast = made.broadcast->bytes;
    if (made.step) row.step = made.step->artifact->bytes;
    row.steps_kept = options_.downlink.steps_kept;
    const absl::Status status = deps_.store->CommitRound(row, artifact->bytes);
    SeeStore(status);
    Post([this, status, totals] { Stored(status, totals); });
  });
}

void Engine::Stored(const absl::Status& status, const Totals& totals) {
  storing_.reset();
  if (!status.ok()) return Dispatch(round::RoundStored{status});
  SumReports();
  RoundRecord& record = *CurrentRecord();
  record.committed = true;
  record.commit_s = absl::ToDoubleSeconds(Now() - phase_began_);
  record.total_s = absl::ToDoubleSeconds(Now() - round_began_);
  RecordBytes(records_.size() - 1, totals);
  record.model = next_model_->artifact->digest;
  FillBroadcast(record, next_made_);
  KeepRecord(records_.size() - 1);

  // Every task from here on names the new ones.
  for (const auto& old : {model_.artifact, model_.broadcast}) Withdraw(old->digest);
  model_ = *std::exchange(next_model_, std::nullopt);
  MadeBroadcast made = std::exchange(next_made_, {});
  if (made.step) Publish(made.step->artifact);
  for (const base::Digest& digest :
       steps_.Add(record.round, model_.broadcast->digest, model_.broadcast->bytes.size(),
                  std::move(made.step))) {
    Withdraw(digest);
  }
  Publish(model_.artifact);
  Publish(model_.broadcast);
  if (!made.failure.empty()) {
    Note(LogLevel::kWarning, "downlink_whole",
         {{"round", record.round.value()}, {"reason", made.failure}});
  }
  if (made.nmse && *made.nmse >= 1) {
    Note(LogLevel::kWarning, "downlink_diverges",
         {{"round", record.round.value()},
          {"nmse", Figure(*made.nmse)},
          {"codec", codec::ToString(options_.downlink.codec)}});
  }
  for (const auto& [task, state] : uploads_)
    state->Revoke(absl::AbortedError("its round has ended"));
  uploads_.clear();
  folding_.clear();
  Note(LogLevel::kInfo, "round_committed",
       {{"round", record.round.value()},
        {"attempt", record.attempt},
        {"accepted", record.accepted},
        {"cohort", record.cohort},
        {"examples", record.examples},
        {"train_loss", Figure(record.train_loss)},
        {"bits_per_parameter", Figure(record.bits_per_parameter)},
        {"uplink_payload_bytes", record.bytes.uplink.payload},
        {"uplink_message_bytes", record.bytes.uplink.messages},
        {"downlink_payload_bytes", record.bytes.downlink.payload},
        {"downlink_message_bytes", record.bytes.downlink.messages},
        {"seconds", Figure(record.total_s)},
        {"downlink_bits_per_parameter", Figure(record.downlink_bits_per_parameter)},
        {"model", record.model.ShortHex()},
        {"broadcast", record.broadcast.ShortHex()}});
  Dispatch(round::RoundStored{absl::OkStatus()});
}

// ---- figures ----

Engine::Totals Engine::ReadTotals(const std::vector<MemberId>& trainers,
                                  const std::vector<MemberId>& evaluators) const {
  Totals totals;
  // The ledger counts for this process alone.
  totals.trainers = totals_before_.trainers;
  totals.evaluators = totals_before_.evaluators;
  const auto sum = [&](const std::vector<MemberId>& ids, federation::ByteCounters& into) {
    for (const MemberId id : ids) {
      const ledger::Ledger::Usage usage = deps_.ledger->Read(id);
      if (!HasCarried(usage)) continue;
      into = into + usage.total;
      totals.members[id] = SinceRunBegan(id, usage);
    }
  };
  sum(trainers, totals.trainers);
  sum(evaluators, totals.evaluators);
  return totals;
}

void Engine::FillBytes(RoundRecord& record, const Totals& now, const Totals& before) const {
  record.bytes = now.trainers - before.trainers;
  record.evaluator_bytes = now.evaluators - before.evaluators;
  SetLink(record);
}

void Engine::FillBroadcast(RoundRecord& record, const MadeBroadcast& made) const {
  record.broadcast = made.broadcast->digest;
  record.broadcast_payload = made.payload;
  record.downlink_bits_per_parameter =
      8.0 * static_cast<double>(made.payload.total()) / static_cast<double>(record.parameters);
  record.downlink_nmse = made.nmse;
}

void Engine::RecordBytes(size_t index, const Totals& totals) {
  RoundRecord& record = records_[index];
  FillBytes(record, totals, totals_);
  ClientRounds rows = AllRows(index);
  CloseBooks(totals, clients_, rows, record);
  client_rounds_[index] = std::move(rows);
  totals_ = totals;
  totals_.members.clear();
}

// Reports come before or after the verdict on their update, and after the commit of their round.
void Engine::SumReports() {
  for (const size_t index : std::exchange(unsummed_, {})) SumReports(index);
}

void Engine::SumReports(size_t index) {
  RoundRecord& record = records_[index];
  double loss = 0, weight = 0, squared_error = 0, squared_norm = 0;
  record.client_train_s_max = record.client_upload_s_max = 0;
  for (const auto& [task, note] : notes_) {
    if (note.record != index || !note.report || !note.accepted) continue;
    loss += note.report->loss * note.weight;
    weight += note.weight;
    squared_error += note.report->squared_error;
    squared_norm += note.report->squared_norm;
    record.client_train_s_max =
        std::max(record.client_train_s_max, absl::ToDoubleSeconds(note.report->train));
    record.client_upload_s_max =
        std::max(record.client_upload_s_max, absl::ToDoubleSeconds(note.report->upload));
  }
  if (weight > 0) record.train_loss = loss / weight;
  if (squared_norm > 0) record.quantisation_nmse = squared_error / squared_norm;
  SetLink(record);
}

// Once bytes, computing or what was accepted have changed.
void Engine::SetLink(RoundRecord& record) const {
  ledger::SetLink(options_.energy, record.bytes, 2.0 * record.accepted, record.energy);
}

size_t Engine::RecordIndexOf(TaskId task) const {
  const auto note = notes_.find(task);
  return note != notes_.end() ? note->second.record : records_.size() - 1;
}

// Too late, or replaced by another update of the same task.
void Engine::BookLate(TaskId task, uint64_t bytes) {
  if (records_.empty() || bytes == 0) return;
  const size_t index = RecordIndexOf(task);
  records_[index].late_bytes += bytes;
  if (const auto note = notes_.find(task); note != notes_.end()) {
    RowOf(index, note->second.member).late_bytes += bytes;
  }
  KeepRecord(index);
}

void Engine::Apply(round::AcceptEvaluation& e) {
  QFL_CHECK(evaluation_.has_value());
  RoundRecord& record = EvaluatedRecord(e.round);
  record.accuracy = evaluation_->accuracy;
  record.loss = evaluation_->loss;
  Note(LogLevel::kInfo, "evaluated",
       {{"round", e.round.value()},
        {"client", NameOf(e.member)},
        {"accuracy", Figure(evaluation_->accuracy)},
        {"loss", Figure(evaluation_->loss)},
        {"examples", evaluation_->examples},
        {"seconds", Figure(record.evaluate_s)}});
}

void Engine::Apply(round::SkipEvaluation& e) {
  EvaluatedRecord(e.round);
  Note(LogLevel::kWarning, "evaluation_skipped",
       {{"round", e.round.value()}, {"reason", e.reason}});
}

void Engine::Apply(round::ClientsEvaluated& e) {
  RoundRecord& record = EvaluatedRecord(e.round);
  record.clients.asked = e.asked;
  record.clients.answered = e.answered;
  record.clients.examples = e.examples;
  record.clients.accuracy = e.accuracy;
  record.clients.loss = e.loss;
  std::vector<base::LogField> fields = {{"round", e.round.value()},
                                        {"asked", e.asked},
                                        {"answered", e.answered},
                                        {"examples", e.examples}};
  if (e.accuracy) fields.emplace_back("accuracy", Figure(*e.accuracy));
  if (e.loss) fields.emplace_back("loss", Figure(*e.loss));
  if (!e.missing.empty()) fields.emplace_back("missing", NamesOf(e.missing));
  fields.emplace_back("seconds", Figure(record.evaluate_s));
  Note(e.missing.empty() ? LogLevel::kInfo : LogLevel::kWarning, "clients_evaluated",
       std::move(fields));
}

// Half an evaluation is done again after a kill, so that the records are those of a run without it.
void Engine::Apply(round::EvaluationEnded& e) {
  if (records_.empty()) return;
  EvaluatedRecord(e.round);
  store::Notes notes = RecordNotes(IndexOfCommitted(records_, e.round));
  notes[kNoteEvaluated] = absl::StrCat(e.round.value());
  Keep(std::move(notes), /*durable=*/false);
}

// Its curves begin there.
void Engine::BeginInitialRecord() {
  RoundRecord initial;
  initial.attempt = 0;
  initial.committed = true;
  initial.parameters = schema_->update_layout().n();
  initial.model = model_.artifact->digest;
  MadeBroadcast file;
  file.broadcast = model_.broadcast;
  file.payload = FilePayload(model_.broadcast->bytes.size(), schema_->size());
  FillBroadcast(initial, file);
  // Joining and the first fetches belong to round 1.
  initial.bytes = initial.idle = initial.evaluator_bytes = ledger::NoBytes();
  records_.push_back(std::move(initial));
  round_began_ = phase_began_;
}

// With the time that the evaluation has taken.
RoundRecord& Engine::EvaluatedRecord(RoundId round) {
  const size_t index = IndexOfCommitted(records_, round);
  if (index == records_.size()) {
    QFL_CHECK(round == RoundId(0));
    BeginInitialRecord();
  }
  RoundRecord& record = records_[index];
  record.evaluate_s = absl::ToDoubleSeconds(Now() - phase_began_);
  record.total_s = absl::ToDoubleSeconds(Now() - round_began_);
  return record;
}

}  // namespace quantfl::coordinator
