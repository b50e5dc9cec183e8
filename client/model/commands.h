#ifndef QUANTFL_CLIENT_MODEL_COMMANDS_H_
#define QUANTFL_CLIENT_MODEL_COMMANDS_H_

// What quantfl-model does, one function a subcommand. Rows and results go to `progress`; errors
// come back. Numbers out of range are INVALID_ARGUMENT naming the flag's value.

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "client/model/steps.h"
#include "common/base/clock.h"
#include "common/base/env.h"
#include "common/data/dataset.h"
#include "common/federation/types.h"
#include "common/terminal/progress_line.h"

namespace quantfl::model_tool {

// MNIST's and Fashion-MNIST's pixels are near mean 0.13 and 0.29, and this lies between them, so
// that a network that was pre-trained on the one can be fine-tuned on the other.
inline constexpr double kInputMeanDefault = 0.2;
inline constexpr double kInputStddevDefault = 0.33;

struct InitOptions {
  std::string architecture = "lenet5";
  uint32_t classes = 10;  // of the new head; a file's own head keeps its count
  std::string from;       // safetensors file to take the weights from; empty: none
  bool new_head = false;  // with `from`: the last layer is fresh, with `classes` outputs
  uint64_t seed = 1;
  InputOptions input;
  std::string out;
};

// Writes a checkpoint with fresh weights, or those of a file, or those with a fresh head.
absl::Status RunInit(const InitOptions& options, base::Env& env, terminal::ProgressLine& progress);

struct PretrainOptions {
  std::string architecture = "lenet5";
  uint32_t classes = 10;
  std::string init;         // checkpoint to continue from; empty: fresh weights from `seed`
  std::string torchscript;  // the file that its architecture names, where it does
  std::string data_dir;
  std::string data_format = "idx";
  uint32_t epochs = 10;
  double learning_rate = 0.02;
  double learning_rate_decay = 0.75;  // factor after each epoch, in (0, 1]
  double momentum = 0.9;
  double weight_decay = 0;
  uint32_t batch_size = 32;
  uint64_t seed = 1;
  InputOptions input;
  federation::AugmentSpec augment;
  std::string out;
};

// Trains on the training split, one row an epoch with the accuracy on the test split, and writes
// the last weights. The optimiser starts fresh each epoch.
absl::Status RunPretrain(const PretrainOptions& options, base::Env& env, base::Clock& clock,
                         terminal::ProgressLine& progress);

// Import has a header of its own, import.h.

struct EvaluateOptions {
  std::string model;
  std::string torchscript;              // the file that the model's architecture names
  std::string architecture = "lenet5";  // where the file does not name its own
  std::string data_dir;
  std::string data_format = "idx";
  data::Split split = data::Split::kTest;
  InputOptions input;
};

// One row: examples, loss, accuracy.
absl::Status RunEvaluate(const EvaluateOptions& options, base::Env& env,
                         terminal::ProgressLine& progress);

}  // namespace quantfl::model_tool

#endif  // QUANTFL_CLIENT_MODEL_COMMANDS_H_
