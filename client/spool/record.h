#ifndef QUANTFL_CLIENT_SPOOL_RECORD_H_
#define QUANTFL_CLIENT_SPOOL_RECORD_H_

// The record that stands beside a spooled update, little-endian:
//   "QFSR", u32 version, run id (16 hexadecimal digits), u64 task, u64 payload bytes, u32 chunks,
//   u32 examples, SHA-256 of the payload, then the training report: f64 loss, u64 examples,
//   f64 squared error, f64 squared norm, i64 nanoseconds of fetch, train, encode, f64 seconds
//   of CPU, f64 joules of the processor (-1: not measured), u32 whether the model had to be
//   repaired; u32 CRC-32C of all that.
// It is a device's own file and never travels; another version is treated as no record.

#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "client/session/trained_update.h"

namespace quantfl::spool {

inline constexpr size_t kRecordBytes = 160;

// CHECK-fails unless the run id has 16 bytes. The codec header is not in it: the update file has
// it.
std::string SerializeRecord(const session::TrainedUpdate& update);

// DATA_LOSS with the reason. offer.codec_header stays empty.
absl::StatusOr<session::TrainedUpdate> ParseRecord(absl::string_view bytes);

}  // namespace quantfl::spool

#endif  // QUANTFL_CLIENT_SPOOL_RECORD_H_
