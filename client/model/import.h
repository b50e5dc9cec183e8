#ifndef QUANTFL_CLIENT_MODEL_IMPORT_H_
#define QUANTFL_CLIENT_MODEL_IMPORT_H_

// TorchScript files as the models of runs.

#include <cstdint>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "client/model/steps.h"
#include "common/base/env.h"
#include "common/terminal/progress_line.h"

namespace quantfl::model_tool {

struct ImportOptions {
  std::string torchscript;           // the file
  std::optional<uint32_t> channels;  // of an example; none: 3
  InputOptions input;                // its height is asked for
  std::optional<uint32_t> classes;   // what the module must have
  std::string head;  // the last layer's module; empty: the last one with a number for each class
  std::string name_map;  // file, see README.md; empty: names stay
  std::string weights;   // safetensors file instead of the module's own values; empty: none
  bool accept_eval_mode = false;
  std::string out;
};

// Writes the checkpoint that a run with model.architecture = "torchscript" starts from: the values
// of the module's trainable tensors, and as metadata what the run must know of the file. Runs the
// file's code. Errors name the file: those of learn::InspectScript and model::LoadFlat;
// INVALID_ARGUMENT: a module whose batch normalisation or dropout has the mode of a trace, another
// number of classes, names in head or name map that the module does not have (near misses named),
// names that are taken.
absl::Status RunImport(const ImportOptions& options, base::Env& env,
                       terminal::ProgressLine& progress);

}  // namespace quantfl::model_tool

#endif  // QUANTFL_CLIENT_MODEL_IMPORT_H_
