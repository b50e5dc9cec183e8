#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "common/codec/update.h"
#include "common/codec/wire.h"

namespace quantfl::codec {
namespace {

constexpr size_t kSizeBytes = sizeof(uint32_t);  // in front of each chunk

absl::Status FileLoss(absl::string_view reason) {
  return absl::DataLossError(absl::StrCat("update file: ", reason));
}

}  // namespace

std::string SerializeUpdate(const EncodedUpdate& update) {
  size_t size = wire::kFileFixedBytes + update.header.size();
  for (const std::string& chunk : update.chunks) size += kSizeBytes + chunk.size();
  std::string file;
  file.reserve(size);
  file.resize(wire::kFileFixedBytes, '\0');
  file.replace(0, wire::kMagicBytes, wire::kFileMagic);
  wire::Store<uint16_t>(file, wire::kFileVersionAt, wire::kFileVersion);
  wire::Store(file, wire::kFileHeaderSize, static_cast<uint32_t>(update.header.size()));
  wire::Store(file, wire::kFileChunkCount, static_cast<uint32_t>(update.chunks.size()));
  file += update.header;
  for (const std::string& chunk : update.chunks) {
    const size_t at = file.size();
    file.resize(at + kSizeBytes);
    wire::Store(file, at, static_cast<uint32_t>(chunk.size()));
    file += chunk;
  }
  return file;
}

absl::StatusOr<UpdateFile> ParseUpdateFile(absl::string_view bytes) {
  if (bytes.size() < wire::kFileFixedBytes ||
      bytes.substr(0, wire::kMagicBytes) != wire::kFileMagic) {
    return FileLoss(absl::StrCat(bytes.size(), " bytes that do not begin with 'QFLF' and its ",
                                 wire::kFileFixedBytes, " bytes of sizes"));
  }
  const uint16_t version = wire::Load<uint16_t>(bytes, wire::kFileVersionAt);
  if (version != wire::kFileVersion) {
    return absl::FailedPreconditionError(absl::StrCat(
        "update file: version ", version, "; this program reads version ", wire::kFileVersion));
  }
  if (wire::Load<uint16_t>(bytes, wire::kFileReserved) != 0) {
    return FileLoss("reserved bytes 6 and 7 are not zero");
  }
  const uint32_t header_size = wire::Load<uint32_t>(bytes, wire::kFileHeaderSize);
  const uint32_t chunk_count = wire::Load<uint32_t>(bytes, wire::kFileChunkCount);
  absl::string_view rest = bytes.substr(wire::kFileFixedBytes);
  if (header_size > rest.size()) {
    return FileLoss(
        absl::StrCat("a header of ", header_size, " bytes where ", rest.size(), " are left"));
  }
  UpdateFile file;
  file.header = std::string(rest.substr(0, header_size));
  rest.remove_prefix(header_size);
  if (chunk_count > rest.size() / (kSizeBytes + wire::kChunkFixedBytes)) {
    return FileLoss(absl::StrCat(chunk_count, " chunks where ", rest.size(), " bytes are left"));
  }
  file.chunks.reserve(chunk_count);
  for (uint32_t index = 0; index < chunk_count; ++index) {
    if (rest.size() < kSizeBytes) {
      return FileLoss(absl::StrCat("it ends before chunk ", index, " of ", chunk_count));
    }
    const uint32_t size = wire::Load<uint32_t>(rest, 0);
    rest.remove_prefix(kSizeBytes);
    if (size > kChunkBytesMax || size > rest.size()) {
      return FileLoss(absl::StrCat("chunk ", index, " of ", size, " bytes; ", rest.size(),
                                   " are left and ", kChunkBytesMax, " is the most"));
    }
    file.chunks.emplace_back(rest.substr(0, size));
    rest.remove_prefix(size);
  }
  if (!rest.empty()) {
    return FileLoss(absl::StrCat(rest.size(), " bytes after the last of ", chunk_count, " chunks"));
  }
  return file;
}

}  // namespace quantfl::codec
