#include <algorithm>
#include <limits>
#include <memory>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "common/base/digest.h"
#include "common/base/status.h"
#include "server/store/round_files.h"
#include "server/store/run_store.h"
#include "server/store/sqlite.h"
#include "server/store/upload_segments.h"

namespace quantfl::store {
namespace {

using base::ClientIndex;
using base::Digest;
using base::MemberId;
using base::RoundId;
using base::TaskId;
using Stage = RecoveredRun::Stage;

constexpr char kDatabaseName[] = "run.db";
constexpr uint64_t kVersion = 1;
constexpr size_t kExtentBytes = 16;

// `state` has one row once a run has begun.
constexpr char kSchema[] = R"(
CREATE TABLE state(id INTEGER PRIMARY KEY CHECK (id = 1), run_id TEXT NOT NULL,
                   next_task INTEGER NOT NULL, stage INTEGER NOT NULL, round INTEGER NOT NULL,
                   attempt INTEGER NOT NULL, model_round INTEGER NOT NULL, model BLOB);
CREATE TABLE settings(key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE members(member INTEGER PRIMARY KEY, device TEXT NOT NULL, ordinal INTEGER NOT NULL,
                     role INTEGER NOT NULL, client_index INTEGER, evicted TEXT NOT NULL,
                     last_task INTEGER NOT NULL DEFAULT 0, last_round INTEGER NOT NULL DEFAULT 0);
CREATE TABLE tasks(task INTEGER PRIMARY KEY, member INTEGER NOT NULL);
CREATE TABLE uploads(sequence INTEGER PRIMARY KEY, task INTEGER NOT NULL UNIQUE,
                     digest BLOB NOT NULL, weight INTEGER NOT NULL, details BLOB NOT NULL,
                     segment TEXT NOT NULL, header BLOB NOT NULL, chunks BLOB NOT NULL);
CREATE TABLE notes(key TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
PRAGMA user_version = 1;
)";

// Whether a file in the folder is one that a store makes, its temporary ones included.
bool IsOurs(absl::string_view name) {
  return (absl::StartsWith(name, "round-") && absl::StrContains(name, ".segment")) ||
         (absl::StartsWith(name, "checkpoint-") && absl::StrContains(name, ".safetensors")) ||
         (absl::StartsWith(name, "moments-") && absl::StrContains(name, ".safetensors")) ||
         (absl::StartsWith(name, "broadcast-") && absl::StrContains(name, ".safetensors")) ||
         (absl::StartsWith(name, "step-") && absl::StrContains(name, ".qflf")) ||
         absl::StartsWith(name, kLatestName) || absl::StartsWith(name, kDatabaseName);
}

std::string PackExtents(const std::vector<Extent>& extents) {
  std::string packed;
  packed.reserve(kExtentBytes * extents.size());
  for (const Extent& extent : extents) {
    PutInteger(packed, extent.offset);
    PutInteger(packed, extent.size);
    PutInteger(packed, extent.crc);
  }
  return packed;
}

template <typename T>
T GetInteger(absl::string_view bytes) {
  T value = 0;
  for (size_t i = 0; i < sizeof(T); ++i) {
    value |= static_cast<T>(static_cast<T>(static_cast<uint8_t>(bytes[i])) << (8 * i));
  }
  return value;
}

std::vector<Extent> UnpackExtents(absl::string_view packed) {
  std::vector<Extent> extents(packed.size() / kExtentBytes);
  for (size_t i = 0; i < extents.size(); ++i) {
    const absl::string_view one = packed.substr(kExtentBytes * i, kExtentBytes);
    extents[i] = {GetInteger<uint64_t>(one.substr(0)), GetInteger<uint32_t>(one.substr(8)),
                  GetInteger<uint32_t>(one.substr(12))};
  }
  return extents;
}

class SqliteRunStore final : public RunStore {
 public:
  SqliteRunStore(base::Env& env, std::string folder, uint32_t checkpoints_kept)
      : env_(env),
        folder_(std::move(folder)),
        segments_(env, folder_),
        files_(env, folder_, checkpoints_kept, segments_) {}

  absl::Status Open() {
    QFL_RETURN_IF_ERROR(env_.CreateDirs(folder_));
    QFL_RETURN_IF_ERROR(WriteAnew());
    QFL_ASSIGN_OR_RETURN(database_, Database::Open(PathOf(kDatabaseName)));
    QFL_ASSIGN_OR_RETURN(Statement read, database_->Prepare("PRAGMA user_version"));
    QFL_ASSIGN_OR_RETURN(const bool row, read.Step());
    const uint64_t version = row ? read.Integer(0) : 0;
    if (row) QFL_RETURN_IF_ERROR(read.Step().status());
    if (version == 0) {
      return database_->InTransaction(true, [&] { return database_->Execute(kSchema); });
    }
    if (version == kVersion) return absl::OkStatus();
    return absl::FailedPreconditionError(absl::StrCat(
        PathOf(kDatabaseName), " is of format ", version, ", this program's is ", kVersion,
        ": finish the run with the program that began it, or begin it anew ", "(--fresh)"));
  }

  absl::StatusOr<RecoveredRun> Load() override;
  absl::Status BeginRun(const RunRow& run) override;
  absl::Status RecordMembers(const std::vector<MemberRow>& members) override;
  absl::Status Put(const Notes& notes, bool durable) override {
    return database_->InTransaction(durable, [&] { return PutNotes(notes); });
  }
  absl::StatusOr<std::string> ReadNote(const std::string& key) override;
  absl::Status RecordTasks(const std::vector<IssuedTask>& tasks) override;

  absl::Status BeginUpload(RoundId round, TaskId task, const std::string& codec_header) override {
    return segments_.Begin(round, task, codec_header);
  }
  absl::Status AppendChunk(TaskId task, uint32_t index, absl::string_view chunk) override {
    return segments_.Append(task, index, chunk);
  }
  absl::Status DiscardUpload(TaskId task) override { return segments_.Discard(task); }
  absl::Status CommitUploads(const std::vector<AcceptedUpdate>& updates) override;
  absl::StatusOr<std::string> ReadChunk(TaskId task, uint32_t index) const override {
    return segments_.Read(task, index);
  }
  absl::Status CommitRound(const CommittedRound& round, absl::string_view safetensors) override;
  absl::Status AbandonRound(RoundId round) override;
  absl::Status Broken() const override { return database_->broken(); }

 private:
  // What an earlier process left is what can be read, not what is durable, if one of its syncs had
  // failed: the system calls pages clean that it could not write. So that nothing is promised on
  // what a power cut would take back, the database and its log are written once more, as they are.
  absl::Status WriteAnew() {
    if (!env_.Exists(PathOf(kDatabaseName))) return absl::OkStatus();
    // Nobody else has it, and it is one.
    {
      QFL_ASSIGN_OR_RETURN(const auto looked_at, Database::Open(PathOf(kDatabaseName)));
      looked_at->KeepLog();
    }
    QFL_RETURN_IF_ERROR(RemoveTemporary());
    for (const char* suffix : {"-wal", ""}) {
      const std::string path = PathOf(absl::StrCat(kDatabaseName, suffix));
      if (!env_.Exists(path)) continue;
      QFL_ASSIGN_OR_RETURN(const std::string bytes,
                           env_.ReadFile(path, std::numeric_limits<uint64_t>::max()));
      QFL_RETURN_IF_ERROR(env_.WriteFileAtomically(path, bytes));
    }
    return absl::OkStatus();
  }
  std::string PathOf(absl::string_view name) const { return absl::StrCat(folder_, "/", name); }
  absl::Status Damaged(absl::string_view what) const {
    return absl::DataLossError(absl::StrCat(
        PathOf(kDatabaseName), ": ", what,
        ": the state is damaged; restore the folder, or begin the run anew (--fresh)"));
  }
  // Files that a process was killed over; a model's may be large.
  absl::Status RemoveTemporary() {
    QFL_ASSIGN_OR_RETURN(const std::vector<std::string> names, env_.List(folder_));
    for (const std::string& name : names) {
      if (!IsOurs(name) || !absl::StrContains(name, ".tmp-")) continue;
      QFL_RETURN_IF_ERROR(env_.RemoveFile(PathOf(name)));
    }
    return absl::OkStatus();
  }
  absl::Status PutNotes(const Notes& notes);
  // The last attempt's tasks and uploads are of no more use.
  absl::Status ClearRound() {
    return database_->Execute(
        "DELETE FROM tasks; DELETE FROM uploads; DELETE FROM notes WHERE key >= 'attempt/' AND "
        "key < 'attempt0'");
  }
  absl::Status LoadMembers(RecoveredRun& run);
  absl::Status LoadAttempt(RecoveredRun& run);
  absl::Status LoadTexts(RecoveredRun& run);

  base::Env& env_;
  const std::string folder_;
  std::unique_ptr<Database> database_;
  UploadSegments segments_;
  RoundFiles files_;
};

// ---- what is read back ----

absl::StatusOr<RecoveredRun> SqliteRunStore::Load() {
  RecoveredRun run;
  QFL_ASSIGN_OR_RETURN(Statement read,
                       database_->Prepare("SELECT run_id, next_task, stage, round, attempt, "
                                          "model_round, model FROM state"));
  QFL_ASSIGN_OR_RETURN(const bool begun, read.Step());
  if (begun) {
    run.run.run_id = read.Bytes(0);
    run.next_task = read.Integer(1);
    const uint64_t stage = read.Integer(2);
    if (stage > static_cast<uint64_t>(Stage::kCommitted)) return Damaged("an unknown stage");
    run.stage = static_cast<Stage>(stage);
    run.round = RoundId(static_cast<uint32_t>(read.Integer(3)));
    run.attempt = static_cast<uint32_t>(read.Integer(4));
    run.model_round = RoundId(static_cast<uint32_t>(read.Integer(5)));
    if (!read.IsNull(6)) {
      auto model = Digest::FromBytes(read.Bytes(6));
      if (!model.ok()) return Damaged("a digest of a wrong size");
      run.model = *model;
    }
    QFL_RETURN_IF_ERROR(read.Step().status());
    QFL_RETURN_IF_ERROR(LoadTexts(run));
    QFL_RETURN_IF_ERROR(LoadMembers(run));
    if (run.stage == Stage::kCollecting) QFL_RETURN_IF_ERROR(LoadAttempt(run));
  }
  QFL_RETURN_IF_ERROR(segments_.RemoveUnknown());
  QFL_RETURN_IF_ERROR(files_.Load(run));
  return run;
}

absl::Status SqliteRunStore::LoadTexts(RecoveredRun& run) {
  QFL_ASSIGN_OR_RETURN(Statement settings, database_->Prepare("SELECT key, value FROM settings"));
  for (;;) {
    QFL_ASSIGN_OR_RETURN(const bool row, settings.Step());
    if (!row) break;
    run.run.settings[settings.Bytes(0)] = settings.Bytes(1);
  }
  QFL_ASSIGN_OR_RETURN(Statement notes,
                       database_->Prepare("SELECT key, value FROM notes "
                                          "WHERE key < 'archive/' OR key >= 'archive0'"));
  for (;;) {
    QFL_ASSIGN_OR_RETURN(const bool row, notes.Step());
    if (!row) return absl::OkStatus();
    run.notes[notes.Bytes(0)] = notes.Bytes(1);
  }
}

absl::Status SqliteRunStore::LoadMembers(RecoveredRun& run) {
  QFL_ASSIGN_OR_RETURN(Statement read,
                       database_->Prepare("SELECT member, device, ordinal, role, client_index, "
                                          "evicted, last_task, last_round FROM members "
                                          "ORDER BY member"));
  for (;;) {
    QFL_ASSIGN_OR_RETURN(const bool row, read.Step());
    if (!row) return absl::OkStatus();
    if (read.Integer(0) != run.members.size()) return Damaged("a member is missing");
    MemberRow member;
    member.member = MemberId(static_cast<uint32_t>(run.members.size()));
    member.device = read.Bytes(1);
    member.ordinal = static_cast<uint32_t>(read.Integer(2));
    member.role = static_cast<uint32_t>(read.Integer(3));
    if (!read.IsNull(4)) member.client_index = ClientIndex(static_cast<uint32_t>(read.Integer(4)));
    member.evicted = read.Bytes(5);
    member.last_accepted = TaskId(read.Integer(6));
    member.last_round = RoundId(static_cast<uint32_t>(read.Integer(7)));
    run.members.push_back(std::move(member));
  }
}

absl::Status SqliteRunStore::LoadAttempt(RecoveredRun& run) {
  QFL_ASSIGN_OR_RETURN(Statement tasks,
                       database_->Prepare("SELECT task, member FROM tasks ORDER BY task"));
  for (;;) {
    QFL_ASSIGN_OR_RETURN(const bool row, tasks.Step());
    if (!row) break;
    if (tasks.Integer(1) >= run.members.size()) return Damaged("a task of an unknown member");
    run.tasks.push_back({TaskId(tasks.Integer(0)), run.round, run.attempt,
                         MemberId(static_cast<uint32_t>(tasks.Integer(1)))});
  }
  QFL_ASSIGN_OR_RETURN(
      Statement uploads,
      database_->Prepare("SELECT task, digest, weight, details, segment, header, chunks "
                         "FROM uploads ORDER BY sequence"));
  for (;;) {
    QFL_ASSIGN_OR_RETURN(const bool row, uploads.Step());
    if (!row) return absl::OkStatus();
    RecoveredUpdate update;
    update.update.task = TaskId(uploads.Integer(0));
    update.update.round = run.round;
    const auto digest = Digest::FromBytes(uploads.Bytes(1));
    if (!digest.ok()) return Damaged("a digest of a wrong size");
    update.update.digest = *digest;
    update.update.weight = static_cast<uint32_t>(uploads.Integer(2));
    update.update.details = uploads.Bytes(3);
    update.codec_header = uploads.Bytes(5);
    UploadSegments::Place place{uploads.Bytes(4), update.codec_header,
                                UnpackExtents(uploads.Bytes(6))};
    update.chunks = static_cast<uint32_t>(place.chunks.size());
    const auto issued =
        std::find_if(run.tasks.begin(), run.tasks.end(),
                     [&](const IssuedTask& task) { return task.task == update.update.task; });
    if (issued == run.tasks.end()) return Damaged("an update of an unknown task");
    if (absl::Status restored = segments_.Restore(run.round, update.update.task, std::move(place));
        !restored.ok()) {
      return base::Annotate(restored, "an acknowledged update cannot be read");
    }
    run.updates.push_back(std::move(update));
  }
}

// ---- what is written ----

absl::Status SqliteRunStore::BeginRun(const RunRow& run) {
  return database_->InTransaction(true, [&]() -> absl::Status {
    QFL_ASSIGN_OR_RETURN(Statement read, database_->Prepare("SELECT run_id FROM state"));
    QFL_ASSIGN_OR_RETURN(const bool begun, read.Step());
    if (begun) {
      return absl::FailedPreconditionError(
          absl::StrCat(folder_, " holds the run ", read.Bytes(0), " already"));
    }
    QFL_ASSIGN_OR_RETURN(
        Statement insert,
        database_->Prepare("INSERT INTO state VALUES (1, ?, 1, 0, 0, 0, 0, NULL)"));
    QFL_RETURN_IF_ERROR(insert.BindText(run.run_id).Run());
    QFL_ASSIGN_OR_RETURN(Statement setting,
                         database_->Prepare("INSERT INTO settings VALUES (?, ?)"));
    for (const auto& [key, value] : run.settings) {
      QFL_RETURN_IF_ERROR(setting.BindText(key).BindText(value).Run());
    }
    return absl::OkStatus();
  });
}

absl::Status SqliteRunStore::PutNotes(const Notes& notes) {
  QFL_ASSIGN_OR_RETURN(Statement put,
                       database_->Prepare("INSERT OR REPLACE INTO notes VALUES (?, ?)"));
  for (const auto& [key, value] : notes) {
    QFL_RETURN_IF_ERROR(put.BindText(key).BindBlob(value).Run());
  }
  return absl::OkStatus();
}

absl::StatusOr<std::string> SqliteRunStore::ReadNote(const std::string& key) {
  QFL_ASSIGN_OR_RETURN(Statement read, database_->Prepare("SELECT value FROM notes WHERE key = ?"));
  read.BindText(key);
  QFL_ASSIGN_OR_RETURN(const bool found, read.Step());
  if (!found) return absl::NotFoundError(key);
  return read.Bytes(0);
}

absl::Status SqliteRunStore::RecordMembers(const std::vector<MemberRow>& members) {
  return database_->InTransaction(true, [&]() -> absl::Status {
    QFL_ASSIGN_OR_RETURN(
        Statement put,
        database_->Prepare("INSERT INTO members(member, device, ordinal, role, client_index, "
                           "evicted) VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT(member) DO UPDATE SET "
                           "device = excluded.device, ordinal = excluded.ordinal, "
                           "role = excluded.role, client_index = excluded.client_index, "
                           "evicted = excluded.evicted"));
    for (const MemberRow& row : members) {
      std::optional<uint32_t> index;
      if (row.client_index) index = row.client_index->value();
      QFL_RETURN_IF_ERROR(put.Bind(uint64_t{row.member.value()})
                              .BindText(row.device)
                              .Bind(uint64_t{row.ordinal})
                              .Bind(uint64_t{row.role})
                              .Bind(index)
                              .BindText(row.evicted)
                              .Run());
    }
    return absl::OkStatus();
  });
}

absl::Status SqliteRunStore::RecordTasks(const std::vector<IssuedTask>& tasks) {
  if (tasks.empty()) return absl::OkStatus();
  uint64_t next = 0;
  for (const IssuedTask& task : tasks) next = std::max(next, task.task.value() + 1);
  const bool training = !tasks.front().evaluation;
  return database_->InTransaction(true, [&]() -> absl::Status {
    QFL_ASSIGN_OR_RETURN(Statement issued, database_->Prepare("UPDATE state SET next_task = ?"));
    QFL_RETURN_IF_ERROR(issued.Bind(next).Run());
    if (!training) return absl::OkStatus();
    QFL_RETURN_IF_ERROR(ClearRound());
    QFL_ASSIGN_OR_RETURN(Statement stage,
                         database_->Prepare("UPDATE state SET stage = ?, round = ?, attempt = ?"));
    QFL_RETURN_IF_ERROR(stage.Bind(static_cast<uint64_t>(Stage::kCollecting))
                            .Bind(uint64_t{tasks.front().round.value()})
                            .Bind(uint64_t{tasks.front().attempt})
                            .Run());
    QFL_ASSIGN_OR_RETURN(Statement put, database_->Prepare("INSERT INTO tasks VALUES (?, ?)"));
    for (const IssuedTask& task : tasks) {
      QFL_RETURN_IF_ERROR(put.Bind(task.task.value()).Bind(uint64_t{task.member.value()}).Run());
    }
    return absl::OkStatus();
  });
}

absl::Status SqliteRunStore::CommitUploads(const std::vector<AcceptedUpdate>& updates) {
  std::map<TaskId, std::string> records;
  std::vector<TaskId> tasks;
  for (const AcceptedUpdate& update : updates) {
    records[update.task];
    tasks.push_back(update.task);
  }
  QFL_RETURN_IF_ERROR(segments_.Sync(records));
  const absl::Status status = database_->InTransaction(true, [&]() -> absl::Status {
    QFL_ASSIGN_OR_RETURN(
        Statement put,
        database_->Prepare("INSERT OR REPLACE INTO uploads(task, digest, weight, details, segment, "
                           "header, chunks) VALUES (?, ?, ?, ?, ?, ?, ?)"));
    for (const AcceptedUpdate& update : updates) {
      QFL_ASSIGN_OR_RETURN(const UploadSegments::Place place, segments_.PlaceOf(update.task));
      const std::string chunks = PackExtents(place.chunks);
      QFL_RETURN_IF_ERROR(put.Bind(update.task.value())
                              .BindBlob(update.digest.AsBytes())
                              .Bind(uint64_t{update.weight})
                              .BindBlob(update.details)
                              .BindText(place.segment)
                              .BindBlob(place.header)
                              .BindBlob(chunks)
                              .Run());
    }
    return absl::OkStatus();
  });
  if (status.ok()) {
    segments_.MarkCommitted(tasks);
  } else {
    segments_.GiveUp(tasks);
  }
  return status;
}

absl::Status SqliteRunStore::CommitRound(const CommittedRound& round,
                                         absl::string_view safetensors) {
  QFL_RETURN_IF_ERROR(files_.Write(round, safetensors));
  // The commit point: until here the round is folded again after a kill, to the same bytes.
  const absl::Status status = database_->InTransaction(true, [&]() -> absl::Status {
    QFL_ASSIGN_OR_RETURN(Statement state,
                         database_->Prepare("UPDATE state SET stage = ?1, round = ?2, "
                                            "model_round = ?2, model = ?3"));
    QFL_RETURN_IF_ERROR(state.Bind(static_cast<uint64_t>(Stage::kCommitted))
                            .Bind(uint64_t{round.round.value()})
                            .BindBlob(round.model.AsBytes())
                            .Run());
    QFL_ASSIGN_OR_RETURN(Statement last,
                         database_->Prepare("UPDATE members SET last_task = ?1, last_round = ?2 "
                                            "WHERE member = (SELECT member FROM tasks "
                                            "WHERE task = ?1)"));
    for (const TaskId task : round.folded) {
      QFL_RETURN_IF_ERROR(last.Bind(task.value()).Bind(uint64_t{round.round.value()}).Run());
    }
    QFL_RETURN_IF_ERROR(ClearRound());
    return PutNotes(round.notes);
  });
  if (!status.ok()) return status;
  files_.Committed(round);
  segments_.Drop(round.round);
  return absl::OkStatus();
}

absl::Status SqliteRunStore::AbandonRound(RoundId round) {
  const absl::Status status = database_->InTransaction(true, [&]() -> absl::Status {
    QFL_ASSIGN_OR_RETURN(Statement stage, database_->Prepare("UPDATE state SET stage = ?"));
    QFL_RETURN_IF_ERROR(stage.Bind(static_cast<uint64_t>(Stage::kAbandoned)).Run());
    QFL_RETURN_IF_ERROR(database_->Execute(
        "UPDATE members SET (last_task, last_round) = (SELECT uploads.task, state.round "
        "FROM uploads JOIN tasks ON uploads.task = tasks.task JOIN state "
        "WHERE tasks.member = members.member) WHERE member IN (SELECT member FROM uploads "
        "JOIN tasks ON uploads.task = tasks.task)"));
    return ClearRound();
  });
  // Without the row a kill would resume the attempt from these files.
  if (status.ok()) segments_.Drop(round);
  return status;
}

}  // namespace

absl::StatusOr<std::unique_ptr<RunStore>> OpenSqliteRunStore(base::Env& env,
                                                             const std::string& folder,
                                                             uint32_t checkpoints_kept) {
  QFL_RETURN_IF_ERROR(CheckCheckpointsKept(checkpoints_kept));
  auto store = std::make_unique<SqliteRunStore>(env, folder, checkpoints_kept);
  QFL_RETURN_IF_ERROR(store->Open());
  return std::unique_ptr<RunStore>(std::move(store));
}

absl::Status RemoveRun(base::Env& env, const std::string& folder) {
  if (!env.Exists(folder)) return absl::OkStatus();
  // The database first: files that it does not name are nothing.
  for (const char* suffix : {"", "-wal", "-shm"}) {
    QFL_RETURN_IF_ERROR(env.RemoveFile(absl::StrCat(folder, "/", kDatabaseName, suffix)));
  }
  QFL_ASSIGN_OR_RETURN(const std::vector<std::string> names, env.List(folder));
  for (const std::string& name : names) {
    if (IsOurs(name)) QFL_RETURN_IF_ERROR(env.RemoveFile(absl::StrCat(folder, "/", name)));
  }
  return absl::OkStatus();
}

}  // namespace quantfl::store
