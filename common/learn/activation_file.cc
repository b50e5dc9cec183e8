#include "common/learn/activation_file.h"

#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/crc32c.h"
#include "common/base/status.h"

namespace quantfl::learn {
namespace {

constexpr absl::string_view kFileMagic = "QFLA", kFileEnd = "QFLZ";
constexpr uint32_t kVersion = 1;
constexpr uint64_t kHeaderBytes = 4 + 4 + 2 * 32 + 2 * 8;
constexpr uint64_t kFooterBytes = 4 + 4;
constexpr uint64_t kChecksumBytes = 4;
constexpr uint64_t kBufferBytes = 1 << 20;

template <typename T>
void Put(std::string& to, T value) {
  for (size_t i = 0; i < sizeof(T); ++i) to.push_back(static_cast<char>(value >> (8 * i)));
}

uint32_t Get32(const char* from) {
  uint32_t value = 0;
  for (int i = 0; i < 4; ++i) value |= uint32_t{static_cast<unsigned char>(from[i])} << (8 * i);
  return value;
}

std::string Header(const ActivationKey& key) {
  std::string header(kFileMagic);
  Put(header, kVersion);
  absl::StrAppend(&header, key.prefix.AsBytes(), key.examples.AsBytes());
  Put(header, key.rows);
  Put(header, key.row_bytes);
  return header;
}

std::string Footer(absl::string_view header) {
  std::string footer(kFileEnd);
  Put(footer, base::Crc32c(header));
  return footer;
}

// Which row it is belongs to its checksum, so that one row in another's place shows.
uint32_t RowChecksum(uint64_t row, absl::string_view bytes) {
  std::string number;
  Put(number, row);
  return base::ExtendCrc32c(base::Crc32c(number), bytes);
}

}  // namespace

uint64_t ActivationFileBytes(const ActivationKey& key) {
  return kHeaderBytes + key.rows * (key.row_bytes + kChecksumBytes) + kFooterBytes;
}

absl::StatusOr<ActivationFileWriter> ActivationFileWriter::Create(base::Env& env,
                                                                  const std::string& path,
                                                                  const ActivationKey& key) {
  QFL_ASSIGN_OR_RETURN(std::unique_ptr<base::AppendFile> file, env.OpenAppend(path, true));
  ActivationFileWriter writer(std::move(file), key);
  writer.header_ = Header(key);
  QFL_RETURN_IF_ERROR(writer.file_->Append(writer.header_));
  return writer;
}

absl::Status ActivationFileWriter::Append(absl::string_view rows) {
  std::string buffer;
  for (; !rows.empty(); rows.remove_prefix(row_bytes_), ++rows_) {
    absl::StrAppend(&buffer, rows.substr(0, row_bytes_));
    Put(buffer, RowChecksum(rows_, rows.substr(0, row_bytes_)));
    if (buffer.size() >= kBufferBytes) {
      QFL_RETURN_IF_ERROR(file_->Append(buffer));
      buffer.clear();
    }
  }
  return buffer.empty() ? absl::OkStatus() : file_->Append(buffer);
}

absl::Status ActivationFileWriter::Finish() { return file_->Append(Footer(header_)); }

absl::StatusOr<ActivationFileReader> ActivationFileReader::Open(base::Env& env,
                                                                const std::string& path,
                                                                const ActivationKey& key) {
  if (!env.Exists(path)) return absl::NotFoundError(absl::StrCat(path, ": no such file"));
  QFL_ASSIGN_OR_RETURN(std::unique_ptr<base::AppendFile> file, env.OpenAppend(path, false));
  if (file->size() != ActivationFileBytes(key)) {
    return absl::DataLossError(
        absl::StrCat(path, ": ", file->size(), " bytes, not ", ActivationFileBytes(key)));
  }
  QFL_ASSIGN_OR_RETURN(const std::string header, file->ReadAt(0, kHeaderBytes));
  QFL_ASSIGN_OR_RETURN(const std::string footer,
                       file->ReadAt(file->size() - kFooterBytes, kFooterBytes));
  if (header != Header(key) || footer != Footer(header)) {
    return absl::DataLossError(absl::StrCat(path, ": not finished, or of other activations"));
  }
  return ActivationFileReader(std::move(file), path, key);
}

absl::Status ActivationFileReader::Read(uint64_t row, char* to) const {
  const uint64_t stride = key_.row_bytes + kChecksumBytes;
  QFL_ASSIGN_OR_RETURN(const std::string bytes,
                       file_->ReadAt(kHeaderBytes + row * stride, static_cast<size_t>(stride)));
  const absl::string_view values = absl::string_view(bytes).substr(0, key_.row_bytes);
  if (RowChecksum(row, values) != Get32(bytes.data() + key_.row_bytes)) {
    return absl::DataLossError(absl::StrCat(path_, ": row ", row, " is damaged"));
  }
  std::memcpy(to, values.data(), values.size());
  return absl::OkStatus();
}

absl::Status ActivationFileReader::Check() const {
  std::string row(key_.row_bytes, '\0');
  for (uint64_t i = 0; i < key_.rows; ++i) QFL_RETURN_IF_ERROR(Read(i, row.data()));
  return absl::OkStatus();
}

}  // namespace quantfl::learn
