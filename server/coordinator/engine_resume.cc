// What a run keeps besides its updates and models, and how it goes on from that.
#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "common/base/check.h"
#include "server/coordinator/engine.h"
#include "server/coordinator/kept_records.h"

namespace quantfl::coordinator {
namespace {

using base::LogLevel;
using base::MemberId;

constexpr absl::Duration kKeepRecordsAfter = absl::Seconds(1);

}  // namespace

void Engine::RestoreMembers(const KeptRun& kept) {
  for (const KeptMember& from : kept.members) {
    const MemberId id(static_cast<uint32_t>(members_.size()));
    const uint32_t last_round = kept.machine.members[id.value()].last_round.value();
    Member member;
    member.name = from.name;
    member.role = from.role;
    member.client_index = from.client_index;
    member.evicted = from.evicted;
    member.offences = from.offences;
    member.quarantined_until = from.quarantined_until;
    if (last_round > 0) member.holds = base::RoundId(last_round - 1);
    ++clients_of_device_[from.name.device];
    members_.push_back(std::move(member));
    by_name_[from.name] = id;
    if (from.client_index) by_index_[*from.client_index] = id;
  }
}

// The last record's rows, and the sums of those before.
void Engine::RestoreRows(const KeptRun& kept) {
  const auto member_of = [this](const std::string& client) -> std::optional<MemberId> {
    const auto name = federation::ClientName::Parse(client);
    const auto found = name.ok() ? by_name_.find(*name) : by_name_.end();
    return found != by_name_.end() ? std::optional<MemberId>(found->second) : std::nullopt;
  };
  for (const auto& [client, sum] : kept.sums) {
    if (const auto member = member_of(client)) client_sums_[*member] = sum;
  }
  for (const ClientRound& row : kept.rows) {
    const auto member = member_of(row.client);
    if (member) client_rounds_[kept.records.size() - 1][*member] = row;
  }
}

// As BeginRecord and the verdicts left it.
void Engine::RestoreAttempt(const KeptRun& kept) {
  const round::Resumption& machine = kept.machine;
  const auto same = [&](const RoundRecord& record) {
    return record.round == machine.round && record.attempt == machine.attempt;
  };
  RoundRecord record;
  // What was counted of it, perhaps an abandonment that did not become durable.
  if (!records_.empty() && same(records_.back())) {
    const RoundRecord& counted = records_.back();
    record.late = counted.late;
    record.refused = counted.refused;
    record.late_bytes = counted.late_bytes;
    record.refused_bytes = counted.refused_bytes;
    records_.pop_back();
    for (auto& [member, row] : client_rounds_[records_.size()]) {
      // These are counted again.
      row.accepted = false;
      row.payload = {};
      row.energy = {};
    }
  }
  const size_t index = records_.size();
  record.round = machine.round;
  record.attempt = machine.attempt;
  record.cohort = static_cast<uint32_t>(machine.tasks.size());
  record.parameters = schema_->update_layout().n();
  record.model = model_.artifact->digest;
  record.broadcast = model_.broadcast->digest;
  current_tasks_ = machine.tasks.front().task;
  for (const round::Resumption::Task& task : machine.tasks) {
    TaskNote& note = notes_[task.task];
    note.member = task.member;
    note.record = index;
    const auto report = kept.reports.find(task.task);
    if (report != kept.reports.end()) note.report = report->second;
    members_[task.member.value()].task = task.task;
  }
  records_.push_back(std::move(record));
  for (const auto& [task, note] : notes_) {
    RowOf(index, note.member).asked = true;
    if (note.report) BookReport(note);
  }
  for (const std::shared_ptr<UploadState>& update : kept.updates) {
    // Those beyond the goal are durable, but do not count.
    if (records_[index].accepted == machine_.goal()) break;
    const UploadPlan& plan = update->plan();
    uploads_[plan.task] = update;
    TaskNote& note = notes_[plan.task];
    note.accepted = true;
    note.weight = plan.weight;
    CountAccepted(records_[index], update->payload(), plan.weight);
    BookAccepted(index, note.member, update->payload(), plan.weight);
  }
  unsummed_.insert(index);
}

absl::Duration Engine::Uptime() const {
  return uptime_before_ + (started_ ? Now() - started_at_ : absl::ZeroDuration());
}

void Engine::NoteResumed() {
  const absl::Duration collected = machine_.collected_for(Now());
  round_began_ = phase_began_ = Now() - collected;
  uint32_t committed = 0;
  for (const RoundRecord& record : records_.Read().All()) {
    if (record.committed && record.round > base::RoundId(0)) ++committed;
  }
  Note(LogLevel::kInfo, "run_recovered",
       {{"run", options_.run.run_id},
        {"name", options_.run.name},
        {"members", members_.size()},
        {"rounds_committed", committed},
        {"model", model_.artifact->digest.ShortHex()},
        {"round", machine_.round().value()},
        {"attempt", machine_.attempt()},
        {"phase", round::ToString(machine_.phase())},
        {"cohort", machine_.cohort()},
        {"accepted", machine_.accepted()},
        {"collected", absl::FormatDuration(collected)},
        {"paused", machine_.paused()}});
}

void Engine::Keep(store::Notes notes, bool durable, Callback<absl::Status> done) {
  deps_.storage->Post([this, notes = std::move(notes), durable, done = std::move(done)] {
    const absl::Status status = deps_.store->Put(notes, durable);
    SeeStore(status);
    if (!status.ok()) {
      deps_.logger->Warning("not_kept",
                            {{"what", notes.begin()->first}, {"reason", status.message()}});
    }
    if (done == nullptr) return;
    Post([done, status] {
      done(status.ok() ? status
                       : absl::UnavailableError(absl::StrCat(
                             "done, but a restart would forget it: ", status.message())));
    });
  });
}

store::Notes Engine::RecordNotes(size_t record) const {
  store::Notes notes = {{RecordKey(record), SerializeRecord(records_[record])}};
  if (const auto rows = client_rounds_.find(record); rows != client_rounds_.end()) {
    notes.merge(ClientNotes(record, clients_, rows->second));
  }
  return notes;
}

// A cohort's reports and refusals come in bursts: one write for all of them.
void Engine::KeepRecord(size_t index) {
  if (!unkept_.insert(index).second || unkept_.size() > 1) return;
  deps_.engine->PostAt(Now() + kKeepRecordsAfter, [this] {
    SumReports();
    store::Notes notes;
    for (const size_t changed : unkept_) {
      // Its round's end is being stored with it, and will ask again.
      if (changed == storing_) continue;
      notes.merge(RecordNotes(changed));
    }
    unkept_.clear();
    if (!notes.empty()) Keep(std::move(notes), /*durable=*/false);
  });
}

store::Notes Engine::TotalsNotes(const Totals& totals) const {
  return {{kNoteTrainers, SerializeCounters(totals.trainers)},
          {kNoteEvaluators, SerializeCounters(totals.evaluators)}};
}

// A deadline survives as time elapsed: what is kept lags by this at most.
void Engine::KeepTime() {
  if (time_armed_ || machine_.phase() != round::Phase::kCollecting) return;
  time_armed_ = true;
  const absl::Duration every =
      std::clamp(options_.policy.round_deadline / 100, absl::Seconds(1), absl::Minutes(1));
  deps_.engine->PostAt(Now() + every, [this] {
    time_armed_ = false;
    if (machine_.phase() != round::Phase::kCollecting) return;
    const auto seconds = [](absl::Duration d) {
      return absl::StrFormat("%.3f", absl::ToDoubleSeconds(d));
    };
    Keep({{kNoteCollected, seconds(machine_.collected_for(Now()))},
          {kNoteUptime, seconds(Uptime())}},
         /*durable=*/false);
    KeepTime();
  });
}

}  // namespace quantfl::coordinator
