#ifndef QUANTFL_COMMON_FETCH_TAR_ARCHIVE_H_
#define QUANTFL_COMMON_FETCH_TAR_ARCHIVE_H_

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace quantfl::fetch {

// A regular file in an archive.
struct ArchiveMember {
  std::string path;      // in the archive, and below the folder that it is unpacked into
  uint64_t bytes = 0;    // exactly
  bool at_most = false;  // then `bytes` is a limit
};

// Takes a member's content; an error ends the reading and is its result.
using MemberSink =
    std::function<absl::Status(const ArchiveMember& member, absl::string_view content)>;

// Gives the wanted members of a tar file in gzip to `sink`, in the archive's order, one in memory
// at a time. Names in the archive are only compared with the wanted ones and lead nowhere else:
// what is not wanted is passed over, whatever it is called. DATA_LOSS: no such archive, cut off, a
// member missing, there twice, of another size, or a link instead of a file; RESOURCE_EXHAUSTED:
// more than 10,000 entries, or more than 64 MiB of what is not wanted.
absl::Status ReadTarGz(absl::string_view archive, const std::vector<ArchiveMember>& wanted,
                       const MemberSink& sink);

// The same of a zip file; what is not wanted is not inflated, and its size is not limited.
absl::Status ReadZip(absl::string_view archive, const std::vector<ArchiveMember>& wanted,
                     const MemberSink& sink);

}  // namespace quantfl::fetch

#endif  // QUANTFL_COMMON_FETCH_TAR_ARCHIVE_H_
