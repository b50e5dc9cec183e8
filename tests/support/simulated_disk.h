#ifndef QUANTFL_TESTS_SUPPORT_SIMULATED_DISK_H_
#define QUANTFL_TESTS_SUPPORT_SIMULATED_DISK_H_

// A disk in memory that does to files what disks do: a power cut loses what was not synced, or
// keeps some of it, or tears it, in any order; it comes in the middle of any operation; there may
// be no space; a sync fails, and some of what it was to keep is gone although files show it until
// they are read anew. Seeded: equal calls give equal disks.
//
// The real code runs on it: base::Env for segments, checkpoints and spools, and SQLite through a
// VFS, which the first disk of a process makes the default one for paths below root(). What a sync
// is said to have kept stays; what is more is for this disk to choose. One thread.

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "common/base/env.h"
#include "common/base/prng.h"

namespace quantfl::testing {

class SimulatedDisk {
 public:
  explicit SimulatedDisk(uint64_t seed);
  ~SimulatedDisk();
  SimulatedDisk(const SimulatedDisk&) = delete;
  SimulatedDisk& operator=(const SimulatedDisk&) = delete;

  // A folder of this disk alone, which is there.
  const std::string& root() const { return root_; }
  // For the process that runs now. What an earlier one has open does nothing any more, and says so.
  base::Env& Mount();

  // The process dies: what it wrote is there.
  void Kill();
  // And the power fails: what it did not sync may not be.
  void CutPower();
  // CutPower in the middle of the `operations`-th operation that changes something from now on
  // (1: the next), and then `then`. Takes the place of an earlier one.
  void CutPowerAt(uint64_t operations, std::function<void()> then);
  // No CutPowerAt any more.
  void Spare() { cut_at_ = 0; }
  void SetFull(bool full) { full_ = full; }
  // The `syncs`-th sync from now on fails (1: the next): of what it was to make durable some is
  // lost, and no later sync knows of it. As Linux does: processes may go on to see it, until it is
  // no longer in memory. Takes the place of an earlier one.
  void FailSyncAt(uint64_t syncs) { fail_at_ = syncs_ + syncs; }

  uint64_t operations() const { return operations_; }
  uint64_t cuts() const { return cuts_; }
  uint64_t torn() const { return torn_; }  // operations that a cut kept in part
  uint64_t failed_syncs() const { return failed_syncs_; }

  struct File;
  class Life;

 private:
  friend class Life;
  friend struct SimulatedVfs;
  struct Operation;
  using FilePtr = std::shared_ptr<File>;

  // One operation begins: false if nothing comes of it, since the power has gone.
  bool Begin(uint64_t generation);
  // It is over: false if the power went while it ran.
  bool End(uint64_t generation);
  bool IsNow(uint64_t generation) const { return generation == generation_; }

  FilePtr Find(const std::string& path) const;
  FilePtr Create(const std::string& path);
  static void Write(File& file, uint64_t offset, const std::string& data);
  static void Truncate(File& file, uint64_t size);
  void Sync(File& file);
  // Whether the sync that begins now fails.
  bool SyncFails();
  void Remove(const std::string& path, bool durable);
  // What was removed from or replaced in the folder of `path` stays so.
  void SyncFolderOf(const std::string& path);
  void KeepSome(File& file);
  void LoseSome(File& file);
  void FailSync(File& file);
  void Forget();

  const std::string root_;
  base::Prng prng_;
  std::map<std::string, FilePtr> files_;
  std::map<std::string, FilePtr> removed_;  // whose removal is not durable
  std::map<std::string, FilePtr>
      replaced_;  // by another one, which is not durable; null: there was none
  std::map<std::string, bool> folders_;
  std::vector<std::unique_ptr<Life>> lives_;
  uint64_t generation_ = 1;
  uint64_t operations_ = 0, cuts_ = 0, torn_ = 0;
  uint64_t cut_at_ = 0;  // of operations_; 0: never
  uint64_t syncs_ = 0, failed_syncs_ = 0;
  uint64_t fail_at_ = 0;  // of syncs_; 0: never
  std::function<void()> then_;
  bool full_ = false;
};

}  // namespace quantfl::testing

#endif  // QUANTFL_TESTS_SUPPORT_SIMULATED_DISK_H_
