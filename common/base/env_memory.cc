#include <deque>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "common/base/env.h"
#include "common/base/mutex.h"
#include "common/base/status.h"

namespace quantfl::base {
namespace {

// One spelling a path: "a//b/./c/" is "a/b/c". ".." stays, since nothing in the project writes it.
std::string Normalise(absl::string_view path) {
  std::string result;
  for (const absl::string_view part : absl::StrSplit(path, '/')) {
    if (part.empty() || part == ".") continue;
    absl::StrAppend(&result, result.empty() ? "" : "/", part);
  }
  return absl::StartsWith(path, "/") ? absl::StrCat("/", result) : result;
}

// Of a normal path; "" is the working folder.
std::string FolderOf(const std::string& path) {
  const size_t slash = path.rfind('/');
  if (slash == std::string::npos) return "";
  return path.substr(0, slash == 0 ? 1 : slash);
}

struct Fault {
  std::string path_part;
  int count;
  absl::Status status;
};

// What a name leads to. Open files share it, so that they outlive the name.
struct FileData {
  std::string bytes;
  size_t synced_size = 0;
};

absl::Status NoSuch(absl::string_view what, absl::string_view path) {
  return absl::NotFoundError(absl::StrCat(path, ": no such ", what, " in memory"));
}

}  // namespace

struct MemoryEnv::State {
  Mutex mutex;
  std::map<std::string, std::shared_ptr<FileData>> files QFL_GUARDED_BY(mutex);
  std::set<std::string> folders QFL_GUARDED_BY(mutex) = {"", "/"};
  std::deque<Fault> faults QFL_GUARDED_BY(mutex);

  absl::Status TakeFault(const std::string& path) QFL_REQUIRES(mutex) {
    for (auto fault = faults.begin(); fault != faults.end(); ++fault) {
      if (!absl::StrContains(path, fault->path_part)) continue;
      absl::Status status = Annotate(fault->status, path);
      if (--fault->count == 0) faults.erase(fault);
      return status;
    }
    return absl::OkStatus();
  }

  // That a file of this name may stand here.
  absl::Status CheckPlace(const std::string& path) QFL_REQUIRES(mutex) {
    if (folders.count(path) > 0)
      return absl::InvalidArgumentError(absl::StrCat(path, ": is a folder"));
    if (folders.count(FolderOf(path)) == 0) return NoSuch("folder", FolderOf(path));
    return absl::OkStatus();
  }

  class File;
};

class MemoryEnv::State::File final : public AppendFile {
 public:
  File(std::shared_ptr<State> state, std::shared_ptr<FileData> data, std::string path)
      : state_(std::move(state)), data_(std::move(data)), path_(std::move(path)) {}

  absl::Status Append(absl::string_view data) override {
    MutexLock lock(state_->mutex);
    QFL_RETURN_IF_ERROR(broken_);
    QFL_RETURN_IF_ERROR(state_->TakeFault(path_));
    data_->bytes.append(data.data(), data.size());
    return absl::OkStatus();
  }

  absl::Status Sync() override {
    MutexLock lock(state_->mutex);
    QFL_RETURN_IF_ERROR(broken_);
    broken_ = state_->TakeFault(path_);
    if (broken_.ok()) data_->synced_size = data_->bytes.size();
    return broken_;
  }

  uint64_t size() const override {
    MutexLock lock(state_->mutex);
    return data_->bytes.size();
  }

  absl::StatusOr<std::string> ReadAt(uint64_t offset, size_t size) const override {
    MutexLock lock(state_->mutex);
    const uint64_t have = data_->bytes.size();
    if (offset > have || size > have - offset) {
      return absl::DataLossError(absl::StrCat(path_, " ends at byte ", have, ": cannot read ", size,
                                              " bytes at ", offset));
    }
    return data_->bytes.substr(static_cast<size_t>(offset), size);
  }

 private:
  const std::shared_ptr<State> state_;
  const std::shared_ptr<FileData> data_;
  const std::string path_;
  absl::Status broken_;  // of a failed Sync, which is final
};

MemoryEnv::MemoryEnv() : state_(std::make_shared<State>()) {}
MemoryEnv::~MemoryEnv() = default;

absl::StatusOr<std::string> MemoryEnv::ReadFile(const std::string& path, uint64_t max_bytes) {
  MutexLock lock(state_->mutex);
  const auto found = state_->files.find(Normalise(path));
  if (found == state_->files.end()) return NoSuch("file", path);
  const std::string& bytes = found->second->bytes;
  if (bytes.size() > max_bytes) {
    return absl::ResourceExhaustedError(
        absl::StrCat(path, " has ", bytes.size(), " bytes, the limit is ", max_bytes));
  }
  return bytes;
}

absl::Status MemoryEnv::WriteFileAtomically(const std::string& path, absl::string_view data,
                                            int /*mode*/) {
  const std::string name = Normalise(path);
  MutexLock lock(state_->mutex);
  QFL_RETURN_IF_ERROR(state_->TakeFault(name));
  QFL_RETURN_IF_ERROR(state_->CheckPlace(name));
  // A file of its own, as by rename: who has the old one open goes on with the old one.
  auto file = std::make_shared<FileData>();
  file->bytes.assign(data.data(), data.size());
  file->synced_size = data.size();
  state_->files[name] = std::move(file);
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<AppendFile>> MemoryEnv::OpenAppend(const std::string& path,
                                                                  bool truncate) {
  const std::string name = Normalise(path);
  MutexLock lock(state_->mutex);
  QFL_RETURN_IF_ERROR(state_->CheckPlace(name));
  std::shared_ptr<FileData>& file = state_->files[name];
  if (file == nullptr) file = std::make_shared<FileData>();
  if (truncate) *file = FileData();
  return std::make_unique<State::File>(state_, file, name);
}

absl::Status MemoryEnv::CreateDirs(const std::string& path) {
  MutexLock lock(state_->mutex);
  for (std::string name = Normalise(path); state_->folders.count(name) == 0;
       name = FolderOf(name)) {
    if (state_->files.count(name) > 0) {
      return absl::InvalidArgumentError(
          absl::StrCat("cannot create folder ", path, ": ", name, " is a file"));
    }
    state_->folders.insert(name);
  }
  return absl::OkStatus();
}

absl::Status MemoryEnv::RemoveFile(const std::string& path) {
  const std::string name = Normalise(path);
  MutexLock lock(state_->mutex);
  if (state_->folders.count(name) > 0) {
    return absl::InvalidArgumentError(absl::StrCat("cannot remove ", path, ": is a folder"));
  }
  state_->files.erase(name);
  return absl::OkStatus();
}

bool MemoryEnv::Exists(const std::string& path) {
  const std::string name = Normalise(path);
  MutexLock lock(state_->mutex);
  return state_->files.count(name) > 0 || state_->folders.count(name) > 0;
}

absl::StatusOr<std::vector<std::string>> MemoryEnv::List(const std::string& folder) {
  const std::string name = Normalise(folder);
  MutexLock lock(state_->mutex);
  if (state_->folders.count(name) == 0) return NoSuch("folder", folder);
  const std::string prefix = name.empty() || name == "/" ? name : absl::StrCat(name, "/");
  std::set<std::string> names;
  const auto add_if_here = [&](const std::string& path) {
    absl::string_view rest = path;
    if (path.empty() || path == name || !absl::ConsumePrefix(&rest, prefix)) return;
    if (!rest.empty() && !absl::StrContains(rest, '/')) names.emplace(rest);
  };
  for (const auto& [path, file] : state_->files) add_if_here(path);
  for (const std::string& path : state_->folders) add_if_here(path);
  return std::vector<std::string>(names.begin(), names.end());
}

void MemoryEnv::FailNext(absl::string_view path_part, int count, absl::Status status) {
  if (count <= 0) return;
  MutexLock lock(state_->mutex);
  state_->faults.push_back(Fault{std::string(path_part), count, std::move(status)});
}

void MemoryEnv::LoseUnsynced() {
  MutexLock lock(state_->mutex);
  for (auto& [path, file] : state_->files) file->bytes.resize(file->synced_size);
}

}  // namespace quantfl::base
