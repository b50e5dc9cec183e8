#include "client/model/tool.h"

#include <CLI/CLI.hpp>
#include <sstream>
#include <string>

#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "client/model/commands.h"
#include "client/model/import.h"
#include "common/app/exit_codes.h"
#include "common/app/version.h"
#include "common/data/formats.h"
#include "common/model/architectures.h"
#include "common/terminal/progress_line.h"

namespace quantfl::model_tool {
namespace {

const char kDataHelp[] =
    "Folder of the data set. Debian's package "
    "dataset-fashion-mnist: /usr/share/datasets/fashion-mnist; MNIST: `quantflctl data get mnist`";

void AddArchitecture(CLI::App& command, std::string& architecture) {
  command.add_option("--architecture", architecture,
                     "Network: " + absl::StrJoin(model::ArchitectureNames(), ", "));
}

void AddInput(CLI::App& command, InputOptions& input, const std::string& otherwise) {
  command
      .add_option("--input-mean", input.mean,
                  "A pixel p of 0..255 enters the network as (p / 255 - mean) / stddev; a number, "
                  "or one for each channel with commas between them [default: " +
                      otherwise + "0.2; for RGB ImageNet's]")
      ->type_name("FLOATS");
  command
      .add_option("--input-stddev", input.stddev,
                  "See --input-mean; above 0 [default: " + otherwise + "0.33; for RGB ImageNet's]")
      ->type_name("FLOATS");
  command
      .add_option("--input-height", input.height,
                  "Images are resized to so many pixels, bilinear [default: " + otherwise +
                      "as the data is]")
      ->type_name("PIXELS");
  command
      .add_option("--input-width", input.width, "The same for the width [default: --input-height]")
      ->type_name("PIXELS");
}

void AddTorchScript(CLI::App& command, std::string& torchscript) {
  command
      .add_option("--torchscript", torchscript,
                  "The TorchScript file of a checkpoint that `import` made; its code runs")
      ->type_name("FILE");
}

void AddImport(CLI::App& command, ImportOptions& import) {
  command
      .add_option("file", import.torchscript,
                  "What torch.jit.script(module).save(path) wrote: forward takes float32[batch, "
                  "channels, height, width] and returns float32[batch, classes]")
      ->type_name("FILE")
      ->required();
  command
      .add_option("--input-channels", import.channels,
                  "Of an example; grey images stand in each of several [default: 3]")
      ->type_name("COUNT");
  command
      .add_option("--input-height", import.input.height,
                  "What examples are resized to: 224 for networks of ImageNet, 1 for signals")
      ->type_name("PIXELS");
  command
      .add_option("--input-width", import.input.width, "The same for the width [default: height]")
      ->type_name("PIXELS");
  command
      .add_option(
          "--input-mean", import.input.mean,
          "A pixel p of 0..255 enters as (p / 255 - mean) / stddev; a number, or one for each "
          "channel with commas between them [default: of three channels ImageNet's, else 0]")
      ->type_name("FLOATS");
  command
      .add_option("--input-stddev", import.input.stddev,
                  "See --input-mean; above 0 [default: of three channels ImageNet's, else 1]")
      ->type_name("FLOATS");
  command
      .add_option("--classes", import.classes,
                  "Refuse a module with another number of outputs [default: any]")
      ->type_name("COUNT");
  command
      .add_option("--head", import.head,
                  "Module of the last layer, for training.trainable = \"head\" [default: the last "
                  "one with an output for each class]")
      ->type_name("NAME");
  command
      .add_option(
          "--name-map", import.name_map,
          "File with lines `name = new.name` or `module.* = new.module.*`: what tensors are "
          "called in the checkpoint [default: as in the module]")
      ->type_name("FILE");
  command
      .add_option("--weights", import.weights,
                  "Take the values from this safetensors file, by the names of the checkpoint "
                  "[default: the module's own]")
      ->type_name("FILE");
  command.add_flag("--accept-eval-mode", import.accept_eval_mode,
                   "Take a module that was traced in eval mode: batch normalisation keeps the "
                   "file's statistics, dropout is off");
  command.add_option("--out", import.out, "Checkpoint to write")->type_name("FILE")->required();
}

void AddFormat(CLI::App& command, std::string& format) {
  command
      .add_option("--data-format", format,
                  "Of the files in --data-dir, as quantfl-client's data.format: " +
                      absl::StrJoin(data::FormatNames(), ", "))
      ->type_name("NAME")
      ->check(CLI::IsMember(data::FormatNames()));
}

}  // namespace

int RunTool(int argc, const char* const* argv, base::Env& env, base::Clock& clock, std::FILE* out,
            std::FILE* error) {
  CLI::App cli("Makes and measures the checkpoints (safetensors files) that a run starts from.",
               "quantfl-model");
  cli.option_defaults()->always_capture_default();
  cli.set_version_flag("--version", std::string("quantfl-model ") + app::kVersion,
                       "Print the version and leave");
  cli.require_subcommand(1);
  cli.get_formatter()->column_width(34);

  InitOptions init;
  CLI::App& init_command = *cli.add_subcommand(
      "init",
      "Write a checkpoint: fresh weights, or those of a file, perhaps with a fresh last layer");
  AddArchitecture(init_command, init.architecture);
  init_command.add_option("--classes", init.classes, "Outputs of the last layer, 2..65536");
  init_command.add_option("--from", init.from, "Take the weights from this safetensors file")
      ->type_name("FILE");
  init_command.add_flag(
      "--new-head", init.new_head,
      "With --from: replace the last layer by a fresh one with --classes outputs");
  init_command.add_option("--seed", init.seed, "Of fresh weights: the same seed, the same file");
  AddInput(init_command, init.input, "that of --from, else ");
  init_command.add_option("--out", init.out, "Checkpoint to write")->type_name("FILE")->required();

  PretrainOptions pretrain;
  CLI::App& pretrain_command = *cli.add_subcommand(
      "pretrain", "Train on one machine's data and write the weights of the last epoch");
  AddArchitecture(pretrain_command, pretrain.architecture);
  pretrain_command.add_option("--classes", pretrain.classes,
                              "Outputs of the last layer, 2..65536; with --init the file's own");
  pretrain_command
      .add_option("--init", pretrain.init, "Checkpoint to continue from; none: fresh weights")
      ->type_name("FILE");
  pretrain_command.add_option("--data-dir", pretrain.data_dir, kDataHelp)
      ->type_name("DIR")
      ->required();
  AddFormat(pretrain_command, pretrain.data_format);
  pretrain_command.add_option("--epochs", pretrain.epochs,
                              "Times through the training split, 1..10000");
  pretrain_command.add_option("--learning-rate", pretrain.learning_rate,
                              "Step size of SGD, above 0");
  pretrain_command.add_option("--learning-rate-decay", pretrain.learning_rate_decay,
                              "Factor of the learning rate after each epoch, above 0, at most 1");
  pretrain_command.add_option("--momentum", pretrain.momentum, "Of SGD, 0 to below 1");
  pretrain_command.add_option("--weight-decay", pretrain.weight_decay,
                              "L2 penalty of SGD, 0 or above");
  pretrain_command.add_option("--batch-size", pretrain.batch_size, "Examples a step, 1..65536");
  pretrain_command.add_option("--seed", pretrain.seed,
                              "Of fresh weights and of the order of examples");
  AddTorchScript(pretrain_command, pretrain.torchscript);
  AddInput(pretrain_command, pretrain.input, "that of --init, else ");
  pretrain_command
      .add_option("--crop-padding", pretrain.augment.crop_padding,
                  "Random crops in training, of images with so many black pixels at each side")
      ->type_name("PIXELS");
  pretrain_command.add_flag("--flip", pretrain.augment.flip,
                            "Random flips left to right in training");
  pretrain_command.add_option("--out", pretrain.out, "Checkpoint to write")
      ->type_name("FILE")
      ->required();

  EvaluateOptions evaluate;
  std::string split = "test";
  CLI::App& evaluate_command = *cli.add_subcommand("evaluate", "Loss and accuracy of a checkpoint");
  evaluate_command.add_option("--model", evaluate.model, "Checkpoint to read")
      ->type_name("FILE")
      ->required();
  evaluate_command.add_option("--architecture", evaluate.architecture,
                              "Network, where the file does not name its own");
  evaluate_command.add_option("--data-dir", evaluate.data_dir, kDataHelp)
      ->type_name("DIR")
      ->required();
  AddFormat(evaluate_command, evaluate.data_format);
  evaluate_command.add_option("--split", split, "test or train")
      ->check(CLI::IsMember({"test", "train"}));
  AddTorchScript(evaluate_command, evaluate.torchscript);
  AddInput(evaluate_command, evaluate.input, "the file's own, else ");

  ImportOptions import;
  CLI::App& import_command = *cli.add_subcommand(
      "import",
      "Make a checkpoint of a TorchScript file. A TorchScript file is a program, which this runs: "
      "import what you trust");
  AddImport(import_command, import);

  try {
    cli.parse(argc, argv);
  } catch (const CLI::ParseError& e) {
    std::ostringstream text;
    if (e.get_exit_code() == static_cast<int>(CLI::ExitCodes::Success)) {
      cli.exit(e, text, text);  // --help, --version
      absl::FPrintF(out, "%s", text.str());
      return app::kExitOk;
    }
    absl::FPrintF(error, "quantfl-model: %s (--help says more)\n", e.what());
    return app::kExitUsage;
  }

  absl::Status status;
  {
    terminal::ProgressLine progress(out, clock);
    if (init_command.parsed()) {
      status = RunInit(init, env, progress);
    } else if (pretrain_command.parsed()) {
      status = RunPretrain(pretrain, env, clock, progress);
    } else if (import_command.parsed()) {
      status = RunImport(import, env, progress);
    } else {
      evaluate.split = split == "train" ? data::Split::kTrain : data::Split::kTest;
      status = RunEvaluate(evaluate, env, progress);
    }
  }
  if (!status.ok()) absl::FPrintF(error, "quantfl-model: %s\n", status.message());
  return app::ExitCodeFor(status);
}

}  // namespace quantfl::model_tool
