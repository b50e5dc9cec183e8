#ifndef QUANTFL_CLIENT_DAEMON_ARTIFACT_CACHE_H_
#define QUANTFL_CLIENT_DAEMON_ARTIFACT_CACHE_H_

// What the clients of a process have fetched, by SHA-256: one file each, named by its digest. A
// file is never trusted for its name: it is hashed whenever it is read, so that a partial or
// damaged one is found out, and a partial one is where the next download goes on. No fsync for the
// same reason.

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "common/base/digest.h"
#include "common/base/env.h"
#include "common/base/log.h"
#include "common/base/mutex.h"

namespace quantfl::daemon {

struct ArtifactCacheOptions {
  std::string folder;                   // created
  std::vector<std::string> pretrained;  // files elsewhere that count as fetched
  uint64_t bytes_max = 4ull << 30;      // of the folder; the least recently used go first
  uint64_t artifact_bytes_max = 4ull << 30;
};

// Thread-safe, except that whatever writes (Append, Complete, Discard, Download) and IsFromBefore
// belong to one executor that runs one task at a time. Errors are DATA_LOSS, RESOURCE_EXHAUSTED,
// NOT_FOUND or INTERNAL.
class ArtifactCache {
 public:
  // `env` and `logger` outlive the cache. Errors of the folder; a pretrained file that cannot be
  // read.
  static absl::StatusOr<std::shared_ptr<ArtifactCache>> Open(base::Env& env, base::Logger& logger,
                                                             ArtifactCacheOptions options);

  // A pretrained file, or whole on disk before this process began. Hashes the file when asked
  // first.
  bool IsFromBefore(const base::Digest& digest);
  // On disk before this process began, but not whole: a download that was cut, or damage. Only what
  // IsFromBefore was asked for.
  bool IsBroken(const base::Digest& digest) const;
  // Whole on disk, whoever brought it.
  bool IsStored(const base::Digest& digest) const;
  // Verified bytes. NOT_FOUND; DATA_LOSS if the file is not what it was (it is then removed).
  absl::StatusOr<std::string> Read(const base::Digest& digest);

  // A pinned artifact is not removed to make room. Counted.
  void Pin(const base::Digest& digest);
  void Unpin(const base::Digest& digest);

  // What several clients download at once is stored once: the longest prefix that any of them has
  // brought. A piece that adds nothing to it, or leaves a gap, is dropped.
  absl::Status Append(const base::Digest& digest, uint64_t offset, absl::string_view piece);
  // UNAVAILABLE unless exactly `size` bytes are stored: a download that this one relied on was
  // discarded.
  absl::Status Complete(const base::Digest& digest, uint64_t size);
  // Stores `bytes`, whose digest was checked; OK also where they are.
  absl::Status Put(const base::Digest& digest, absl::string_view bytes);
  // Drops what is stored so far; what is complete stays.
  void Discard(const base::Digest& digest);
  // Feeds what an earlier process left of it to `hasher`; its size, 0 if nothing.
  uint64_t Prefix(const base::Digest& digest, base::Sha256Hasher& hasher);

 private:
  struct Entry {
    std::string path;
    bool pretrained = false;
    bool from_before = false;
    bool checked = false;  // whether a file from before is whole
    bool complete = false;
    uint64_t stored = 0;
    uint64_t last_use = 0;
    std::unique_ptr<base::AppendFile> file;  // while it is downloaded
  };

  ArtifactCache(base::Env& env, base::Logger& logger, ArtifactCacheOptions options)
      : env_(env), logger_(logger), options_(std::move(options)) {}
  std::string PathOf(const base::Digest& digest) const;
  Entry& EntryOf(const base::Digest& digest) QFL_REQUIRES(mutex_);
  void RemoveEntry(const base::Digest& digest) QFL_REQUIRES(mutex_);
  void MakeRoom() QFL_REQUIRES(mutex_);

  base::Env& env_;
  base::Logger& logger_;
  const ArtifactCacheOptions options_;
  mutable base::Mutex mutex_;
  std::map<base::Digest, Entry> entries_ QFL_GUARDED_BY(mutex_);
  std::map<base::Digest, int> pins_ QFL_GUARDED_BY(mutex_);
  uint64_t uses_ QFL_GUARDED_BY(mutex_) = 0;
};

// One client's way through one artifact: bytes in order, hashed as they come, continued after a
// cut. Only on the cache's writing executor. A use is one Fetch call: pieces of an earlier one that
// come late are ignored.
class Download {
 public:
  // Where an earlier process stopped is where this one goes on.
  Download(std::shared_ptr<ArtifactCache> cache, base::Digest digest);
  // The offset to fetch from.
  uint64_t Begin(uint64_t use);
  absl::Status Add(uint64_t use, absl::string_view piece);
  // After the last piece. DATA_LOSS: these are other bytes. Anything but OK: the next use starts at
  // 0.
  absl::Status Finish(uint64_t use);
  void Restart();
  uint64_t offset() const { return offset_; }

 private:
  std::shared_ptr<ArtifactCache> cache_;
  base::Digest digest_;
  base::Sha256Hasher hasher_;
  uint64_t offset_ = 0;
  uint64_t use_ = 0;
};

}  // namespace quantfl::daemon

#endif  // QUANTFL_CLIENT_DAEMON_ARTIFACT_CACHE_H_
