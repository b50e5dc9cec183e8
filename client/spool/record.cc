#include "client/spool/record.h"

#include <algorithm>
#include <bit>
#include <cstdint>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "common/base/check.h"
#include "common/base/crc32c.h"

namespace quantfl::spool {
namespace {

static_assert(std::endian::native == std::endian::little,
              "fields are copied as they lie in memory");

constexpr absl::string_view kMagic = "QFSR";
constexpr uint32_t kVersion = 2;
constexpr char kRepairedBefore[] = "repaired before this process began; its log says why";
constexpr size_t kRunIdBytes = 16;
constexpr double kNotMeasured = -1;

template <typename T>
void Put(std::string& out, T value) {
  char bytes[sizeof(T)];
  std::memcpy(bytes, &value, sizeof(T));
  out.append(bytes, sizeof(T));
}

// The caller has checked the whole record's length.
template <typename T>
T Take(absl::string_view& in) {
  T value;
  std::memcpy(&value, in.data(), sizeof(T));
  in.remove_prefix(sizeof(T));
  return value;
}

}  // namespace

std::string SerializeRecord(const session::TrainedUpdate& update) {
  QFL_CHECK(update.run_id.size() == kRunIdBytes);
  std::string out(kMagic.data(), kMagic.size());
  Put(out, kVersion);
  out += update.run_id;
  Put<uint64_t>(out, update.offer.task_id.value());
  Put<uint64_t>(out, update.offer.payload_bytes);
  Put<uint32_t>(out, update.offer.chunk_count);
  Put<uint32_t>(out, update.offer.examples);
  const absl::string_view digest = update.offer.digest.AsBytes();
  out.append(digest.data(), digest.size());
  Put<double>(out, update.report.loss);
  Put<uint64_t>(out, update.report.examples);
  Put<double>(out, update.report.squared_error);
  Put<double>(out, update.report.squared_norm);
  Put<int64_t>(out, absl::ToInt64Nanoseconds(update.report.fetch));
  Put<int64_t>(out, absl::ToInt64Nanoseconds(update.report.train));
  Put<int64_t>(out, absl::ToInt64Nanoseconds(update.report.encode));
  Put<double>(out, update.report.compute.cpu_s);
  Put<double>(out, update.report.compute.package_j.value_or(kNotMeasured));
  Put<uint32_t>(out, update.report.model_repair.empty() ? 0 : 1);
  Put<uint32_t>(out, base::Crc32c(out));
  QFL_CHECK(out.size() == kRecordBytes);
  return out;
}

absl::StatusOr<session::TrainedUpdate> ParseRecord(absl::string_view bytes) {
  if (bytes.size() != kRecordBytes) {
    return absl::DataLossError(
        absl::StrCat("spool record of ", bytes.size(), " bytes; it has ", kRecordBytes));
  }
  absl::string_view in = bytes;
  absl::string_view crc = bytes.substr(kRecordBytes - sizeof(uint32_t));
  if (base::Crc32c(bytes.substr(0, kRecordBytes - sizeof(uint32_t))) != Take<uint32_t>(crc)) {
    return absl::DataLossError("spool record with a wrong checksum");
  }
  const absl::string_view magic = in.substr(0, kMagic.size());
  in.remove_prefix(kMagic.size());
  const uint32_t version = Take<uint32_t>(in);
  if (magic != kMagic || version != kVersion) {
    return absl::DataLossError(absl::StrCat("spool record of version ", version,
                                            "; this program reads version ", kVersion));
  }
  session::TrainedUpdate update;
  update.run_id = std::string(in.substr(0, kRunIdBytes));
  in.remove_prefix(kRunIdBytes);
  update.offer.task_id = base::TaskId(Take<uint64_t>(in));
  update.offer.payload_bytes = Take<uint64_t>(in);
  update.offer.chunk_count = Take<uint32_t>(in);
  update.offer.examples = Take<uint32_t>(in);
  std::copy_n(in.begin(), update.offer.digest.bytes.size(),
              reinterpret_cast<char*>(update.offer.digest.bytes.data()));
  in.remove_prefix(update.offer.digest.bytes.size());
  update.report.loss = Take<double>(in);
  update.report.examples = Take<uint64_t>(in);
  update.report.squared_error = Take<double>(in);
  update.report.squared_norm = Take<double>(in);
  update.report.fetch = absl::Nanoseconds(Take<int64_t>(in));
  update.report.train = absl::Nanoseconds(Take<int64_t>(in));
  update.report.encode = absl::Nanoseconds(Take<int64_t>(in));
  update.report.compute.cpu_s = Take<double>(in);
  if (const double joules = Take<double>(in); joules >= 0) update.report.compute.package_j = joules;
  if (Take<uint32_t>(in) != 0) update.report.model_repair = kRepairedBefore;
  return update;
}

}  // namespace quantfl::spool
