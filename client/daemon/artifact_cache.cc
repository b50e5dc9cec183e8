#include "client/daemon/artifact_cache.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/status.h"

namespace quantfl::daemon {
namespace {

constexpr size_t kReadBytes = 1 << 20;

// The session reads PERMISSION_DENIED and FAILED_PRECONDITION as words of the coordinator.
absl::Status Local(const absl::Status& status) {
  if (status.ok() || absl::IsResourceExhausted(status) || absl::IsDataLoss(status)) return status;
  return absl::InternalError(status.ToString());
}

}  // namespace

absl::StatusOr<std::shared_ptr<ArtifactCache>> ArtifactCache::Open(base::Env& env,
                                                                   base::Logger& logger,
                                                                   ArtifactCacheOptions options) {
  QFL_RETURN_IF_ERROR(env.CreateDirs(options.folder));
  QFL_ASSIGN_OR_RETURN(const std::vector<std::string> names, env.List(options.folder));
  std::shared_ptr<ArtifactCache> cache(new ArtifactCache(env, logger, std::move(options)));
  base::MutexLock lock(cache->mutex_);
  for (const std::string& name : names) {
    const absl::StatusOr<base::Digest> digest = base::Digest::FromHex(name);
    if (!digest.ok() || digest->Hex() != name) continue;
    QFL_ASSIGN_OR_RETURN(const std::unique_ptr<base::AppendFile> file,
                         env.OpenAppend(cache->PathOf(*digest), /*truncate=*/false));
    Entry& entry = cache->EntryOf(*digest);
    entry.stored = file->size();
    entry.from_before = true;
  }
  for (const std::string& path : cache->options_.pretrained) {
    QFL_ASSIGN_OR_RETURN(const std::string bytes,
                         env.ReadFile(path, cache->options_.artifact_bytes_max));
    const base::Digest digest = base::Sha256(bytes);
    Entry& entry = cache->EntryOf(digest);
    entry.path = path;
    entry.pretrained = entry.from_before = entry.checked = entry.complete = true;
    entry.stored = bytes.size();
    logger.Info("pretrained_file", {{"path", path}, {"sha256", digest.Hex()}});
  }
  cache->MakeRoom();
  return cache;
}

std::string ArtifactCache::PathOf(const base::Digest& digest) const {
  return absl::StrCat(options_.folder, "/", digest.Hex());
}

ArtifactCache::Entry& ArtifactCache::EntryOf(const base::Digest& digest) {
  Entry& entry = entries_[digest];
  if (entry.path.empty()) entry.path = PathOf(digest);
  return entry;
}

bool ArtifactCache::IsFromBefore(const base::Digest& digest) {
  {
    base::MutexLock lock(mutex_);
    const auto it = entries_.find(digest);
    if (it == entries_.end() || !it->second.from_before) return false;
    if (it->second.checked) return it->second.complete;
  }
  base::Sha256Hasher hasher;
  Prefix(digest, hasher);
  const bool complete = std::move(hasher).Finish() == digest;
  base::MutexLock lock(mutex_);
  const auto it = entries_.find(digest);
  if (it == entries_.end()) return false;
  it->second.checked = true;
  it->second.complete = complete;
  return complete;
}

bool ArtifactCache::IsBroken(const base::Digest& digest) const {
  base::MutexLock lock(mutex_);
  const auto it = entries_.find(digest);
  return it != entries_.end() && it->second.from_before && it->second.checked &&
         !it->second.complete;
}

bool ArtifactCache::IsStored(const base::Digest& digest) const {
  base::MutexLock lock(mutex_);
  const auto it = entries_.find(digest);
  return it != entries_.end() && it->second.complete;
}

absl::StatusOr<std::string> ArtifactCache::Read(const base::Digest& digest) {
  std::string path;
  {
    base::MutexLock lock(mutex_);
    const auto it = entries_.find(digest);
    if (it == entries_.end() || !it->second.complete) {
      return absl::NotFoundError(absl::StrCat("artifact ", digest.ShortHex(), " is not stored"));
    }
    it->second.last_use = ++uses_;
    path = it->second.path;
  }
  absl::StatusOr<std::string> bytes = env_.ReadFile(path, options_.artifact_bytes_max);
  if (bytes.ok() && base::Sha256(*bytes) == digest) return bytes;
  const std::string reason =
      bytes.ok() ? "its bytes have changed" : std::string(bytes.status().message());
  logger_.Warning("artifact_damaged", {{"path", path}, {"reason", reason}});
  base::MutexLock lock(mutex_);
  RemoveEntry(digest);
  return absl::DataLossError(absl::StrCat(path, ": ", reason));
}

void ArtifactCache::Pin(const base::Digest& digest) {
  base::MutexLock lock(mutex_);
  ++pins_[digest];
}

void ArtifactCache::Unpin(const base::Digest& digest) {
  base::MutexLock lock(mutex_);
  const auto it = pins_.find(digest);
  if (it != pins_.end() && --it->second == 0) pins_.erase(it);
}

absl::Status ArtifactCache::Append(const base::Digest& digest, uint64_t offset,
                                   absl::string_view piece) {
  base::MutexLock lock(mutex_);
  Entry& entry = EntryOf(digest);
  entry.last_use = ++uses_;
  if (entry.complete || offset > entry.stored || entry.stored - offset >= piece.size()) {
    return absl::OkStatus();
  }
  absl::Status status;
  if (entry.file == nullptr) {
    auto file = env_.OpenAppend(entry.path, /*truncate=*/entry.stored == 0);
    if (file.ok()) {
      entry.file = *std::move(file);
    } else {
      status = file.status();
    }
  }
  piece.remove_prefix(entry.stored - offset);
  if (status.ok()) status = entry.file->Append(piece);
  if (!status.ok()) {
    RemoveEntry(digest);
    return Local(status);
  }
  entry.stored += piece.size();
  return absl::OkStatus();
}

absl::Status ArtifactCache::Complete(const base::Digest& digest, uint64_t size) {
  base::MutexLock lock(mutex_);
  Entry& entry = EntryOf(digest);
  if (!entry.complete && size == 0) {  // no piece has made the file
    QFL_RETURN_IF_ERROR(Local(env_.WriteFileAtomically(entry.path, "")));
  }
  if (entry.stored != size) {
    const uint64_t stored = entry.stored;
    RemoveEntry(digest);
    return absl::UnavailableError(absl::StrCat("artifact ", digest.ShortHex(), ": ", stored,
                                               " bytes are stored of ", size,
                                               "; another client's download was discarded"));
  }
  entry.complete = entry.checked = true;
  entry.file.reset();
  entry.last_use = ++uses_;
  MakeRoom();
  return absl::OkStatus();
}

absl::Status ArtifactCache::Put(const base::Digest& digest, absl::string_view bytes) {
  if (IsStored(digest)) return absl::OkStatus();
  Discard(digest);
  QFL_RETURN_IF_ERROR(Append(digest, 0, bytes));
  return Complete(digest, bytes.size());
}

void ArtifactCache::Discard(const base::Digest& digest) {
  base::MutexLock lock(mutex_);
  const auto it = entries_.find(digest);
  if (it != entries_.end() && !it->second.complete) RemoveEntry(digest);
}

uint64_t ArtifactCache::Prefix(const base::Digest& digest, base::Sha256Hasher& hasher) {
  std::string path;
  {
    base::MutexLock lock(mutex_);
    const auto it = entries_.find(digest);
    if (it == entries_.end() || !it->second.from_before || it->second.file != nullptr) return 0;
    path = it->second.path;
  }
  const auto file = env_.OpenAppend(path, /*truncate=*/false);
  if (!file.ok()) return 0;
  const uint64_t size = (*file)->size();
  for (uint64_t at = 0; at < size; at += kReadBytes) {
    const size_t count = std::min<uint64_t>(kReadBytes, size - at);
    const absl::StatusOr<std::string> bytes = (*file)->ReadAt(at, count);
    if (!bytes.ok()) {  // bytes that cannot be read are bytes that are not there
      Discard(digest);
      hasher = base::Sha256Hasher();
      return 0;
    }
    hasher.Update(*bytes);
  }
  return size;
}

void ArtifactCache::RemoveEntry(const base::Digest& digest) {
  const auto it = entries_.find(digest);
  if (it == entries_.end()) return;
  if (!it->second.pretrained) {
    it->second.file.reset();
    if (absl::Status status = env_.RemoveFile(it->second.path); !status.ok()) {
      logger_.Warning("artifact_not_removed",
                      {{"path", it->second.path}, {"reason", status.ToString()}});
    }
  }
  entries_.erase(it);
}

void ArtifactCache::MakeRoom() {
  uint64_t total = 0;
  for (const auto& [digest, entry] : entries_) {
    if (!entry.pretrained) total += entry.stored;
  }
  while (total > options_.bytes_max) {
    const std::pair<const base::Digest, Entry>* oldest = nullptr;
    for (const auto& item : entries_) {
      if (item.second.pretrained || item.second.file != nullptr || pins_.count(item.first) != 0) {
        continue;
      }
      if (oldest == nullptr || item.second.last_use < oldest->second.last_use) oldest = &item;
    }
    if (oldest == nullptr) return;
    total -= oldest->second.stored;
    RemoveEntry(base::Digest(oldest->first));
  }
}

Download::Download(std::shared_ptr<ArtifactCache> cache, base::Digest digest)
    : cache_(std::move(cache)), digest_(digest) {
  offset_ = cache_->Prefix(digest_, hasher_);
}

uint64_t Download::Begin(uint64_t use) {
  use_ = use;
  return offset_;
}

absl::Status Download::Add(uint64_t use, absl::string_view piece) {
  if (use != use_) return absl::OkStatus();
  QFL_RETURN_IF_ERROR(cache_->Append(digest_, offset_, piece));
  hasher_.Update(piece);
  offset_ += piece.size();
  return absl::OkStatus();
}

absl::Status Download::Finish(uint64_t use) {
  if (use != use_) return absl::CancelledError("a later use of this download has begun");
  const uint64_t size = offset_;
  const base::Digest found = std::move(hasher_).Finish();
  hasher_ = base::Sha256Hasher();
  offset_ = 0;
  if (found == digest_) return cache_->Complete(digest_, size);
  cache_->Discard(digest_);
  return absl::DataLossError(absl::StrCat("artifact ", digest_.Hex(), ": ", size,
                                          " bytes came whose SHA-256 is ", found.Hex()));
}

void Download::Restart() {
  cache_->Discard(digest_);
  hasher_ = base::Sha256Hasher();
  offset_ = 0;
}

}  // namespace quantfl::daemon
