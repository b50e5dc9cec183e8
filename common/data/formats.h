#ifndef QUANTFL_COMMON_DATA_FORMATS_H_
#define QUANTFL_COMMON_DATA_FORMATS_H_

// The formats that a device's data folder can have.

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "common/base/env.h"
#include "common/data/dataset.h"

namespace quantfl::data {

enum class Format { kIdx, kCifar10, kCifar100, kSafetensors, kUciHar };

// "idx", "cifar10", "cifar100", "safetensors", "uci_har": in the order of Format.
const std::vector<std::string>& FormatNames();
// INVALID_ARGUMENT lists the names.
absl::StatusOr<Format> ParseFormat(absl::string_view name);

// A split of the data set in `folder`:
//   kIdx          see LoadIdxFolder
//   kCifar10      data_batch_1.bin to data_batch_5.bin, test_batch.bin, 10,000 records each
//   kCifar100     train.bin, test.bin, 50,000 and 10,000 records; labels are the 100 fine ones
//   kSafetensors  train.safetensors, test.safetensors, see ParseTensors
//   kUciHar       see LoadUciHar
// CIFAR's files are looked for in the folder that the publisher's archive makes
// (cifar-10-batches-bin, cifar-100-binary), too. Errors name the file: NOT_FOUND, with what was
// looked for; DATA_LOSS: another size than the format's, a label that it does not have, what
// ParseTensors refuses. All examples are in memory, and for a while a file as it is on disk, too.
absl::StatusOr<Dataset> LoadFolder(base::Env& env, const std::string& folder, Format format,
                                   Split split);

// Adds the records of one CIFAR file (kCifar10 or kCifar100) to `dataset`, which is empty or holds
// records of the same format: labels, then 32 x 32 bytes each of red, green and blue. DATA_LOSS
// unless they are exactly `records`: clients that cut a data set among themselves must all see the
// same one, and a file may have been cut off between two records.
absl::Status AppendCifar(absl::string_view bytes, Format format, uint64_t records,
                         Dataset& dataset);

// A user's own images or signals, in a safetensors file:
//   x  U8 [n, channels, height, width]  pixels; at most 1024 channels, 4096 x 4096, 2^30 bytes
//      F32 of the same shape, or [n, channels, samples]: signals, finite, at most 2^28 numbers
//   y  U8, I16, I32 or I64 [n]          labels, 0 to 65535
//   subject, as y, or absent            whom each example comes from, for the natural partition
// Other tensors are left alone. DATA_LOSS: not safetensors, a tensor missing or of another type or
// shape, a label out of range; the message names tensor, position, value and limit.
absl::StatusOr<Dataset> ParseTensors(absl::string_view safetensors_bytes);

}  // namespace quantfl::data

#endif  // QUANTFL_COMMON_DATA_FORMATS_H_
