#ifndef QUANTFL_SERVER_COORDINATOR_ENGINE_H_
#define QUANTFL_SERVER_COORDINATOR_ENGINE_H_

// The one implementation of Coordinator. Everything without a lock below belongs to the engine
// loop.

#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <unordered_map>
#include <vector>

#include "common/base/mutex.h"
#include "server/aggregation/fold.h"
#include "server/coordinator/budget.h"
#include "server/coordinator/client_round.h"
#include "server/coordinator/coordinator.h"
#include "server/coordinator/downlink.h"
#include "server/coordinator/event_log.h"
#include "server/coordinator/moments.h"
#include "server/coordinator/rate_limit.h"
#include "server/coordinator/record_book.h"
#include "server/coordinator/recovery.h"
#include "server/coordinator/upload_state.h"
#include "server/round/round_machine.h"

namespace quantfl::coordinator {

// A model and what depends on it.
struct Model {
  std::shared_ptr<const Artifact> artifact;           // safetensors
  std::shared_ptr<const Artifact> broadcast;          // what clients hold, and train from
  std::shared_ptr<const std::vector<int8_t>> bounds;  // of their updates
};

// Of updates to the model in `safetensors`; what LoadFlat returns where that is not of `schema`.
absl::StatusOr<std::shared_ptr<const std::vector<int8_t>>> BoundsOf(const std::string& safetensors,
                                                                    const model::Schema& schema,
                                                                    const RunOptions& options);

class Engine final : public Coordinator {
 public:
  // `current`: of the last committed round, else the initial one. `kept` and `steps`: of a run that
  // goes on.
  Engine(RunOptions options, std::shared_ptr<const model::Schema> schema, Model current,
         Moments moments, std::map<std::string, std::string> metadata, const CoordinatorDeps& deps,
         std::optional<KeptRun> kept, std::vector<KeptStep> steps);
  ~Engine() override;

  void Start(Callback<RunStatus> on_end) override;
  void Join(Peer peer, federation::JoinRequest request,
            Callback<absl::StatusOr<federation::JoinAnswer>> done) override;
  void OpenTasks(Peer peer, std::string session, std::shared_ptr<InstructionSink> sink) override;
  void CloseTasks(std::string session, std::shared_ptr<InstructionSink> sink) override;
  absl::StatusOr<std::shared_ptr<const Artifact>> Find(const base::Digest& digest) const override;
  absl::StatusOr<base::MemberId> MemberOf(const Peer& peer,
                                          const std::string& session) const override;
  void Offer(Peer peer, std::string session, federation::UpdateOffer offer,
             Callback<absl::StatusOr<OfferAnswer>> done) override;
  void Append(std::shared_ptr<Upload> upload, std::string chunk,
              Callback<absl::Status> done) override;
  void Finish(std::shared_ptr<Upload> upload,
              Callback<absl::StatusOr<federation::UpdateVerdict>> done) override;
  void Suspend(std::shared_ptr<Upload> upload) override;
  void Report(Peer peer, std::string session, federation::ClientReport report,
              Callback<absl::Status> done) override;
  void FailTask(Peer peer, std::string session, federation::TaskFailure failure,
                Callback<absl::Status> done) override;
  void GetStatus(Callback<RunStatus> done) override;
  void ListMembers(Callback<std::vector<MemberStatus>> done) override;
  void ReadClientRounds(Callback<absl::StatusOr<std::vector<std::string>>> done) override;
  void Watch(uint64_t after, std::shared_ptr<EventSink> sink) override;
  void Unwatch(std::shared_ptr<EventSink> sink) override;
  void Command(RunCommand command, Callback<absl::Status> done) override;
  void Evict(federation::ClientName name, std::string reason, Callback<absl::Status> done) override;
  void Readmit(federation::ClientName name, Callback<absl::Status> done) override;

 private:
  struct Member {
    federation::ClientName name;
    federation::Role role = federation::Role::kTrainer;
    std::optional<base::ClientIndex> client_index;
    std::string session;                    // empty: evicted
    uint64_t started_us = 0;                // of the process that has it
    std::shared_ptr<InstructionSink> sink;  // its stream, until CloseTasks
    bool sink_closed = false;               // told to end, CloseTasks has not come yet
    uint32_t offences = 0;
    std::string evicted;                          // why
    std::optional<absl::Time> quarantined_until;  // of an eviction that ends by itself, or may
    base::TaskId task;                            // the last training task
    base::TaskId instructed;                      // the last task of either kind that it was told
    // Of the round whose broadcast model it has; none: nobody knows, perhaps the initial one.
    std::optional<base::RoundId> holds;
  };
  // What uploads hold of the engine: they may outlive it.
  struct Link {
    base::Mutex mutex;
    Engine* engine QFL_GUARDED_BY(mutex);
  };
  struct PendingOffer {
    Peer peer;
    std::string session;
    federation::UpdateOffer offer;
    absl::StatusOr<codec::UpdateHeader> header;
    Callback<absl::StatusOr<OfferAnswer>> done;
    base::MemberId member;
    bool admitted = false;
    std::string offence;  // what nobody offers who means well
  };
  struct PendingFinish {
    base::MemberId member;
    std::shared_ptr<UploadState> state;
    Callback<absl::StatusOr<federation::UpdateVerdict>> done;
  };
  struct PendingJoin {
    Peer peer;
    federation::JoinRequest request;
    Callback<absl::StatusOr<federation::JoinAnswer>> done;
  };
  struct NewMember {
    PendingJoin join;
    std::optional<base::ClientIndex> client_index;
  };
  struct PendingCommit {
    round::StoreUpdate update;
    std::string details;
  };
  // A training task, for the record of its round.
  struct TaskNote {
    base::MemberId member;
    size_t record = 0;  // in records_
    bool accepted = false;
    uint32_t weight = 0;
    std::optional<federation::TrainingReport> report;  // the first
  };
  // A trainer's evaluation that it has not reported.
  struct OpenEvaluation {
    base::MemberId member;
    size_t record = 0;  // in records_, or about to be
  };
  struct Totals {
    federation::ByteCounters trainers = ledger::NoBytes(), evaluators = ledger::NoBytes();
    // Since the run began, of who carried anything in this process.
    std::map<base::MemberId, ledger::Ledger::Usage> members;
  };
  using ClientTotalsBook = std::map<base::MemberId, ClientTotals>;
  struct FoldResult {
    absl::Status status;
    Model model;
    MadeBroadcast made;
    base::Digest moments;  // of their file, where there is one
  };

  void Post(base::Task task) { deps_.engine->Post(std::move(task)); }
  base::SteadyTime Now() const { return deps_.clock->Now(); }
  void Note(base::LogLevel level, absl::string_view kind, std::vector<base::LogField> fields) {
    events_.Add(level, kind, std::move(fields));
  }

  // engine.cc: the machine and its effects
  void Dispatch(const round::Event& event);
  void ArmTimer();
  void Apply(round::Instruct& e);
  void Apply(round::StoreTasks& e);
  void Apply(round::AdmitUpload& e);
  void Apply(round::AnswerUpload& e);
  void Apply(round::FailUpload& e);
  void Apply(round::StoreUpdate& e);
  void Apply(round::RevokeUpload& e);
  void Apply(round::StartFold& e);
  void Apply(round::CommitRound& e);
  void Apply(round::AbandonRound& e);
  void Apply(round::MemberLost& e);
  void Apply(round::AcceptEvaluation& e);
  void Apply(round::SkipEvaluation& e);
  void Apply(round::ClientsEvaluated& e);
  void Apply(round::EvaluationEnded& e);
  void Apply(round::RunEnded& e);
  void Apply(round::RunOver& e);
  federation::Instruction Fill(const round::Instruct& e) const;
  static base::RoundId HeldBy(const Member& member) {
    return member.holds.value_or(base::RoundId(0));
  }
  RunStatus StatusWithoutRounds() const;
  void Publish(std::shared_ptr<const Artifact> artifact);
  void Withdraw(const base::Digest& digest);

  // engine_budget.cc
  struct RoundEstimate {
    base::RoundId round;
    std::vector<base::MemberId> members, trainers;
    std::vector<RoundCost> costs;
  };
  RoundEstimate EstimateRound(const round::StoreTasks& e) const;
  // Why the round may not begin, or nothing.
  std::string CheckBudget(RoundEstimate estimate) const;  // storage executor
  void EndForBudget(uint64_t batch, const std::string& why);
  std::string Bought() const;

  // engine_clients.cc
  // A member's row of a record that is one of the last two attempts', else of the last one.
  ClientRound& RowOf(size_t record, base::MemberId member);
  ClientRound NewRow(size_t record, base::MemberId member) const;
  // With a row for everybody.
  ClientRounds AllRows(size_t record) const;
  void BookAccepted(size_t record, base::MemberId member, const codec::PayloadBytes& payload,
                    uint32_t weight);
  // What a report says that the client spent, in its row and the record; each report once.
  void BookCompute(size_t record, base::MemberId member, const federation::ComputeUse& use);
  void BookReport(const TaskNote& note);
  void BookRefused(size_t record, base::MemberId member, uint64_t bytes);
  // What the member's report says more than the one before; and its row's.
  federation::ByteCounters NoteTold(base::MemberId member,
                                    const federation::ByteCounters& counters);
  void BookTold(size_t record, base::MemberId member, const federation::ByteCounters& more);
  // A boundary: what `now` says more than `clients` goes into `rows` and `record`.
  void CloseBooks(const Totals& now, ClientTotalsBook& clients, ClientRounds& rows,
                  RoundRecord& record) const;
  static store::Notes ClientNotes(size_t record, const ClientTotalsBook& clients,
                                  const ClientRounds& rows);
  // In this process.
  static bool HasCarried(const ledger::Ledger::Usage& usage);
  ledger::Ledger::Usage SinceRunBegan(base::MemberId member, ledger::Ledger::Usage usage) const;
  ledger::Ledger::Usage UsageOf(base::MemberId member) const;  // since the run began

  // engine_limits.cc
  // Of many about the same member a few.
  void NoteLimited(base::LogLevel level, absl::string_view kind, const std::string& who,
                   std::vector<base::LogField> fields);
  void Offence(base::MemberId member, const absl::Status& status);
  // What an evicted member is told.
  absl::Status EvictedError(base::MemberId id) const;
  void ArmQuarantine(base::MemberId id);
  void ReadmitMember(base::MemberId id, const std::string& reason,
                     Callback<absl::Status> done = nullptr);
  uint64_t BytesUnderWay() const;
  // Whether an update of so many bytes may begin.
  absl::Status CheckDisk(uint64_t bytes) const;
  // After every call of the store that writes rows: whether it is the last.
  void SeeStore(const absl::Status& status);  // storage executor
  void LookAtDisk();
  void SeeDisk();  // storage executor
  void DiskSeen(uint64_t free_bytes);

  // engine_members.cc
  void HandleJoins();
  void RefuseJoin(const PendingJoin& join, const absl::Status& status);
  absl::Status CheckJoin(const Peer& peer, const federation::JoinRequest& request) const;
  absl::Status Rejoin(base::MemberId id, const federation::JoinRequest& request);
  void MembersStored(const std::vector<NewMember>& batch, const absl::Status& status);
  federation::JoinAnswer AnswerFor(base::MemberId id) const;
  // `reserved`: given to new members that are being stored.
  absl::StatusOr<std::optional<base::ClientIndex>> IndexFor(
      const federation::JoinRequest& request, const std::set<base::ClientIndex>& reserved);
  store::MemberRow RowOf(base::MemberId id) const;
  void NewSession(base::MemberId id);
  void EndSession(base::MemberId id);
  void CloseSink(base::MemberId id, absl::Status why);
  // `done`: once it is durable.
  void EvictMember(base::MemberId id, const std::string& reason,
                   Callback<absl::Status> done = nullptr);
  // Durable, then `done`.
  void StoreMember(base::MemberId id, absl::string_view what, Callback<absl::Status> done);
  void HandleReport(base::MemberId id, const federation::ClientReport& report);
  std::string NameOf(base::MemberId id) const;
  std::string NamesOf(const std::vector<base::MemberId>& ids) const;

  // engine_uploads.cc
  void HandleOffer(const std::shared_ptr<PendingOffer>& pending);
  void Admit(const std::shared_ptr<PendingOffer>& pending);
  absl::Status CheckOffer(const PendingOffer& pending) const;
  static void Answer(PendingOffer& pending, absl::StatusOr<OfferAnswer> answer);
  void RefuseOffer(PendingOffer& pending, const absl::Status& status);
  void StartUpload(PendingOffer& pending);
  void GrantSlots();
  // Now and then while there are uploads: whether their bytes still come.
  void WatchUploads();
  void UploadsSeen(const std::vector<std::pair<base::TaskId, uint64_t>>& received);
  void EndStream(const std::shared_ptr<UploadState>& state, uint64_t generation);
  void UploadFailed(const std::shared_ptr<UploadState>& state, const absl::Status& status);
  void ForgetUpload(base::TaskId task, const absl::Status& why);
  void HandleFinish(const std::shared_ptr<Upload>& upload,
                    Callback<absl::StatusOr<federation::UpdateVerdict>> done);
  void ResolveFinish(base::TaskId task, absl::StatusOr<federation::UpdateVerdict> verdict);
  void CommitBatch();  // storage executor
  // One status for each row. An upload that is gone does not fail the others.
  std::vector<absl::Status> CommitRows(
      const std::vector<store::AcceptedUpdate>& rows);  // storage executor
  void BatchCommitted(const std::vector<round::StoreUpdate>& batch,
                      const std::vector<absl::Status>& statuses);
  void DropUncommitted();
  static void CountAccepted(RoundRecord& record, const codec::PayloadBytes& payload,
                            uint32_t weight);
  void CountVerdict(base::MemberId member, base::TaskId task,
                    const federation::UpdateVerdict& verdict, uint64_t received);

  // engine_resume.cc
  void RestoreMembers(const KeptRun& kept);
  void RestoreRows(const KeptRun& kept);
  void RestoreAttempt(const KeptRun& kept);
  void NoteResumed();
  absl::Duration Uptime() const;
  // On the storage executor; a failure is logged.
  void Keep(store::Notes notes, bool durable, Callback<absl::Status> done = nullptr);
  store::Notes RecordNotes(size_t record) const;
  // Soon: what changes meanwhile is kept with it.
  void KeepRecord(size_t index);
  void KeepTime();
  store::Notes TotalsNotes(const Totals& totals) const;
  store::Notes WeightNotes() const;  // engine_rounds.cc

  // engine_rounds.cc
  void FillBytes(RoundRecord& record, const Totals& now, const Totals& before) const;
  void FillBroadcast(RoundRecord& record, const MadeBroadcast& made) const;
  void NoteRoundStarted(const round::StoreTasks& e);
  FoldResult FoldUpdates(const std::vector<std::shared_ptr<UploadState>>& uploads,
                         const aggregation::FoldOptions& options, base::RoundId round,
                         const Model& model);  // compute executor
  void Folded(FoldResult result);
  void Stored(const absl::Status& status, const Totals& totals);
  Totals ReadTotals(const std::vector<base::MemberId>& trainers,
                    const std::vector<base::MemberId>& evaluators) const;  // storage executor
  std::vector<base::MemberId> MembersOf(federation::Role role) const;
  void BeginRecord(const round::StoreTasks& e);
  void RecordBytes(size_t record, const Totals& totals);
  // The record of the task's own round, else the current one's. Records are never empty then.
  size_t RecordIndexOf(base::TaskId task) const;
  void BookLate(base::TaskId task, uint64_t bytes);
  // Means and maxima of what was reported of accepted updates, for the records that have had news
  // since the last call. In the order of tasks, so that the same reports give the same bits
  // whichever came first; and before a record is read: a sum over the cohort for each report would
  // cost its square.
  void SumReports();
  void SumReports(size_t record);
  void SetLink(RoundRecord& record) const;
  // Of the model that the run starts from.
  void BeginInitialRecord();
  RoundRecord& EvaluatedRecord(base::RoundId round);
  RoundRecord* CurrentRecord();

  const RunOptions options_;
  const CoordinatorDeps deps_;
  const std::shared_ptr<const model::Schema> schema_;
  const std::map<std::string, std::string> metadata_;  // of the initial model
  const std::shared_ptr<Link> link_;

  mutable base::Mutex mutex_;
  std::unordered_map<std::string, base::MemberId> sessions_ QFL_GUARDED_BY(mutex_);
  std::vector<std::string> devices_ QFL_GUARDED_BY(mutex_);  // by MemberId
  std::map<base::Digest, std::shared_ptr<const Artifact>> artifacts_ QFL_GUARDED_BY(mutex_);
  std::deque<PendingCommit> commits_ QFL_GUARDED_BY(mutex_);
  bool commit_posted_ QFL_GUARDED_BY(mutex_) = false;

  round::RoundMachine machine_;
  EventLog events_;
  bool dispatching_ = false, granting_ = false;
  base::SteadyTime timer_ = base::SteadyTime::InfiniteFuture();
  bool started_ = false;
  base::SteadyTime started_at_;
  absl::Time started_wall_;
  Callback<RunStatus> on_end_;

  // Of the processes before this one.
  bool resumed_ = false;
  absl::Duration uptime_before_;
  std::optional<std::string> stop_before_;
  Totals totals_before_;
  bool time_armed_ = false;

  JoinLimiter join_limiter_;
  NoteLimiter note_limiter_;
  std::map<std::string, uint32_t> clients_of_device_;
  std::optional<uint64_t> disk_free_bytes_;  // when it was looked at last
  bool disk_low_ = false, disk_refused_ = false, disk_armed_ = false;

  std::deque<PendingJoin> joins_;
  bool joining_ = false;  // new members are being stored
  std::vector<Member> members_;
  std::map<federation::ClientName, base::MemberId> by_name_;
  std::map<base::ClientIndex, base::MemberId> by_index_;
  uint32_t next_free_index_ = 0;

  PendingOffer* offer_ = nullptr;  // whose answer a Dispatch under way brings
  std::map<base::TaskId, std::shared_ptr<UploadState>> uploads_;  // of the attempt under way
  std::set<base::TaskId> active_;                                 // a stream sends chunks
  bool watching_uploads_ = false;
  std::map<base::TaskId, uint64_t> received_;  // of active_, by the kernel, when it was asked last
  std::deque<std::shared_ptr<PendingOffer>> waiting_;
  std::map<base::TaskId, PendingFinish> finishing_;

  Model model_;
  std::optional<Model> next_model_;  // folded, not yet stored
  MadeBroadcast next_made_;          // the way to it
  StepBook steps_;
  // Of next_model_ while there is one, else of model_. The compute executor changes them while a
  // round folds, the storage executor reads them while it commits. They cannot be taken back: a
  // fold that fails leaves them, and a commit that fails ends the run.
  Moments moments_;
  base::Digest moments_digest_;
  const std::vector<aggregation::ParameterRange> statistics_;
  RecordBook records_;
  const uint64_t update_bytes_max_;                  // of this run's codec
  ClientTotalsBook clients_before_;                  // of earlier processes; never changes
  ClientTotalsBook clients_;                         // of all, as of the last boundary
  std::map<size_t, ClientRounds> client_rounds_;     // of the last two attempts, by record
  std::map<base::MemberId, ClientSum> client_sums_;  // of the rows before those
  // By clients, since the last attempt was closed.
  std::map<base::MemberId, federation::ByteCounters> told_since_;
  std::set<size_t> unsummed_;               // records: SumReports
  std::set<size_t> unkept_;                 // records: KeepRecord
  std::optional<size_t> storing_;           // the record of a round whose end is being stored
  std::map<base::TaskId, TaskNote> notes_;  // of the last two attempts
  std::map<base::TaskId, OpenEvaluation> evaluations_;  // of the last two attempts' models
  base::TaskId current_tasks_;                          // the first of the last attempt
  std::vector<base::TaskId> folding_;
  base::SteadyTime round_began_, phase_began_;
  std::optional<federation::EvaluationReport> evaluation_;
  Totals totals_;  // at the last boundary
};

}  // namespace quantfl::coordinator

#endif  // QUANTFL_SERVER_COORDINATOR_ENGINE_H_
