#include "common/learn/activation_cache.h"

#include <atomic>
#include <cstring>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "common/learn/activation_file.h"

namespace quantfl::learn {
namespace {

constexpr absl::string_view kSuffix = ".activations";
constexpr size_t kDigits = 16;  // of each digest in a name; a file's header has all of them

std::string PrefixName(const ActivationKey& key) { return key.prefix.Hex().substr(0, kDigits); }

std::string NameOf(const ActivationKey& key) {
  const base::Digest rest =
      base::Sha256(absl::StrCat(key.examples.AsBytes(), " ", key.rows, " rows of ", key.row_bytes));
  return absl::StrCat(PrefixName(key), "-", rest.Hex().substr(0, kDigits), kSuffix);
}

}  // namespace

struct ActivationCache::Shared {
  std::string rows;                   // in memory
  std::atomic<bool> damaged = false;  // the file, since it was checked
};

class ActivationCache::InMemory : public Activations {
 public:
  InMemory(std::shared_ptr<Shared> shared, uint64_t row_bytes)
      : shared_(std::move(shared)), row_bytes_(row_bytes) {}
  absl::Status Read(uint64_t row, char* to) const override {
    std::memcpy(to, shared_->rows.data() + row * row_bytes_, row_bytes_);
    return absl::OkStatus();
  }

 private:
  const std::shared_ptr<Shared> shared_;
  const uint64_t row_bytes_;
};

class ActivationCache::InFile : public Activations {
 public:
  InFile(std::shared_ptr<Shared> shared, ActivationFileReader reader)
      : shared_(std::move(shared)), reader_(std::move(reader)) {}
  absl::Status Read(uint64_t row, char* to) const override {
    absl::Status status = reader_.Read(row, to);
    if (!status.ok()) shared_->damaged = true;
    return status;
  }

 private:
  const std::shared_ptr<Shared> shared_;
  const ActivationFileReader reader_;
};

ActivationCache::ActivationCache(const ActivationCacheOptions& options, base::Env& env,
                                 base::Logger& logger)
    : options_(options), env_(env), logger_(logger) {}

absl::StatusOr<std::unique_ptr<ActivationCache>> ActivationCache::Create(
    const ActivationCacheOptions& options, base::Env& env, base::Logger& logger) {
  std::unique_ptr<ActivationCache> cache(new ActivationCache(options, env, logger));
  if (options.in_files) QFL_RETURN_IF_ERROR(cache->FindFiles());
  return cache;
}

uint64_t ActivationCache::EntryBytes(const ActivationKey& key) const {
  return options_.in_files ? ActivationFileBytes(key) : key.rows * key.row_bytes;
}

std::string ActivationCache::Path(const std::string& name) const {
  return absl::StrCat(options_.folder, "/", name);
}

absl::Status ActivationCache::FindFiles() {
  QFL_RETURN_IF_ERROR(env_.CreateDirs(options_.folder));
  QFL_ASSIGN_OR_RETURN(const std::vector<std::string> names, env_.List(options_.folder));
  base::MutexLock lock(mutex_);
  for (const std::string& name : names) {
    if (!absl::EndsWith(name, kSuffix)) continue;
    QFL_ASSIGN_OR_RETURN(const auto file, env_.OpenAppend(Path(name), false));
    entries_[name].bytes = file->size();
  }
  // Also where a file is larger than what there may be now.
  return MakeRoom("", 0);
}

void ActivationCache::Drop(Entries::iterator entry) {
  if (options_.in_files) {
    // What cannot be removed now is found again by the next process.
    if (const absl::Status removed = env_.RemoveFile(Path(entry->first)); !removed.ok()) {
      logger_.Warning("activations_kept", {{"reason", removed.message()}});
    }
  }
  entries_.erase(entry);
}

absl::Status ActivationCache::MakeRoom(const std::string& prefix, uint64_t bytes) {
  uint64_t total = bytes;
  for (auto next = entries_.begin(); next != entries_.end();) {
    const auto entry = next++;
    if (!prefix.empty() && !absl::StartsWith(entry->first, prefix) && entry->second.idle()) {
      Drop(entry);
    } else {
      total += entry->second.bytes;
    }
  }
  while (total > options_.bytes_max) {
    auto oldest = entries_.end();
    uint64_t in_use = 0;
    for (auto entry = entries_.begin(); entry != entries_.end(); ++entry) {
      if (!entry->second.idle()) {
        in_use += entry->second.bytes;
      } else if (oldest == entries_.end() || entry->second.used < oldest->second.used) {
        oldest = entry;
      }
    }
    if (oldest == entries_.end()) {
      return absl::ResourceExhaustedError(
          absl::StrCat("the cached activations need ", bytes, " bytes",
                       in_use == 0 ? "" : absl::StrCat(", beside ", in_use, " that are in use,"),
                       " and cache.bytes_max is ", options_.bytes_max, ": ", bytes + in_use,
                       " is the smallest that fits; or cache.mode is another one"));
    }
    logger_.Warning("activations_dropped",
                    {{"name", oldest->first},
                     {"bytes", oldest->second.bytes},
                     {"reason", "cache.bytes_max is too small to keep those of all clients"},
                     {"bytes_max", options_.bytes_max}});
    total -= oldest->second.bytes;
    Drop(oldest);
  }
  return absl::OkStatus();
}

absl::Status ActivationCache::CheckFile(const std::string& name, const ActivationKey& key) {
  QFL_ASSIGN_OR_RETURN(const ActivationFileReader reader,
                       ActivationFileReader::Open(env_, Path(name), key));
  return reader.Check();
}

absl::Status ActivationCache::Make(const std::string& name, const ActivationKey& key,
                                   const Compute& compute, Shared& shared) {
  uint64_t missing = key.rows * key.row_bytes;
  const auto counted = [&](absl::string_view rows, const Append& append) -> absl::Status {
    if (rows.size() > missing || rows.size() % key.row_bytes != 0) {
      return absl::InternalError(absl::StrCat(rows.size(), " bytes of activations where ", missing,
                                              " are missing, in rows of ", key.row_bytes));
    }
    missing -= rows.size();
    return append(rows);
  };
  if (options_.in_files) {
    QFL_ASSIGN_OR_RETURN(ActivationFileWriter writer,
                         ActivationFileWriter::Create(env_, Path(name), key));
    QFL_RETURN_IF_ERROR(compute([&](absl::string_view rows) {
      return counted(rows, [&](absl::string_view r) { return writer.Append(r); });
    }));
    if (missing == 0) return writer.Finish();
  } else {
    shared.rows.reserve(missing);
    QFL_RETURN_IF_ERROR(compute([&](absl::string_view rows) {
      return counted(rows, [&](absl::string_view r) {
        shared.rows.append(r.data(), r.size());
        return absl::OkStatus();
      });
    }));
    if (missing == 0) return absl::OkStatus();
  }
  return absl::InternalError(absl::StrCat(missing, " bytes of activations are missing"));
}

absl::StatusOr<std::shared_ptr<const Activations>> ActivationCache::Open(
    const std::string& name, const ActivationKey& key, std::shared_ptr<Shared> shared) {
  if (!options_.in_files) return std::make_shared<InMemory>(std::move(shared), key.row_bytes);
  QFL_ASSIGN_OR_RETURN(ActivationFileReader reader,
                       ActivationFileReader::Open(env_, Path(name), key));
  return std::make_shared<InFile>(std::move(shared), std::move(reader));
}

absl::StatusOr<std::shared_ptr<const Activations>> ActivationCache::Get(const ActivationKey& key,
                                                                        const Compute& compute) {
  const std::string name = NameOf(key);
  std::shared_ptr<Shared> shared;
  bool found = false;
  {
    base::MutexLock lock(mutex_);
    Entries::iterator entry;
    while (true) {
      entry = entries_.find(name);
      if (entry == entries_.end() || !entry->second.busy) break;
      changed_.Wait(mutex_);
    }
    found = entry != entries_.end();
    if (found && entry->second.checked && !entry->second.shared->damaged) {
      // A file may have been taken away or written over since; then it is computed again.
      auto opened = Open(name, key, entry->second.shared);
      if (opened.ok()) {
        entry->second.used = ++uses_;
        return opened;
      }
    }
    if (found && entry->second.bytes != EntryBytes(key)) {
      Drop(entry);
      found = false;
    }
    if (!found) {
      QFL_RETURN_IF_ERROR(MakeRoom(PrefixName(key), EntryBytes(key)));
      entry = entries_.emplace(name, Entry{}).first;
      entry->second.bytes = EntryBytes(key);
    }
    entry->second.busy = true;
    // Whoever still holds a damaged one keeps his own.
    entry->second.shared = shared = std::make_shared<Shared>();
  }

  const auto end = [&](bool ok) {
    base::MutexLock lock(mutex_);
    const auto entry = entries_.find(name);
    entry->second.busy = false;
    entry->second.checked = true;
    entry->second.used = ++uses_;
    if (!ok) Drop(entry);
    changed_.NotifyAll();
  };
  absl::StatusOr<std::shared_ptr<const Activations>> result = absl::UnknownError("");
  try {
    absl::Status made = found ? CheckFile(name, key) : absl::NotFoundError("");
    if (!made.ok()) {
      made = Make(name, key, compute, *shared);
      if (made.ok()) {
        logger_.Info("activations_cached",
                     {{"name", name}, {"examples", key.rows}, {"bytes", EntryBytes(key)}});
      }
    }
    result = made.ok() ? Open(name, key, std::move(shared)) : made;
  } catch (...) {
    end(false);
    throw;
  }
  end(result.ok());
  return result;
}

}  // namespace quantfl::learn
