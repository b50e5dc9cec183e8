#ifndef QUANTFL_COMMON_FETCH_DATASETS_H_
#define QUANTFL_COMMON_FETCH_DATASETS_H_

// The data sets that `quantflctl data get NAME` knows.

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "common/base/digest.h"
#include "common/base/env.h"
#include "common/fetch/tar_archive.h"
#include "common/terminal/progress_line.h"

namespace quantfl::fetch {

// A file in gzip. What it holds is known by size and digest: publishers compress anew now and then,
// what is inside stays.
struct DatasetFile {
  std::string name;             // "train-images-idx3-ubyte.gz", also behind a mirror's address
  uint64_t bytes_max = 0;       // compressed
  uint64_t content_bytes = 0;   // decompressed
  base::Digest content_sha256;  // decompressed
};

// A tar file in gzip or a zip file, of which the members named are unpacked. Beside them
// `<name>.sha256` is written, in the format of sha256sum, when all of them are there: that is how a
// second call knows that they still are what was verified.
struct DatasetArchive {
  std::string name;        // "cifar-10-binary.tar.gz", also behind a mirror's address
  uint64_t bytes_max = 0;  // compressed
  // Of the archive, lower-case: the MD5 where its publisher states that, else the SHA-256.
  std::string digest;
  std::vector<ArchiveMember> members;
  bool zip = false;
};

struct DatasetInfo {
  std::string name;                  // "mnist"
  std::string about;                 // a line for people, licence included
  std::vector<std::string> mirrors;  // folders to which a file's name is added, tried in this order
  std::vector<DatasetFile> files;
  std::vector<DatasetArchive> archives;
};

// All there are, sorted by name.
const std::vector<DatasetInfo>& Datasets();
// INVALID_ARGUMENT lists the names there are.
absl::StatusOr<DatasetInfo> FindDataset(absl::string_view name);

struct GetDatasetOptions {
  std::string folder;  // created
  std::string mirror;  // "http://host/path/": instead of the data set's own; empty: those
};

// Downloads what is not there yet into options.folder, one row a file or archive, and a last one
// that says where the data is. A file that is there and whole is kept; another one of its name is
// replaced. Only whole, verified files ever stand under their names, so a second call continues
// where the first one stopped. Where all mirrors fail, the status is the last one's and the message
// has each one's reason; DATA_LOSS: another content than expected.
absl::Status GetDataset(const DatasetInfo& dataset, const GetDatasetOptions& options,
                        base::Env& env, terminal::ProgressLine& progress);

}  // namespace quantfl::fetch

#endif  // QUANTFL_COMMON_FETCH_DATASETS_H_
