#ifndef QUANTFL_COMMON_DATA_UCI_HAR_H_
#define QUANTFL_COMMON_DATA_UCI_HAR_H_

// Human Activity Recognition Using Smartphones (Anguita, Ghio, Oneto, Parra, Reyes-Ortiz 2013), as
// its publisher packs it: text files, a window of 128 samples at 50 Hz a line.

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "common/base/env.h"
#include "common/data/dataset.h"

namespace quantfl::data {

inline constexpr uint32_t kUciHarSamples = 128;
inline constexpr uint32_t kUciHarClasses = 6;
inline constexpr uint32_t kUciHarSubjectsMax = 30;
// The folder that the publisher's archive makes.
inline constexpr char kUciHarFolder[] = "UCI HAR Dataset";

// The nine signals in the order of their channels: body_acc_x, body_acc_y, body_acc_z, body_gyro_x
// .., total_acc_x .. (in g, rad/s, g).
const std::vector<std::string>& UciHarSignals();
// A split's files below kUciHarFolder: the signals', then the labels', then the subjects'.
std::vector<std::string> UciHarFiles(Split split);

// The windows of a split: float32 [n][9][1][128], labels 0 to 5 (the publisher's less one),
// subjects 1 to 30. `folder` is kUciHarFolder or holds it. NOT_FOUND names the file looked for and
// how to get it; DATA_LOSS names file and line: another number of samples, a text that is no finite
// number, a label or subject out of range, files of different numbers of windows.
absl::StatusOr<Dataset> LoadUciHar(base::Env& env, const std::string& folder, Split split);

}  // namespace quantfl::data

#endif  // QUANTFL_COMMON_DATA_UCI_HAR_H_
