#include "client/spool/spool.h"

#include <algorithm>
#include <set>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "client/spool/record.h"
#include "common/base/digest.h"
#include "common/base/status.h"
#include "common/codec/wire.h"

namespace quantfl::spool {
namespace {

namespace wire = codec::wire;

constexpr absl::string_view kUpdateEnding = ".update";
constexpr absl::string_view kRecordEnding = ".record";
constexpr size_t kSizeBytes = sizeof(uint32_t);

}  // namespace

absl::StatusOr<std::string> Reader::ReadChunk(uint32_t index) const {
  if (index >= extents_.size()) {
    return absl::OutOfRangeError(
        absl::StrCat("chunk ", index, " of an update of ", extents_.size()));
  }
  return file_->ReadAt(extents_[index].offset, extents_[index].size);
}

absl::StatusOr<std::unique_ptr<Spool>> Spool::Open(base::Env& env, base::Logger& logger,
                                                   std::string folder) {
  QFL_RETURN_IF_ERROR(env.CreateDirs(folder));
  return std::unique_ptr<Spool>(new Spool(env, logger, std::move(folder)));
}

std::string Spool::Stem(uint32_t ordinal, const std::string& run_id, base::TaskId task) const {
  return absl::StrCat(folder_, "/", ordinal, "-", run_id, "-", task.value());
}

absl::StatusOr<std::vector<std::string>> Spool::StemsOf(uint32_t ordinal,
                                                        absl::string_view ending) const {
  QFL_ASSIGN_OR_RETURN(const std::vector<std::string> names, env_.List(folder_));
  const std::string prefix = absl::StrCat(ordinal, "-");
  std::vector<std::string> stems;
  for (const std::string& name : names) {
    if (absl::StartsWith(name, prefix) && absl::EndsWith(name, ending)) {
      stems.push_back(absl::StrCat(folder_, "/", name.substr(0, name.size() - ending.size())));
    }
  }
  return stems;
}

absl::StatusOr<std::unique_ptr<Reader>> Spool::OpenReader(const std::string& stem) const {
  const std::string path = absl::StrCat(stem, kUpdateEnding);
  if (!env_.Exists(path)) return absl::NotFoundError(absl::StrCat(path, ": no such file"));
  auto reader = std::make_unique<Reader>();
  QFL_ASSIGN_OR_RETURN(reader->file_, env_.OpenAppend(path, /*truncate=*/false));
  const base::AppendFile& file = *reader->file_;
  const auto loss = [&](absl::string_view reason) {
    return absl::DataLossError(absl::StrCat(path, ": ", reason));
  };
  QFL_ASSIGN_OR_RETURN(const std::string fixed, file.ReadAt(0, wire::kFileFixedBytes));
  if (absl::string_view(fixed).substr(0, wire::kMagicBytes) != wire::kFileMagic ||
      wire::Load<uint16_t>(fixed, wire::kFileVersionAt) != wire::kFileVersion) {
    return loss("no update file of this version");
  }
  const uint64_t header_size = wire::Load<uint32_t>(fixed, wire::kFileHeaderSize);
  const uint32_t chunk_count = wire::Load<uint32_t>(fixed, wire::kFileChunkCount);
  uint64_t at = wire::kFileFixedBytes;
  if (header_size > file.size() - at) return loss("it ends within its header");
  QFL_ASSIGN_OR_RETURN(reader->codec_header_, file.ReadAt(at, header_size));
  at += header_size;
  if (chunk_count > (file.size() - at) / kSizeBytes) return loss("more chunks than bytes");
  reader->extents_.reserve(chunk_count);
  for (uint32_t index = 0; index < chunk_count; ++index) {
    QFL_ASSIGN_OR_RETURN(const std::string size_bytes, file.ReadAt(at, kSizeBytes));
    const uint32_t size = wire::Load<uint32_t>(size_bytes, 0);
    at += kSizeBytes;
    if (size > codec::kChunkBytesMax || size > file.size() - at) {
      return loss(absl::StrCat("chunk ", index, " of ", size, " bytes"));
    }
    reader->extents_.push_back({at, size});
    at += size;
  }
  if (at != file.size()) return loss("bytes after its last chunk");
  return reader;
}

absl::StatusOr<session::TrainedUpdate> Spool::Verify(const std::string& stem) const {
  QFL_ASSIGN_OR_RETURN(const std::string record,
                       env_.ReadFile(absl::StrCat(stem, kRecordEnding), kRecordBytes));
  QFL_ASSIGN_OR_RETURN(session::TrainedUpdate update, ParseRecord(record));
  QFL_ASSIGN_OR_RETURN(const std::unique_ptr<Reader> reader, OpenReader(stem));
  base::Sha256Hasher hasher;
  hasher.Update(reader->codec_header());
  uint64_t payload_bytes = reader->codec_header().size();
  for (uint32_t index = 0; index < reader->chunk_count(); ++index) {
    QFL_ASSIGN_OR_RETURN(const std::string chunk, reader->ReadChunk(index));
    hasher.Update(chunk);
    payload_bytes += chunk.size();
  }
  if (reader->chunk_count() != update.offer.chunk_count ||
      payload_bytes != update.offer.payload_bytes ||
      std::move(hasher).Finish() != update.offer.digest) {
    return absl::DataLossError("the update file is not the one that its record describes");
  }
  update.offer.codec_header = reader->codec_header();
  return update;
}

std::optional<session::TrainedUpdate> Spool::Load(uint32_t ordinal) {
  std::optional<session::TrainedUpdate> found;
  std::string kept;
  const auto records = StemsOf(ordinal, kRecordEnding);
  if (!records.ok()) {
    logger_.Warning("spool_unreadable",
                    {{"folder", folder_}, {"reason", records.status().ToString()}});
    return std::nullopt;
  }
  for (const std::string& stem : *records) {
    absl::StatusOr<session::TrainedUpdate> update = Verify(stem);
    // A record under a name that is not its own was not written by Write.
    if (update.ok() && stem != Stem(ordinal, update->run_id, update->offer.task_id)) {
      update = absl::DataLossError("the record belongs to another name");
    }
    if (!update.ok()) {
      logger_.Warning("spooled_update_dropped",
                      {{"file", stem}, {"reason", update.status().ToString()}});
      continue;
    }
    // Two can only be there after a kill between writing the newer and removing the older; task ids
    // grow within a run, and of an older run nothing is wanted anyway.
    if (!found.has_value() || found->offer.task_id < update->offer.task_id) {
      found = *std::move(update);
      kept = stem;
    }
  }
  if (absl::Status status = RemoveAllBut(ordinal, kept); !status.ok()) {
    logger_.Warning("spool_not_cleaned", {{"folder", folder_}, {"reason", status.ToString()}});
  }
  return found;
}

absl::Status Spool::Write(uint32_t ordinal, const session::TrainedUpdate& update,
                          const codec::EncodedUpdate& encoded) {
  const std::string stem = Stem(ordinal, update.run_id, update.offer.task_id);
  // The old record must not describe the new bytes.
  QFL_RETURN_IF_ERROR(env_.RemoveFile(absl::StrCat(stem, kRecordEnding)));
  QFL_RETURN_IF_ERROR(
      env_.WriteFileAtomically(absl::StrCat(stem, kUpdateEnding), codec::SerializeUpdate(encoded)));
  if (absl::Status status =
          env_.WriteFileAtomically(absl::StrCat(stem, kRecordEnding), SerializeRecord(update));
      !status.ok()) {
    // A full disk is the likely reason: the bytes must not stay.
    (void)env_.RemoveFile(absl::StrCat(stem, kUpdateEnding));
    return status;
  }
  return RemoveAllBut(ordinal, stem);
}

absl::StatusOr<std::shared_ptr<const Reader>> Spool::Read(uint32_t ordinal,
                                                          const std::string& run_id,
                                                          base::TaskId task) const {
  QFL_ASSIGN_OR_RETURN(std::unique_ptr<Reader> reader, OpenReader(Stem(ordinal, run_id, task)));
  return std::shared_ptr<const Reader>(std::move(reader));
}

absl::Status Spool::Drop(uint32_t ordinal) { return RemoveAllBut(ordinal, ""); }

absl::Status Spool::Remove(const std::string& stem) {
  QFL_RETURN_IF_ERROR(env_.RemoveFile(absl::StrCat(stem, kRecordEnding)));
  return env_.RemoveFile(absl::StrCat(stem, kUpdateEnding));
}

absl::Status Spool::RemoveAllBut(uint32_t ordinal, const std::string& stem) {
  std::set<std::string> stems;
  for (absl::string_view ending : {kRecordEnding, kUpdateEnding}) {
    QFL_ASSIGN_OR_RETURN(const std::vector<std::string> some, StemsOf(ordinal, ending));
    stems.insert(some.begin(), some.end());
  }
  for (const std::string& other : stems) {
    if (other != stem) QFL_RETURN_IF_ERROR(Remove(other));
  }
  return absl::OkStatus();
}

}  // namespace quantfl::spool
