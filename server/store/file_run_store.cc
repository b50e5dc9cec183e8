#include <cstring>
#include <deque>
#include <map>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "common/base/crc32c.h"
#include "common/base/mutex.h"
#include "common/base/status.h"
#include "server/store/run_store.h"

namespace quantfl::store {
namespace {

using base::RoundId;
using base::TaskId;

constexpr absl::string_view kSegmentSuffix = ".segment";
constexpr uint32_t kCheckpointsKeptMax = 1'000'000;

enum class Kind : char { kTask = 'T', kHeader = 'H', kChunk = 'C', kAccepted = 'A' };

template <typename T>
void PutInteger(std::string& out, T value) {
  for (size_t i = 0; i < sizeof(T); ++i) {
    out.push_back(static_cast<char>((value >> (8 * i)) & 0xff));
  }
}

constexpr size_t kRecordHeaderBytes = 1 + 4 + 8 + 4 + 4;

std::string MakeRecord(Kind kind, uint32_t argument, TaskId task, absl::string_view data) {
  std::string record;
  record.reserve(kRecordHeaderBytes + data.size());
  record.push_back(static_cast<char>(kind));
  PutInteger(record, argument);
  PutInteger(record, task.value());
  PutInteger(record, static_cast<uint32_t>(data.size()));
  PutInteger(record, base::ExtendCrc32c(base::Crc32c(record), data));
  record.append(data.data(), data.size());
  return record;
}

class FileRunStore final : public RunStore {
 public:
  FileRunStore(base::Env& env, std::string folder, uint32_t checkpoints_kept)
      : env_(env), folder_(std::move(folder)), checkpoints_kept_(checkpoints_kept) {}

  absl::Status Open() {
    QFL_RETURN_IF_ERROR(env_.CreateDirs(folder_));
    QFL_ASSIGN_OR_RETURN(const std::vector<std::string> names, env_.List(folder_));
    for (const std::string& name : names) {
      if (absl::StartsWith(name, "round-") && absl::EndsWith(name, kSegmentSuffix)) {
        QFL_RETURN_IF_ERROR(env_.RemoveFile(PathOf(name)));
      }
    }
    return absl::OkStatus();
  }

  absl::Status RecordTasks(const std::vector<IssuedTask>& tasks) override {
    if (tasks.empty()) return absl::OkStatus();
    const RoundId round = tasks.front().round;
    std::string records;
    for (const IssuedTask& task : tasks) {
      std::string data;
      PutInteger(data, task.round.value());
      PutInteger(data, task.attempt);
      records += MakeRecord(Kind::kTask, task.member.value(), task.task, data);
    }
    QFL_ASSIGN_OR_RETURN(const std::shared_ptr<base::AppendFile> file, SegmentOf(round));
    absl::Status status = file->Append(records);
    if (status.ok()) status = file->Sync();
    if (!status.ok()) GiveUpSegment(file);
    return status;
  }

  absl::Status BeginUpload(RoundId round, TaskId task, const std::string& codec_header) override {
    {
      base::MutexLock lock(mutex_);
      const auto found = uploads_.find(task);
      if (found != uploads_.end() && found->second.committed) {
        return absl::FailedPreconditionError(
            absl::StrCat("the update of task ", task.value(), " is committed"));
      }
      if (found != uploads_.end()) uploads_.erase(found);
    }
    QFL_ASSIGN_OR_RETURN(const std::shared_ptr<base::AppendFile> file, SegmentOf(round));
    QFL_RETURN_IF_ERROR(file->Append(MakeRecord(Kind::kHeader, round.value(), task, codec_header)));
    base::MutexLock lock(mutex_);
    uploads_[task] = Upload{round, file, {}, false};
    return absl::OkStatus();
  }

  absl::Status AppendChunk(TaskId task, uint32_t index, absl::string_view chunk) override {
    std::shared_ptr<base::AppendFile> file;
    {
      base::MutexLock lock(mutex_);
      const auto found = uploads_.find(task);
      if (found == uploads_.end() || found->second.committed) return NoUpload(task);
      if (index != found->second.chunks.size()) {
        return absl::InvalidArgumentError(absl::StrCat("chunk ", index, " of task ", task.value(),
                                                       ": the next is ",
                                                       found->second.chunks.size()));
      }
      file = found->second.file;
    }
    const Extent extent{file->size() + kRecordHeaderBytes, static_cast<uint32_t>(chunk.size()),
                        base::Crc32c(chunk)};
    absl::Status status = file->Append(MakeRecord(Kind::kChunk, index, task, chunk));
    base::MutexLock lock(mutex_);
    if (status.ok()) {
      uploads_[task].chunks.push_back(extent);
    } else {
      uploads_.erase(task);
    }
    return status;
  }

  absl::Status DiscardUpload(TaskId task) override {
    base::MutexLock lock(mutex_);
    const auto found = uploads_.find(task);
    if (found != uploads_.end() && !found->second.committed) uploads_.erase(found);
    return absl::OkStatus();
  }

  absl::Status CommitUploads(const std::vector<AcceptedUpdate>& updates) override {
    // By file: a batch has one, unless a segment had to be given up while an upload was under way.
    std::map<std::shared_ptr<base::AppendFile>, std::string> records;
    {
      base::MutexLock lock(mutex_);
      for (const AcceptedUpdate& update : updates) {
        const auto found = uploads_.find(update.task);
        if (found == uploads_.end() || found->second.committed) return NoUpload(update.task);
        std::string data;
        PutInteger(data, update.round.value());
        absl::StrAppend(&data, update.digest.AsBytes());
        records[found->second.file] +=
            MakeRecord(Kind::kAccepted, update.weight, update.task, data);
      }
    }
    for (const auto& [file, rows] : records) {
      absl::Status status = file->Append(rows);
      if (status.ok()) status = file->Sync();
      if (!status.ok()) {
        for (const auto& [other, unused] : records) GiveUpSegment(other);
        return status;
      }
    }
    base::MutexLock lock(mutex_);
    for (const AcceptedUpdate& update : updates) uploads_[update.task].committed = true;
    return absl::OkStatus();
  }

  absl::StatusOr<std::string> ReadChunk(TaskId task, uint32_t index) const override {
    std::shared_ptr<base::AppendFile> file;
    Extent extent;
    {
      base::MutexLock lock(mutex_);
      const auto found = uploads_.find(task);
      if (found == uploads_.end() || !found->second.committed) return NoUpload(task);
      if (index >= found->second.chunks.size()) {
        return absl::NotFoundError(absl::StrCat("chunk ", index, " of task ", task.value(),
                                                ": it has ", found->second.chunks.size()));
      }
      file = found->second.file;
      extent = found->second.chunks[index];
    }
    QFL_ASSIGN_OR_RETURN(std::string bytes, file->ReadAt(extent.offset, extent.size));
    if (base::Crc32c(bytes) != extent.crc) {
      return absl::DataLossError(
          absl::StrCat("chunk ", index, " of task ", task.value(), " has changed in ", folder_));
    }
    return bytes;
  }

  absl::Status CommitRound(const CommittedRound& round, absl::string_view safetensors) override {
    const std::string checkpoint =
        PathOf(absl::StrFormat("checkpoint-%06d.safetensors", round.round.value()));
    QFL_RETURN_IF_ERROR(env_.WriteFileAtomically(checkpoint, safetensors));
    // The commit point: latest is what a reader takes for the current model.
    QFL_RETURN_IF_ERROR(env_.WriteFileAtomically(PathOf("latest.safetensors"), safetensors));
    checkpoints_.push_back(checkpoint);
    while (checkpoints_.size() > checkpoints_kept_) {
      garbage_.push_back(checkpoints_.front());
      checkpoints_.pop_front();
    }
    DropSegments(round.round);
    return absl::OkStatus();
  }

  absl::Status AbandonRound(RoundId round) override {
    DropSegments(round);
    return absl::OkStatus();
  }

 private:
  struct Extent {
    uint64_t offset = 0;
    uint32_t size = 0;
    uint32_t crc = 0;
  };
  struct Upload {
    RoundId round;
    std::shared_ptr<base::AppendFile> file;
    std::vector<Extent> chunks;
    bool committed = false;
  };
  struct Segment {
    RoundId round;
    std::string path;
    std::shared_ptr<base::AppendFile> file;
    bool given_up = false;
  };

  static absl::Status NoUpload(TaskId task) {
    return absl::NotFoundError(absl::StrCat("no upload of task ", task.value()));
  }
  std::string PathOf(absl::string_view name) const { return absl::StrCat(folder_, "/", name); }

  absl::StatusOr<std::shared_ptr<base::AppendFile>> SegmentOf(RoundId round) {
    uint32_t before = 0;
    for (const Segment& segment : segments_) {
      if (segment.round != round) continue;
      if (!segment.given_up) return segment.file;
      ++before;
    }
    std::string name = absl::StrFormat("round-%06d", round.value());
    if (before > 0) absl::StrAppend(&name, "-", before);
    const std::string path = PathOf(absl::StrCat(name, kSegmentSuffix));
    QFL_ASSIGN_OR_RETURN(std::unique_ptr<base::AppendFile> file,
                         env_.OpenAppend(path, /*truncate=*/true));
    segments_.push_back({round, path, std::move(file), false});
    return segments_.back().file;
  }

  // After a failed fsync the kernel may have dropped what was written: what is committed in the
  // file can still be read, but nothing more is written to it.
  void GiveUpSegment(const std::shared_ptr<base::AppendFile>& file) {
    for (Segment& segment : segments_) segment.given_up = segment.given_up || segment.file == file;
    base::MutexLock lock(mutex_);
    for (auto it = uploads_.begin(); it != uploads_.end();) {
      const bool lost = !it->second.committed && it->second.file == file;
      it = lost ? uploads_.erase(it) : std::next(it);
    }
  }

  // Of this round and those before it. A file that cannot be removed now is tried again later: it
  // holds nothing that is still wanted.
  void DropSegments(RoundId round) {
    for (auto it = segments_.begin(); it != segments_.end();) {
      if (it->round <= round) {
        garbage_.push_back(it->path);
        it = segments_.erase(it);
      } else {
        ++it;
      }
    }
    {
      base::MutexLock lock(mutex_);
      for (auto it = uploads_.begin(); it != uploads_.end();) {
        it = it->second.round <= round ? uploads_.erase(it) : std::next(it);
      }
    }
    std::vector<std::string> remaining;
    for (const std::string& path : garbage_) {
      if (!env_.RemoveFile(path).ok()) remaining.push_back(path);
    }
    garbage_ = std::move(remaining);
  }

  base::Env& env_;
  const std::string folder_;
  const uint32_t checkpoints_kept_;
  std::vector<Segment> segments_;
  std::deque<std::string> checkpoints_;  // paths, oldest first
  std::vector<std::string> garbage_;     // paths to be removed
  // ReadChunk looks here from the folding thread.
  mutable base::Mutex mutex_;
  std::map<TaskId, Upload> uploads_ QFL_GUARDED_BY(mutex_);
};

}  // namespace

absl::StatusOr<std::unique_ptr<RunStore>> OpenFileRunStore(base::Env& env,
                                                           const std::string& folder,
                                                           uint32_t checkpoints_kept) {
  if (checkpoints_kept < 1 || checkpoints_kept > kCheckpointsKeptMax) {
    return absl::InvalidArgumentError(absl::StrCat("checkpoints_kept = ", checkpoints_kept,
                                                   ": it is 1 to ", kCheckpointsKeptMax));
  }
  auto store = std::make_unique<FileRunStore>(env, folder, checkpoints_kept);
  QFL_RETURN_IF_ERROR(store->Open());
  return std::unique_ptr<RunStore>(std::move(store));
}

}  // namespace quantfl::store
