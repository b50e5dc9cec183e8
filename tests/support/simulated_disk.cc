#include "tests/support/simulated_disk.h"

#include <sqlite3.h>

#include <algorithm>
#include <cstring>
#include <set>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "common/base/check.h"
#include "common/base/status.h"

namespace quantfl::testing {
namespace {

constexpr size_t kSectorBytes = 512;
constexpr absl::string_view kRootPrefix = "/simulated-";

absl::Status PowerIsOff(absl::string_view path) {
  return absl::UnavailableError(absl::StrCat(path, ": the power is off"));
}
absl::Status NoSpace(absl::string_view path) {
  return absl::ResourceExhaustedError(absl::StrCat("cannot write ", path, ": no space left"));
}
absl::Status NotSynced(absl::string_view path) {
  return absl::InternalError(absl::StrCat("cannot sync ", path, ": input/output error"));
}
absl::Status NoFile(absl::string_view path) {
  return absl::NotFoundError(absl::StrCat("cannot open ", path, ": no such file"));
}

void RegisterVfs();

uint64_t& DisksMade() {
  static uint64_t made = 0;
  return made;
}
std::map<std::string, SimulatedDisk*>& Disks() {
  static auto* const disks = new std::map<std::string, SimulatedDisk*>;
  return *disks;
}

void Overwrite(std::string& bytes, uint64_t offset, absl::string_view data) {
  if (bytes.size() < offset + data.size()) bytes.resize(offset + data.size());
  bytes.replace(offset, data.size(), data.data(), data.size());
}

}  // namespace

// What has not been synced: a write, or a new size.
struct SimulatedDisk::Operation {
  uint64_t offset = 0;
  std::string data;
  bool truncates = false;
};

struct SimulatedDisk::File {
  std::string now;      // what processes see
  std::string durable;  // what a power cut leaves at least
  std::vector<Operation> pending;
  bool is_durable = false;  // that it is there at all
  bool lost = false;        // a sync failed: `now` is more than the disk will ever have
};

// ---- files ----

void SimulatedDisk::Write(File& file, uint64_t offset, const std::string& data) {
  Overwrite(file.now, offset, data);
  file.pending.push_back({offset, data, false});
}

void SimulatedDisk::Truncate(File& file, uint64_t size) {
  file.now.resize(size);
  file.pending.push_back({size, "", true});
}

void SimulatedDisk::Sync(File& file) {
  for (const Operation& one : file.pending) {
    if (one.truncates) {
      file.durable.resize(one.offset);
    } else {
      Overwrite(file.durable, one.offset, one.data);
    }
  }
  file.pending.clear();
  file.is_durable = true;
}

bool SimulatedDisk::SyncFails() {
  if (++syncs_ != fail_at_) return false;
  ++failed_syncs_;
  return true;
}

// What is left of a file's unsynced operations: none, the first ones, or any of them; and of one
// that is kept, perhaps a part that ends with a sector, or anywhere.
void SimulatedDisk::KeepSome(File& file) {
  const uint64_t manner = prng_.Below(3);
  const uint64_t first_ones = prng_.Below(file.pending.size() + 1);
  for (size_t i = 0; i < file.pending.size(); ++i) {
    Operation& one = file.pending[i];
    const bool kept = manner == 1 ? i <= first_ones : manner == 2 && prng_.Below(2) == 0;
    if (!kept) continue;
    if (one.truncates) {
      file.durable.resize(one.offset);
      continue;
    }
    size_t size = one.data.size();
    if (size > 0 && (manner == 1 ? i == first_ones : prng_.Below(4) == 0)) {
      size = prng_.Below(size + 1);
      if (prng_.Below(2) == 0) size -= size % kSectorBytes;
      ++torn_;
    }
    Overwrite(file.durable, one.offset, absl::string_view(one.data).substr(0, size));
  }
  file.pending.clear();
}

void SimulatedDisk::LoseSome(File& file) {
  KeepSome(file);
  file.now = file.durable;
  file.lost = false;
}

void SimulatedDisk::FailSync(File& file) {
  KeepSome(file);
  file.lost = true;
}

// What is in memory alone may be read from the disk again, as it is there.
void SimulatedDisk::Forget() {
  for (auto& [path, file] : files_) {
    if (!file->lost || prng_.Below(2) == 0) continue;
    file->now = file->durable;
    for (const Operation& one : file->pending) {
      if (one.truncates) {
        file->now.resize(one.offset);
      } else {
        Overwrite(file->now, one.offset, one.data);
      }
    }
    file->lost = false;
  }
}

SimulatedDisk::FilePtr SimulatedDisk::Find(const std::string& path) const {
  const auto found = files_.find(path);
  return found == files_.end() ? nullptr : found->second;
}

SimulatedDisk::FilePtr SimulatedDisk::Create(const std::string& path) {
  return files_[path] = std::make_shared<File>();
}

void SimulatedDisk::Remove(const std::string& path, bool durable) {
  const auto found = files_.find(path);
  if (found == files_.end()) return;
  if (!durable && found->second->is_durable) removed_[path] = found->second;
  files_.erase(found);
}

void SimulatedDisk::SyncFolderOf(const std::string& path) {
  const auto folder = [](absl::string_view of) { return of.substr(0, of.rfind('/')); };
  for (auto* entries : {&removed_, &replaced_}) {
    for (auto it = entries->begin(); it != entries->end();) {
      it = folder(it->first) == folder(path) ? entries->erase(it) : std::next(it);
    }
  }
}

// ---- the power ----

SimulatedDisk::SimulatedDisk(uint64_t seed)
    : root_(absl::StrCat(kRootPrefix, ++DisksMade())),
      prng_(base::PrngKey{seed, 7, 0, base::PrngPurpose::kSimulation}) {
  folders_["/"] = folders_[root_] = true;
  Disks()[root_] = this;
  RegisterVfs();
}

bool SimulatedDisk::Begin(uint64_t generation) {
  if (!IsNow(generation)) return false;
  ++operations_;
  return true;
}

bool SimulatedDisk::End(uint64_t generation) {
  if (cut_at_ == 0 || operations_ < cut_at_ || !IsNow(generation)) return IsNow(generation);
  CutPower();
  if (then_) std::exchange(then_, nullptr)();
  return false;
}

void SimulatedDisk::Kill() {
  ++generation_;
  cut_at_ = fail_at_ = 0;
  Forget();
}

void SimulatedDisk::CutPower() {
  Kill();
  ++cuts_;
  for (auto& [path, file] : std::exchange(replaced_, {})) {
    if (prng_.Below(2) == 0) continue;
    if (file == nullptr) {
      files_.erase(path);
    } else {
      files_[path] = file;
    }
  }
  for (auto it = files_.begin(); it != files_.end();) {
    File& file = *it->second;
    const bool stays = file.is_durable || prng_.Below(2) == 0;
    if (stays) LoseSome(file);
    if (stays) file.is_durable = true;
    it = stays ? std::next(it) : files_.erase(it);
  }
  for (auto& [path, file] : std::exchange(removed_, {})) {
    if (prng_.Below(2) == 0 || files_.count(path) > 0) continue;
    LoseSome(*file);
    files_[path] = file;
  }
}

void SimulatedDisk::CutPowerAt(uint64_t operations, std::function<void()> then) {
  QFL_CHECK(operations > 0);
  cut_at_ = operations_ + operations;
  then_ = std::move(then);
}

// ---- base::Env, of one process's life ----

class SimulatedDisk::Life final : public base::Env {
 public:
  Life(SimulatedDisk& disk, uint64_t generation) : disk_(disk), generation_(generation) {}

  absl::StatusOr<std::string> ReadFile(const std::string& path, uint64_t max_bytes) override {
    if (!disk_.IsNow(generation_)) return PowerIsOff(path);
    const FilePtr file = disk_.Find(path);
    if (file == nullptr) return NoFile(path);
    if (file->now.size() > max_bytes) {
      return absl::ResourceExhaustedError(
          absl::StrCat(path, " has ", file->now.size(), " bytes, the limit is ", max_bytes));
    }
    return file->now;
  }

  // A temporary file may be left, the old file or the new one is there.
  absl::Status WriteFileAtomically(const std::string& path, absl::string_view data, int) override {
    if (!disk_.Begin(generation_)) return PowerIsOff(path);
    if (disk_.full_ && !data.empty()) return NoSpace(path);
    if (disk_.folders_.count(path.substr(0, path.rfind('/'))) == 0) return NoFile(path);
    auto file = std::make_shared<File>();
    Write(*file, 0, std::string(data));
    const std::string temporary = absl::StrCat(path, ".tmp-0123456789abcdef");
    if (disk_.SyncFails()) return NotSynced(path);  // of the file, which is removed again
    if (disk_.SyncFails()) {                        // of the folder
      disk_.Sync(*file);
      disk_.replaced_.emplace(path, disk_.Find(path));
      disk_.files_[path] = file;
      return NotSynced(path);
    }
    const bool renamed = disk_.prng_.Below(2) == 0;
    if (renamed) disk_.Sync(*file);
    disk_.files_[renamed ? path : temporary] = file;
    if (!disk_.End(generation_)) return PowerIsOff(path);
    disk_.Sync(*file);
    disk_.files_.erase(temporary);
    disk_.files_[path] = file;
    disk_.SyncFolderOf(path);
    return absl::OkStatus();
  }

  absl::StatusOr<std::unique_ptr<base::AppendFile>> OpenAppend(const std::string& path,
                                                               bool truncate) override;

  absl::Status CreateDirs(const std::string& path) override {
    if (!disk_.IsNow(generation_)) return PowerIsOff(path);
    for (size_t end = path.find('/', 1); end != path.npos; end = path.find('/', end + 1)) {
      disk_.folders_[path.substr(0, end)] = true;
    }
    disk_.folders_[path] = true;
    return absl::OkStatus();
  }

  absl::Status RemoveFile(const std::string& path) override {
    if (!disk_.Begin(generation_)) return PowerIsOff(path);
    disk_.Remove(path, /*durable=*/false);
    return disk_.End(generation_) ? absl::OkStatus() : PowerIsOff(path);
  }

  bool Exists(const std::string& path) override {
    return disk_.Find(path) != nullptr || disk_.folders_.count(path) > 0;
  }

  absl::StatusOr<std::vector<std::string>> List(const std::string& folder) override {
    if (!disk_.IsNow(generation_)) return PowerIsOff(folder);
    if (disk_.folders_.count(folder) == 0) return NoFile(folder);
    const std::string prefix = absl::StrCat(folder, "/");
    std::set<std::string> names;
    const auto add = [&](const std::string& path) {
      if (!absl::StartsWith(path, prefix) || path.size() == prefix.size()) return;
      names.insert(path.substr(prefix.size(), path.find('/', prefix.size()) - prefix.size()));
    };
    for (const auto& [path, file] : disk_.files_) add(path);
    for (const auto& [path, is_there] : disk_.folders_) add(path);
    return std::vector<std::string>(names.begin(), names.end());
  }

 private:
  friend class SimulatedDisk;
  class Appender;
  SimulatedDisk& disk_;
  const uint64_t generation_;
};

class SimulatedDisk::Life::Appender final : public base::AppendFile {
 public:
  Appender(SimulatedDisk& disk, uint64_t generation, FilePtr file, std::string path)
      : disk_(disk), generation_(generation), file_(std::move(file)), path_(std::move(path)) {}

  absl::Status Append(absl::string_view data) override {
    if (!disk_.Begin(generation_)) return PowerIsOff(path_);
    if (!failed_.ok()) return failed_;
    if (disk_.full_ && !data.empty()) return NoSpace(path_);
    Write(*file_, file_->now.size(), std::string(data));
    return disk_.End(generation_) ? absl::OkStatus() : PowerIsOff(path_);
  }
  absl::Status Sync() override {
    if (!disk_.Begin(generation_) || !disk_.End(generation_)) return PowerIsOff(path_);
    if (!failed_.ok()) return failed_;
    if (disk_.SyncFails()) {
      disk_.FailSync(*file_);
      return failed_ = NotSynced(path_);
    }
    disk_.Sync(*file_);
    return absl::OkStatus();
  }
  uint64_t size() const override { return file_->now.size(); }
  absl::StatusOr<std::string> ReadAt(uint64_t offset, size_t size) const override {
    if (!disk_.IsNow(generation_)) return PowerIsOff(path_);
    const uint64_t have = file_->now.size();
    if (offset > have || size > have - offset) {
      return absl::DataLossError(absl::StrCat(path_, " ends at byte ", have, ": cannot read ", size,
                                              " bytes at ", offset));
    }
    return file_->now.substr(offset, size);
  }

 private:
  SimulatedDisk& disk_;
  const uint64_t generation_;
  const FilePtr file_;
  const std::string path_;
  absl::Status failed_;  // of the sync that failed: it is final
};

absl::StatusOr<std::unique_ptr<base::AppendFile>> SimulatedDisk::Life::OpenAppend(
    const std::string& path, bool truncate) {
  if (!disk_.Begin(generation_)) return PowerIsOff(path);
  if (disk_.folders_.count(path.substr(0, path.rfind('/'))) == 0) return NoFile(path);
  FilePtr file = disk_.Find(path);
  if (file == nullptr) file = disk_.Create(path);
  if (truncate) Truncate(*file, 0);
  if (!disk_.End(generation_)) return PowerIsOff(path);
  if (disk_.SyncFails()) return NotSynced(path);
  if (truncate) disk_.Sync(*file);
  disk_.SyncFolderOf(path);
  file->is_durable = true;
  return std::make_unique<Appender>(disk_, generation_, file, path);
}

base::Env& SimulatedDisk::Mount() {
  ++generation_;
  return *lives_.emplace_back(std::make_unique<Life>(*this, generation_));
}

// ---- SQLite ----

struct SimulatedVfs {
  struct Open {
    sqlite3_file base;
    SimulatedDisk* disk;
    uint64_t generation;
    SimulatedDisk::FilePtr* file;
    std::string* removed_at_close;  // a path, or none
  };
  static Open& Of(sqlite3_file* file) { return *reinterpret_cast<Open*>(file); }

  static sqlite3_vfs* Real() {
    static sqlite3_vfs* const real = sqlite3_vfs_find(nullptr);
    return real;
  }
  static SimulatedDisk* DiskOf(const char* path) {
    if (path == nullptr) return nullptr;
    for (const auto& [root, disk] : Disks()) {
      if (absl::StartsWith(path, absl::StrCat(root, "/"))) return disk;
    }
    return nullptr;
  }

  static int Close(sqlite3_file* file) {
    Open& open = Of(file);
    if (open.removed_at_close != nullptr && open.disk->IsNow(open.generation)) {
      open.disk->Remove(*open.removed_at_close, false);
    }
    delete open.file;
    delete open.removed_at_close;
    return SQLITE_OK;
  }
  static int Read(sqlite3_file* file, void* to, int size, sqlite3_int64 offset) {
    const Open& open = Of(file);
    if (!open.disk->IsNow(open.generation)) return SQLITE_IOERR_READ;
    const std::string& bytes = (*open.file)->now;
    const auto at = static_cast<size_t>(offset), wanted = static_cast<size_t>(size);
    const size_t got = at < bytes.size() ? std::min(wanted, bytes.size() - at) : 0;
    if (got > 0) std::memcpy(to, bytes.data() + at, got);
    if (got == wanted) return SQLITE_OK;
    std::memset(static_cast<char*>(to) + got, 0, wanted - got);
    return SQLITE_IOERR_SHORT_READ;
  }
  static int Write(sqlite3_file* file, const void* from, int size, sqlite3_int64 offset) {
    const Open& open = Of(file);
    if (!open.disk->Begin(open.generation)) return SQLITE_IOERR_WRITE;
    if (open.disk->full_) return SQLITE_FULL;
    SimulatedDisk::Write(**open.file, static_cast<uint64_t>(offset),
                         std::string(static_cast<const char*>(from), static_cast<size_t>(size)));
    return open.disk->End(open.generation) ? SQLITE_OK : SQLITE_IOERR_WRITE;
  }
  static int Truncate(sqlite3_file* file, sqlite3_int64 size) {
    const Open& open = Of(file);
    if (!open.disk->Begin(open.generation)) return SQLITE_IOERR_TRUNCATE;
    SimulatedDisk::Truncate(**open.file, static_cast<uint64_t>(size));
    return open.disk->End(open.generation) ? SQLITE_OK : SQLITE_IOERR_TRUNCATE;
  }
  static int Sync(sqlite3_file* file, int) {
    const Open& open = Of(file);
    if (!open.disk->Begin(open.generation) || !open.disk->End(open.generation)) {
      return SQLITE_IOERR_FSYNC;
    }
    if (open.disk->SyncFails()) {
      open.disk->FailSync(**open.file);
      return SQLITE_IOERR_FSYNC;
    }
    open.disk->Sync(**open.file);
    return SQLITE_OK;
  }
  static int Size(sqlite3_file* file, sqlite3_int64* size) {
    *size = static_cast<sqlite3_int64>((*Of(file).file)->now.size());
    return SQLITE_OK;
  }
  static int Lock(sqlite3_file*, int) { return SQLITE_OK; }
  static int CheckReservedLock(sqlite3_file*, int* is_held) {
    *is_held = 0;
    return SQLITE_OK;
  }
  static int Control(sqlite3_file*, int, void*) { return SQLITE_NOTFOUND; }
  static int SectorSize(sqlite3_file*) { return static_cast<int>(kSectorBytes); }
  static int Characteristics(sqlite3_file*) { return 0; }

  static int OpenFile(sqlite3_vfs*, const char* path, sqlite3_file* file, int flags, int* out) {
    SimulatedDisk* const disk = DiskOf(path);
    if (disk == nullptr) return Real()->xOpen(Real(), path, file, flags, out);
    static const sqlite3_io_methods methods = [] {
      sqlite3_io_methods m{};
      m.iVersion = 1;  // no shared memory: the store has the database alone
      m.xClose = Close;
      m.xRead = Read;
      m.xWrite = Write;
      m.xTruncate = Truncate;
      m.xSync = Sync;
      m.xFileSize = Size;
      m.xLock = m.xUnlock = Lock;
      m.xCheckReservedLock = CheckReservedLock;
      m.xFileControl = Control;
      m.xSectorSize = SectorSize;
      m.xDeviceCharacteristics = Characteristics;
      return m;
    }();
    Open& open = Of(file);
    open = {};
    SimulatedDisk::FilePtr found = disk->Find(path);
    if (found == nullptr && (flags & SQLITE_OPEN_CREATE) == 0) return SQLITE_CANTOPEN;
    if (found == nullptr) found = disk->Create(path);
    open.base.pMethods = &methods;
    open.disk = disk;
    open.generation = disk->generation_;
    open.file = new SimulatedDisk::FilePtr(found);
    if ((flags & SQLITE_OPEN_DELETEONCLOSE) != 0) open.removed_at_close = new std::string(path);
    if (out != nullptr) *out = flags;
    return SQLITE_OK;
  }
  static int Delete(sqlite3_vfs*, const char* path, int sync_folder) {
    SimulatedDisk* const disk = DiskOf(path);
    if (disk == nullptr) return Real()->xDelete(Real(), path, sync_folder);
    const bool fails = sync_folder != 0 && disk->SyncFails();
    disk->Remove(path, sync_folder != 0 && !fails);
    if (sync_folder != 0 && !fails) disk->SyncFolderOf(path);
    return fails ? SQLITE_IOERR_DIR_FSYNC : SQLITE_OK;
  }
  static int Access(sqlite3_vfs*, const char* path, int flags, int* result) {
    SimulatedDisk* const disk = DiskOf(path);
    if (disk == nullptr) return Real()->xAccess(Real(), path, flags, result);
    *result = disk->Find(path) != nullptr ? 1 : 0;
    return SQLITE_OK;
  }
  static int FullPathname(sqlite3_vfs*, const char* path, int size, char* out) {
    if (DiskOf(path) == nullptr) return Real()->xFullPathname(Real(), path, size, out);
    sqlite3_snprintf(size, out, "%s", path);
    return SQLITE_OK;
  }
  // The same for every run: nothing depends on it but the salts of logs.
  static int Randomness(sqlite3_vfs*, int size, char* out) {
    static uint64_t state = 0x9e3779b97f4a7c15;
    for (int i = 0; i < size; ++i) {
      state = state * 6364136223846793005u + 1442695040888963407u;
      out[i] = static_cast<char>(state >> 56);
    }
    return size;
  }

  static void Register() {
    static sqlite3_vfs vfs = [] {
      sqlite3_vfs made = *Real();
      made.iVersion = 1;
      made.szOsFile = std::max(made.szOsFile, static_cast<int>(sizeof(Open)));
      made.pNext = nullptr;
      made.zName = "simulated";
      made.xOpen = OpenFile;
      made.xDelete = Delete;
      made.xAccess = Access;
      made.xFullPathname = FullPathname;
      made.xRandomness = Randomness;
      return made;
    }();
    static const int registered = sqlite3_vfs_register(&vfs, /*makeDflt=*/1);
    QFL_CHECK(registered == SQLITE_OK);
  }
};

namespace {
void RegisterVfs() { SimulatedVfs::Register(); }
}  // namespace

SimulatedDisk::~SimulatedDisk() { Disks().erase(root_); }

}  // namespace quantfl::testing
