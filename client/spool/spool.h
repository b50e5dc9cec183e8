#ifndef QUANTFL_CLIENT_SPOOL_SPOOL_H_
#define QUANTFL_CLIENT_SPOOL_SPOOL_H_

// A client's encoded update on disk until the coordinator has given its verdict, at most one for
// each logical client. Two files in one folder:
//   <ordinal>-<run id>-<task id>.update   codec::SerializeUpdate, readable by `quantflctl inspect`
//   <ordinal>-<run id>-<task id>.record   what is needed to offer and report it (record.h)
// The record is written last and removed first: without one there is no update.

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "client/session/trained_update.h"
#include "common/base/env.h"
#include "common/base/ids.h"
#include "common/base/log.h"
#include "common/codec/update.h"

namespace quantfl::spool {

// One update's chunks, read from disk one at a time. One call at a time, from any thread; the spool
// may be gone.
class Reader {
 public:
  // DATA_LOSS where the file is shorter than it was; OUT_OF_RANGE past the last chunk.
  absl::StatusOr<std::string> ReadChunk(uint32_t index) const;
  uint32_t chunk_count() const { return static_cast<uint32_t>(extents_.size()); }
  const std::string& codec_header() const { return codec_header_; }

 private:
  friend class Spool;
  struct Extent {
    uint64_t offset;
    uint32_t size;
  };
  std::unique_ptr<base::AppendFile> file_;
  std::string codec_header_;
  std::vector<Extent> extents_;
};

// Not thread-safe: lives on the disk executor.
class Spool {
 public:
  // Creates `folder`. `env` and `logger` outlive the spool.
  static absl::StatusOr<std::unique_ptr<Spool>> Open(base::Env& env, base::Logger& logger,
                                                     std::string folder);

  // What an earlier process left, its digest verified. What is damaged, incomplete or from another
  // version is removed and logged, as are all but one of several.
  std::optional<session::TrainedUpdate> Load(uint32_t ordinal);

  // Durable when OK; replaces what the ordinal had. `update` describes `encoded`. After an error
  // the ordinal may have nothing.
  absl::Status Write(uint32_t ordinal, const session::TrainedUpdate& update,
                     const codec::EncodedUpdate& encoded);

  // NOT_FOUND, DATA_LOSS.
  absl::StatusOr<std::shared_ptr<const Reader>> Read(uint32_t ordinal, const std::string& run_id,
                                                     base::TaskId task) const;

  // OK also where there is nothing.
  absl::Status Drop(uint32_t ordinal);

 private:
  Spool(base::Env& env, base::Logger& logger, std::string folder)
      : env_(env), logger_(logger), folder_(std::move(folder)) {}
  std::string Stem(uint32_t ordinal, const std::string& run_id, base::TaskId task) const;
  // Full paths without the ending, of files with this ending.
  absl::StatusOr<std::vector<std::string>> StemsOf(uint32_t ordinal,
                                                   absl::string_view ending) const;
  absl::StatusOr<std::unique_ptr<Reader>> OpenReader(const std::string& stem) const;
  absl::StatusOr<session::TrainedUpdate> Verify(const std::string& stem) const;
  absl::Status Remove(const std::string& stem);
  absl::Status RemoveAllBut(uint32_t ordinal, const std::string& stem);

  base::Env& env_;
  base::Logger& logger_;
  const std::string folder_;
};

}  // namespace quantfl::spool

#endif  // QUANTFL_CLIENT_SPOOL_SPOOL_H_
