#include "server/store/upload_segments.h"

#include <algorithm>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "common/base/crc32c.h"
#include "common/base/status.h"

namespace quantfl::store {
namespace {

using base::RoundId;
using base::TaskId;

constexpr absl::string_view kPrefix = "round-";
constexpr absl::string_view kSuffix = ".segment";
constexpr size_t kRecordHeaderBytes = 1 + 4 + 8 + 4 + 4;

absl::Status NoUpload(TaskId task) {
  return absl::NotFoundError(absl::StrCat("no upload of task ", task.value()));
}

}  // namespace

std::string MakeRecord(RecordKind kind, uint32_t argument, TaskId task, absl::string_view data) {
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

std::string UploadSegments::PathOf(absl::string_view name) const {
  return absl::StrCat(folder_, "/", name);
}

absl::StatusOr<const UploadSegments::Segment*> UploadSegments::SegmentOf(RoundId round) {
  uint32_t before = 0;
  std::string name;
  for (const Segment& segment : segments_) {
    if (segment.round != round) continue;
    if (!segment.given_up) return &segment;
  }
  // Numbers of restored segments need not be without gaps.
  do {
    name = absl::StrFormat("%s%06d", kPrefix, round.value());
    if (before > 0) absl::StrAppend(&name, "-", before);
    absl::StrAppend(&name, kSuffix);
    ++before;
  } while (std::any_of(segments_.begin(), segments_.end(),
                       [&](const Segment& segment) { return segment.name == name; }));
  QFL_ASSIGN_OR_RETURN(std::unique_ptr<base::AppendFile> file,
                       env_.OpenAppend(PathOf(name), /*truncate=*/true));
  segments_.push_back({round, std::move(name), std::move(file), false});
  return &segments_.back();
}

absl::Status UploadSegments::Log(RoundId round, absl::string_view records) {
  QFL_ASSIGN_OR_RETURN(const Segment* segment, SegmentOf(round));
  const File file = segment->file;
  absl::Status status = file->Append(records);
  if (status.ok()) status = file->Sync();
  if (!status.ok()) GiveUpFile(file);
  return status;
}

absl::Status UploadSegments::Begin(RoundId round, TaskId task, const std::string& codec_header) {
  {
    base::MutexLock lock(mutex_);
    const auto found = uploads_.find(task);
    if (found != uploads_.end() && found->second.committed) {
      return absl::FailedPreconditionError(
          absl::StrCat("the update of task ", task.value(), " is committed"));
    }
    if (found != uploads_.end()) uploads_.erase(found);
  }
  QFL_ASSIGN_OR_RETURN(const Segment* segment, SegmentOf(round));
  QFL_RETURN_IF_ERROR(
      segment->file->Append(MakeRecord(RecordKind::kHeader, round.value(), task, codec_header)));
  base::MutexLock lock(mutex_);
  uploads_[task] = Upload{round, segment->file, segment->name, codec_header, {}, false};
  return absl::OkStatus();
}

absl::Status UploadSegments::Append(TaskId task, uint32_t index, absl::string_view chunk) {
  File file;
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
  absl::Status status = file->Append(MakeRecord(RecordKind::kChunk, index, task, chunk));
  base::MutexLock lock(mutex_);
  if (status.ok()) {
    uploads_[task].chunks.push_back(extent);
  } else {
    uploads_.erase(task);
  }
  return status;
}

absl::Status UploadSegments::Discard(TaskId task) {
  base::MutexLock lock(mutex_);
  const auto found = uploads_.find(task);
  if (found != uploads_.end() && !found->second.committed) uploads_.erase(found);
  return absl::OkStatus();
}

absl::Status UploadSegments::Sync(const std::map<TaskId, std::string>& records) {
  // By file: a batch has one, unless a segment had to be given up while an upload was under way.
  std::map<File, std::string> files;
  {
    base::MutexLock lock(mutex_);
    for (const auto& [task, record] : records) {
      const auto found = uploads_.find(task);
      if (found == uploads_.end() || found->second.committed) return NoUpload(task);
      files[found->second.file] += record;
    }
  }
  for (const auto& [file, rows] : files) {
    absl::Status status = rows.empty() ? absl::OkStatus() : file->Append(rows);
    if (status.ok()) status = file->Sync();
    if (!status.ok()) {
      for (const auto& [other, unused] : files) GiveUpFile(other);
      return status;
    }
  }
  return absl::OkStatus();
}

void UploadSegments::MarkCommitted(const std::vector<TaskId>& tasks) {
  base::MutexLock lock(mutex_);
  for (const TaskId task : tasks) uploads_[task].committed = true;
}

void UploadSegments::GiveUp(const std::vector<TaskId>& tasks) {
  std::vector<File> files;
  {
    base::MutexLock lock(mutex_);
    for (const TaskId task : tasks) {
      const auto found = uploads_.find(task);
      if (found != uploads_.end()) files.push_back(found->second.file);
    }
  }
  for (const File& file : files) GiveUpFile(file);
}

absl::StatusOr<UploadSegments::Place> UploadSegments::PlaceOf(TaskId task) const {
  base::MutexLock lock(mutex_);
  const auto found = uploads_.find(task);
  if (found == uploads_.end()) return NoUpload(task);
  return Place{found->second.segment, found->second.header, found->second.chunks};
}

absl::StatusOr<std::string> UploadSegments::Read(TaskId task, uint32_t index) const {
  File file;
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

absl::Status UploadSegments::Restore(RoundId round, TaskId task, Place place) {
  auto known = std::find_if(segments_.begin(), segments_.end(),
                            [&](const Segment& segment) { return segment.name == place.segment; });
  if (known == segments_.end()) {
    const std::string path = PathOf(place.segment);
    if (!env_.Exists(path)) {
      return absl::DataLossError(
          absl::StrCat(path, " is missing; it holds the update of task ", task.value()));
    }
    QFL_ASSIGN_OR_RETURN(std::unique_ptr<base::AppendFile> file,
                         env_.OpenAppend(path, /*truncate=*/false));
    segments_.push_back({round, place.segment, std::move(file), /*given_up=*/true});
    known = std::prev(segments_.end());
  }
  const uint64_t size = known->file->size();
  for (const Extent& extent : place.chunks) {
    if (extent.size > size || extent.offset > size - extent.size) {
      return absl::DataLossError(absl::StrCat(PathOf(place.segment), " has ", size,
                                              " bytes; a chunk of task ", task.value(), " ends at ",
                                              extent.offset + extent.size));
    }
  }
  base::MutexLock lock(mutex_);
  uploads_[task] = Upload{round,
                          known->file,
                          std::move(place.segment),
                          std::move(place.header),
                          std::move(place.chunks),
                          /*committed=*/true};
  return absl::OkStatus();
}

absl::Status UploadSegments::RemoveUnknown() {
  QFL_ASSIGN_OR_RETURN(const std::vector<std::string> names, env_.List(folder_));
  for (const std::string& name : names) {
    if (!absl::StartsWith(name, kPrefix) || !absl::EndsWith(name, kSuffix)) continue;
    const bool known = std::any_of(segments_.begin(), segments_.end(),
                                   [&](const Segment& segment) { return segment.name == name; });
    if (!known) QFL_RETURN_IF_ERROR(env_.RemoveFile(PathOf(name)));
  }
  return absl::OkStatus();
}

void UploadSegments::GiveUpFile(const File& file) {
  for (Segment& segment : segments_) segment.given_up = segment.given_up || segment.file == file;
  base::MutexLock lock(mutex_);
  for (auto it = uploads_.begin(); it != uploads_.end();) {
    const bool lost = !it->second.committed && it->second.file == file;
    it = lost ? uploads_.erase(it) : std::next(it);
  }
}

void UploadSegments::Drop(RoundId round) {
  for (auto it = segments_.begin(); it != segments_.end();) {
    if (it->round <= round) {
      garbage_.push_back(PathOf(it->name));
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

}  // namespace quantfl::store
