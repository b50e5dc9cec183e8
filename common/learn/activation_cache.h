#ifndef QUANTFL_COMMON_LEARN_ACTIVATION_CACHE_H_
#define QUANTFL_COMMON_LEARN_ACTIVATION_CACHE_H_

// What a frozen prefix makes of examples, kept from one round to the next. Bytes alone: what they
// mean is the learner's.

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "common/base/digest.h"
#include "common/base/env.h"
#include "common/base/log.h"
#include "common/base/mutex.h"

namespace quantfl::learn {

// What an entry is of. Two entries of the same key hold the same numbers, but for roundings of the
// matrix library.
struct ActivationKey {
  base::Digest prefix;    // what computes: parameters, how an example enters
  base::Digest examples;  // which examples, in which order, and what a row is made of
  uint64_t rows = 0;
  uint64_t row_bytes = 0;
};

// An entry, complete; of one thread at a time. It is not dropped while somebody holds it.
class Activations {
 public:
  virtual ~Activations() = default;
  // Row `row` (below ActivationKey::rows) to to[0 .. row_bytes - 1]. DATA_LOSS: the file was
  // damaged since it was opened; the next Get computes the entry again.
  virtual absl::Status Read(uint64_t row, char* to) const = 0;
};

struct ActivationCacheOptions {
  bool in_files = false;   // else in memory
  uint64_t bytes_max = 0;  // of all entries together
  std::string folder{};    // of files; made where it is missing, of this cache alone
};

// The entries of a process, bounded in bytes. Where the next one does not fit, those that were not
// used for longest go, and those of another prefix go at once: a process takes part in one run at a
// time. Files outlive the process and are checked, each row by a checksum, before they are used
// again; a file that was not finished does not count as one. Thread-safe; a second thread that asks
// for the entry that a first one computes waits for it.
class ActivationCache {
 public:
  static absl::StatusOr<std::unique_ptr<ActivationCache>> Create(
      const ActivationCacheOptions& options, base::Env& env, base::Logger& logger);

  // Takes whole rows in order; its errors are to be returned.
  using Append = std::function<absl::Status(absl::string_view rows)>;
  // Appends all rows of the entry.
  using Compute = std::function<absl::Status(const Append& append)>;

  // The entry of `key`, by `compute` where it is not there. RESOURCE_EXHAUSTED naming the smallest
  // bytes_max that fits; errors of `compute` and of the files.
  absl::StatusOr<std::shared_ptr<const Activations>> Get(const ActivationKey& key,
                                                         const Compute& compute);

 private:
  class InMemory;
  class InFile;
  struct Shared;  // what an entry's Activations hold
  struct Entry {
    uint64_t bytes = 0;
    uint64_t used = 0;     // the higher, the later
    bool busy = false;     // a thread computes or checks it
    bool checked = false;  // a file: written or read as a whole since the process began
    std::shared_ptr<Shared> shared;
    bool idle() const { return !busy && shared.use_count() <= 1; }
  };
  using Entries = std::map<std::string, Entry>;

  ActivationCache(const ActivationCacheOptions& options, base::Env& env, base::Logger& logger);
  absl::Status FindFiles();
  std::string Path(const std::string& name) const;
  uint64_t EntryBytes(const ActivationKey& key) const;
  absl::Status MakeRoom(const std::string& prefix, uint64_t bytes) QFL_REQUIRES(mutex_);
  void Drop(Entries::iterator entry) QFL_REQUIRES(mutex_);
  // Run without the lock, while the entry is busy.
  absl::Status CheckFile(const std::string& name, const ActivationKey& key);
  absl::Status Make(const std::string& name, const ActivationKey& key, const Compute& compute,
                    Shared& shared);
  absl::StatusOr<std::shared_ptr<const Activations>> Open(const std::string& name,
                                                          const ActivationKey& key,
                                                          std::shared_ptr<Shared> shared);

  const ActivationCacheOptions options_;
  base::Env& env_;
  base::Logger& logger_;

  base::Mutex mutex_;
  base::CondVar changed_;
  // By name: the digests' first digits, the prefix's first.
  Entries entries_ QFL_GUARDED_BY(mutex_);
  uint64_t uses_ QFL_GUARDED_BY(mutex_) = 0;
};

}  // namespace quantfl::learn

#endif  // QUANTFL_COMMON_LEARN_ACTIVATION_CACHE_H_
