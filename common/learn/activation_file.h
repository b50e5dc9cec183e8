#ifndef QUANTFL_COMMON_LEARN_ACTIVATION_FILE_H_
#define QUANTFL_COMMON_LEARN_ACTIVATION_FILE_H_

// A file of activations. It is a device's own and never travels:
//   "QFLA", u32 version, prefix and examples (32 bytes each), u64 rows, u64 row_bytes
//   rows, each followed by its CRC-32C (u32)
//   "QFLZ", u32 CRC-32C of the first line: the last thing that is written, so that a file without
//   it was not finished
// Little-endian. Nothing is synced: what a power cut damages, a checksum shows.

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "common/base/env.h"
#include "common/learn/activation_cache.h"

namespace quantfl::learn {

uint64_t ActivationFileBytes(const ActivationKey& key);

// Makes an empty file at once. Errors of the file system name the path; after one the file is of no
// use.
class ActivationFileWriter {
 public:
  static absl::StatusOr<ActivationFileWriter> Create(base::Env& env, const std::string& path,
                                                     const ActivationKey& key);
  // Whole rows, in order.
  absl::Status Append(absl::string_view rows);
  // After all rows.
  absl::Status Finish();

 private:
  ActivationFileWriter(std::unique_ptr<base::AppendFile> file, const ActivationKey& key)
      : file_(std::move(file)), row_bytes_(key.row_bytes) {}
  std::unique_ptr<base::AppendFile> file_;
  uint64_t row_bytes_, rows_ = 0;
  std::string header_;
};

// A finished file of `key`; of one thread at a time.
class ActivationFileReader {
 public:
  // NOT_FOUND; DATA_LOSS: not finished, of another key, damaged.
  static absl::StatusOr<ActivationFileReader> Open(base::Env& env, const std::string& path,
                                                   const ActivationKey& key);
  // to[0 .. row_bytes - 1]. DATA_LOSS.
  absl::Status Read(uint64_t row, char* to) const;
  // Reads all rows. DATA_LOSS.
  absl::Status Check() const;

 private:
  ActivationFileReader(std::unique_ptr<base::AppendFile> file, std::string path,
                       const ActivationKey& key)
      : file_(std::move(file)), path_(std::move(path)), key_(key) {}
  std::unique_ptr<base::AppendFile> file_;
  std::string path_;
  ActivationKey key_;
};

}  // namespace quantfl::learn

#endif  // QUANTFL_COMMON_LEARN_ACTIVATION_FILE_H_
