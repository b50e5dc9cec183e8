#include "common/fetch/tar_archive.h"

#include <archive.h>
#include <archive_entry.h>

#include <algorithm>
#include <memory>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "common/base/status.h"

namespace quantfl::fetch {
namespace {

constexpr uint64_t kEntriesMax = 10'000;
constexpr uint64_t kUnwantedBytesMax = uint64_t{64} << 20;

using Reader = std::unique_ptr<struct archive, decltype(&archive_read_free)>;

constexpr absl::string_view kTarGz = "tar file in gzip", kZip = "zip file";

absl::Status Damaged(struct archive* reader, absl::string_view format) {
  const char* reason = archive_error_string(reader);
  return absl::DataLossError(
      absl::StrCat("not a whole ", format, ": ", reason != nullptr ? reason : "it is damaged"));
}

absl::StatusOr<std::string> ReadContent(struct archive* reader, absl::string_view format,
                                        const ArchiveMember& member) {
  std::string content(member.bytes, '\0');
  uint64_t done = 0;
  while (done < member.bytes) {
    const la_ssize_t n = archive_read_data(reader, content.data() + done, member.bytes - done);
    if (n < 0) return Damaged(reader, format);
    if (n == 0) {
      return absl::DataLossError(
          absl::StrCat(member.path, " ends after ", done, " of ", member.bytes, " bytes"));
    }
    done += static_cast<uint64_t>(n);
  }
  // A zip file's checksum is looked at behind the last byte.
  char beyond = 0;
  if (archive_read_data(reader, &beyond, 1) != 0) return Damaged(reader, format);
  return content;
}

absl::Status ReadMembers(absl::string_view archive, absl::string_view format,
                         const std::vector<ArchiveMember>& wanted, const MemberSink& sink) {
  const Reader owner(archive_read_new(), archive_read_free);
  struct archive* const reader = owner.get();
  if (reader == nullptr) return absl::ResourceExhaustedError("no memory to unpack");
  const bool zip = format == kZip;
  // These alone: libarchive knows many formats and filters, each of them code that a hostile file
  // could reach.
  const bool supported = zip ? archive_read_support_format_zip_seekable(reader) == ARCHIVE_OK
                             : archive_read_support_filter_gzip(reader) == ARCHIVE_OK &&
                                   archive_read_support_format_tar(reader) == ARCHIVE_OK;
  if (!supported) {
    return absl::InternalError(
        absl::StrCat("libarchive cannot read a ", format, ": ", archive_error_string(reader)));
  }
  if (archive_read_open_memory(reader, archive.data(), archive.size()) != ARCHIVE_OK) {
    return Damaged(reader, format);
  }
  std::vector<bool> seen(wanted.size());
  uint64_t unwanted_bytes = 0;
  for (uint64_t entries = 0;; ++entries) {
    struct archive_entry* entry = nullptr;
    const int result = archive_read_next_header(reader, &entry);
    if (result == ARCHIVE_EOF) break;
    if (result != ARCHIVE_OK && result != ARCHIVE_WARN) return Damaged(reader, format);
    if (entries == kEntriesMax) {
      return absl::ResourceExhaustedError(
          absl::StrCat("the archive has more than ", kEntriesMax, " entries"));
    }
    const char* name = archive_entry_pathname(entry);
    const absl::string_view path = absl::StripPrefix(name != nullptr ? name : "", "./");
    const uint64_t bytes = static_cast<uint64_t>(std::max<int64_t>(0, archive_entry_size(entry)));
    size_t index = 0;
    while (index < wanted.size() && wanted[index].path != path) ++index;
    if (index == wanted.size()) {
      if (zip) continue;
      if (bytes > kUnwantedBytesMax - unwanted_bytes) {
        return absl::ResourceExhaustedError(absl::StrCat(
            "the archive has more than ", kUnwantedBytesMax, " bytes besides what is wanted"));
      }
      unwanted_bytes += bytes;
      continue;
    }
    ArchiveMember member = wanted[index];
    if (seen[index]) return absl::DataLossError(absl::StrCat(path, " is there twice"));
    seen[index] = true;
    if (archive_entry_filetype(entry) != AE_IFREG || archive_entry_hardlink(entry) != nullptr) {
      return absl::DataLossError(absl::StrCat(path, " is no file but a link or something else"));
    }
    if (bytes > member.bytes || (bytes != member.bytes && !member.at_most)) {
      return absl::DataLossError(absl::StrCat(path, " has ", bytes, " bytes instead of ",
                                              member.at_most ? "at most " : "", member.bytes));
    }
    member.bytes = bytes;
    QFL_ASSIGN_OR_RETURN(const std::string content, ReadContent(reader, format, member));
    QFL_RETURN_IF_ERROR(sink(member, content));
  }
  for (size_t i = 0; i < wanted.size(); ++i) {
    if (!seen[i])
      return absl::DataLossError(absl::StrCat(wanted[i].path, " is not in the archive"));
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status ReadTarGz(absl::string_view archive, const std::vector<ArchiveMember>& wanted,
                       const MemberSink& sink) {
  return ReadMembers(archive, kTarGz, wanted, sink);
}

absl::Status ReadZip(absl::string_view archive, const std::vector<ArchiveMember>& wanted,
                     const MemberSink& sink) {
  return ReadMembers(archive, kZip, wanted, sink);
}

}  // namespace quantfl::fetch
