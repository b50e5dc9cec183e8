#include <map>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "server/store/round_files.h"
#include "server/store/run_store.h"
#include "server/store/upload_segments.h"

namespace quantfl::store {
namespace {

using base::RoundId;
using base::TaskId;

constexpr uint32_t kCheckpointsKeptMax = 1'000'000;

class FileRunStore final : public RunStore {
 public:
  FileRunStore(base::Env& env, std::string folder, uint32_t checkpoints_kept)
      : env_(env),
        folder_(std::move(folder)),
        segments_(env, folder_),
        files_(env, folder_, checkpoints_kept, segments_) {}

  absl::Status Open() {
    QFL_RETURN_IF_ERROR(env_.CreateDirs(folder_));
    return segments_.RemoveUnknown();
  }

  absl::Status RecordTasks(const std::vector<IssuedTask>& tasks) override {
    if (tasks.empty()) return absl::OkStatus();
    std::string records;
    for (const IssuedTask& task : tasks) {
      std::string data;
      PutInteger(data, task.round.value());
      PutInteger(data, task.attempt);
      records += MakeRecord(RecordKind::kTask, task.member.value(), task.task, data);
    }
    return segments_.Log(tasks.front().round, records);
  }

  absl::Status BeginUpload(RoundId round, TaskId task, const std::string& codec_header) override {
    return segments_.Begin(round, task, codec_header);
  }
  absl::Status AppendChunk(TaskId task, uint32_t index, absl::string_view chunk) override {
    return segments_.Append(task, index, chunk);
  }
  absl::Status DiscardUpload(TaskId task) override { return segments_.Discard(task); }

  absl::Status CommitUploads(const std::vector<AcceptedUpdate>& updates) override {
    std::map<TaskId, std::string> records;
    std::vector<TaskId> tasks;
    for (const AcceptedUpdate& update : updates) {
      std::string data;
      PutInteger(data, update.round.value());
      absl::StrAppend(&data, update.digest.AsBytes());
      records[update.task] = MakeRecord(RecordKind::kAccepted, update.weight, update.task, data);
      tasks.push_back(update.task);
    }
    QFL_RETURN_IF_ERROR(segments_.Sync(records));
    segments_.MarkCommitted(tasks);
    return absl::OkStatus();
  }

  absl::StatusOr<std::string> ReadChunk(TaskId task, uint32_t index) const override {
    return segments_.Read(task, index);
  }

  absl::Status CommitRound(const CommittedRound& round, absl::string_view safetensors) override {
    // The commit point is latest.safetensors, the last of them: what a reader takes for the current
    // model.
    QFL_RETURN_IF_ERROR(files_.Write(round, safetensors));
    files_.Committed(round);
    segments_.Drop(round.round);
    return absl::OkStatus();
  }

  absl::Status AbandonRound(RoundId round) override {
    segments_.Drop(round);
    return absl::OkStatus();
  }

 private:
  base::Env& env_;
  const std::string folder_;
  UploadSegments segments_;
  RoundFiles files_;
};

}  // namespace

absl::Status CheckCheckpointsKept(uint32_t checkpoints_kept) {
  if (checkpoints_kept >= 1 && checkpoints_kept <= kCheckpointsKeptMax) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("checkpoints_kept = ", checkpoints_kept, ": it is 1 to ", kCheckpointsKeptMax));
}

absl::StatusOr<std::unique_ptr<RunStore>> OpenFileRunStore(base::Env& env,
                                                           const std::string& folder,
                                                           uint32_t checkpoints_kept) {
  QFL_RETURN_IF_ERROR(CheckCheckpointsKept(checkpoints_kept));
  auto store = std::make_unique<FileRunStore>(env, folder, checkpoints_kept);
  QFL_RETURN_IF_ERROR(store->Open());
  return std::unique_ptr<RunStore>(std::move(store));
}

}  // namespace quantfl::store
