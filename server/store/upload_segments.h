#ifndef QUANTFL_SERVER_STORE_UPLOAD_SEGMENTS_H_
#define QUANTFL_SERVER_STORE_UPLOAD_SEGMENTS_H_

// Uploads of the round under way, appended as they come to one segment file a round: a log of
// records,
//   u8 kind ('T' task, 'H' header, 'C' chunk, 'A' accepted), u32 argument, u64 task, u32 size,
//   u32 CRC-32C of all these and the data, then `size` bytes of data; little-endian.
//
// Threads: as RunStore. Memory: 16 bytes a chunk.

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "common/base/env.h"
#include "common/base/ids.h"
#include "common/base/mutex.h"

namespace quantfl::store {

enum class RecordKind : char { kTask = 'T', kHeader = 'H', kChunk = 'C', kAccepted = 'A' };

template <typename T>
void PutInteger(std::string& out, T value) {
  for (size_t i = 0; i < sizeof(T); ++i) {
    out.push_back(static_cast<char>((value >> (8 * i)) & 0xff));
  }
}

// `data` has less than 4 GiB.
std::string MakeRecord(RecordKind kind, uint32_t argument, base::TaskId task,
                       absl::string_view data);

// Where a chunk lies.
struct Extent {
  uint64_t offset = 0;
  uint32_t size = 0;
  uint32_t crc = 0;  // CRC-32C
  friend bool operator==(const Extent&, const Extent&) = default;
};

class UploadSegments {
 public:
  using File = std::shared_ptr<base::AppendFile>;

  // Of a committed upload, or of one that is whole.
  struct Place {
    std::string segment;  // name in the folder
    std::string header;
    std::vector<Extent> chunks;
  };

  UploadSegments(base::Env& env, std::string folder) : env_(env), folder_(std::move(folder)) {}

  // As RunStore's.
  absl::Status Begin(base::RoundId round, base::TaskId task, const std::string& codec_header);
  absl::Status Append(base::TaskId task, uint32_t index, absl::string_view chunk);
  absl::Status Discard(base::TaskId task);
  absl::StatusOr<std::string> Read(base::TaskId task, uint32_t index) const;

  // Appends and syncs records that belong to no upload.
  absl::Status Log(base::RoundId round, absl::string_view records);
  // Appends to each task's segment its record, if it has one, and syncs; none counts as committed
  // yet. NOT_FOUND: one of the uploads is missing, and nothing was done. After another error every
  // upload of these segments that was not committed before is gone.
  absl::Status Sync(const std::map<base::TaskId, std::string>& records);
  // After Sync: they stay until their round is dropped.
  void MarkCommitted(const std::vector<base::TaskId>& tasks);
  // After Sync, where MarkCommitted will not follow: these uploads and every other one in their
  // segments that is not committed are gone.
  void GiveUp(const std::vector<base::TaskId>& tasks);
  absl::StatusOr<Place> PlaceOf(base::TaskId task) const;

  // A committed upload that an earlier process left. DATA_LOSS if its segment is missing or too
  // short. Nothing is appended to that segment.
  absl::Status Restore(base::RoundId round, base::TaskId task, Place place);
  // Removes segments that nothing was restored from.
  absl::Status RemoveUnknown();

  // Uploads and segments of this round and those before it. A file that cannot be removed now is
  // tried again later: it holds nothing that is still wanted.
  void Drop(base::RoundId round);
  // Removed at the next Drop.
  void AddGarbage(std::string path) { garbage_.push_back(std::move(path)); }

 private:
  struct Upload {
    base::RoundId round;
    File file;
    std::string segment;
    std::string header;
    std::vector<Extent> chunks;
    bool committed = false;
  };
  struct Segment {
    base::RoundId round;
    std::string name;
    File file;
    bool given_up = false;
  };

  std::string PathOf(absl::string_view name) const;
  absl::StatusOr<const Segment*> SegmentOf(base::RoundId round);
  // After a failed fsync the kernel may have dropped what was written: what is committed in the
  // file can still be read, but nothing more is written to it.
  void GiveUpFile(const File& file);

  base::Env& env_;
  const std::string folder_;
  std::vector<Segment> segments_;
  std::vector<std::string> garbage_;  // paths to be removed
  // Read looks here from the folding thread.
  mutable base::Mutex mutex_;
  std::map<base::TaskId, Upload> uploads_ QFL_GUARDED_BY(mutex_);
};

}  // namespace quantfl::store

#endif  // QUANTFL_SERVER_STORE_UPLOAD_SEGMENTS_H_
