#ifndef QUANTFL_CLIENT_MODEL_STEPS_H_
#define QUANTFL_CLIENT_MODEL_STEPS_H_

// What several subcommands do.

#include <cstdint>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "client/model/checkpoint.h"
#include "common/base/env.h"
#include "common/federation/input.h"
#include "common/terminal/progress_line.h"

namespace quantfl::model_tool {

inline constexpr uint64_t kTorchScriptBytesMax = uint64_t{4} << 30;

// Overrides of what a checkpoint says about itself.
struct InputOptions {
  std::string mean;    // of pixel / 255: a number, or one for each channel with commas; empty: none
  std::string stddev;  // the same, above 0
  std::optional<uint32_t> height, width;  // pixels; height alone: both
};

// Takes over what `options` name. INVALID_ARGUMENT names flag or field, value and range.
absl::Status ApplyInput(const InputOptions& options, federation::InputSpec& input);

// Before anything takes time: the folder of `out` can be made.
absl::Status PrepareOut(base::Env& env, const std::string& out);

// Writes the checkpoint and says so.
absl::Status Save(base::Env& env, const std::string& out, const Checkpoint& checkpoint,
                  terminal::ProgressLine& progress);

}  // namespace quantfl::model_tool

#endif  // QUANTFL_CLIENT_MODEL_STEPS_H_
