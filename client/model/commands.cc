#include "client/model/commands.h"

#include <algorithm>
#include <memory>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "client/model/checkpoint.h"
#include "client/model/steps.h"
#include "common/base/prng.h"
#include "common/base/status.h"
#include "common/data/formats.h"
#include "common/data/input_metadata.h"
#include "common/learn/initialise.h"
#include "common/learn/learner.h"
#include "common/model/architectures.h"
#include "common/model/torchscript.h"

namespace quantfl::model_tool {
namespace {

using Unit = terminal::ProgressLine::Unit;

constexpr uint32_t kEpochsMax = 10000;

// The published network's, or ours where none was published.
federation::InputSpec DefaultInput(const std::string& architecture) {
  federation::InputSpec input = data::ArchitectureInput(architecture);
  if (model::ArchitectureNormalisation(architecture).mean.empty()) {
    input.mean = kInputMeanDefault;
    input.stddev = kInputStddevDefault;
  }
  return input;
}

absl::StatusOr<Checkpoint> FreshCheckpoint(const std::string& architecture, uint32_t classes,
                                           uint64_t seed) {
  QFL_ASSIGN_OR_RETURN(model::Schema schema, model::ArchitectureSchema(architecture, classes));
  std::vector<float> flat =
      learn::Initialise(schema, {.run_seed = seed, .purpose = base::PrngPurpose::kModelInit});
  return Checkpoint{std::move(schema), classes, DefaultInput(architecture), std::move(flat)};
}

absl::StatusOr<std::unique_ptr<learn::Learner>> MakeLearner(base::Env& env,
                                                            const Checkpoint& checkpoint,
                                                            const std::string& torchscript) {
  const std::string& architecture = checkpoint.schema.architecture();
  if (!model::IsTorchScript(architecture)) {
    if (torchscript.empty()) return learn::Learner::Create(architecture, checkpoint.classes);
    return absl::InvalidArgumentError(absl::StrCat("--torchscript ", torchscript,
                                                   ": the checkpoint is of ", architecture,
                                                   ", a network that is built in"));
  }
  if (torchscript.empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat("the checkpoint is of ", architecture,
                     ": --torchscript FILE names the file with that SHA-256"));
  }
  QFL_ASSIGN_OR_RETURN(const std::string file, env.ReadFile(torchscript, kTorchScriptBytesMax));
  absl::StatusOr<std::unique_ptr<learn::Learner>> learner =
      learn::Learner::Create(checkpoint.schema, checkpoint.classes, file);
  if (!learner.ok()) return base::Annotate(learner.status(), torchscript);
  return learner;
}

learn::Progress Show(terminal::ProgressLine& progress) {
  return [&progress](uint64_t done, uint64_t total) {
    progress.Update(done, total);
    return true;
  };
}

}  // namespace

absl::Status RunInit(const InitOptions& options, base::Env& env, terminal::ProgressLine& progress) {
  QFL_RETURN_IF_ERROR(PrepareOut(env, options.out));
  if (options.from.empty()) {
    if (options.new_head) {
      return absl::InvalidArgumentError(
          "--new-head goes with --from FILE: without a file all weights are fresh");
    }
    QFL_ASSIGN_OR_RETURN(Checkpoint fresh,
                         FreshCheckpoint(options.architecture, options.classes, options.seed));
    QFL_RETURN_IF_ERROR(ApplyInput(options.input, fresh.input));
    return Save(env, options.out, fresh, progress);
  }
  if (options.new_head) {
    QFL_ASSIGN_OR_RETURN(Checkpoint fresh,
                         FreshCheckpoint(options.architecture, options.classes, options.seed));
    QFL_RETURN_IF_ERROR(LoadBody(env, options.from, fresh));
    QFL_RETURN_IF_ERROR(ApplyInput(options.input, fresh.input));
    return Save(env, options.out, fresh, progress);
  }
  QFL_ASSIGN_OR_RETURN(Checkpoint loaded, LoadCheckpoint(env, options.from, options.architecture,
                                                         DefaultInput(options.architecture)));
  if (loaded.schema.architecture() != options.architecture) {
    return absl::InvalidArgumentError(absl::StrCat(options.from, " is a ",
                                                   loaded.schema.architecture(),
                                                   ", --architecture is ", options.architecture));
  }
  QFL_RETURN_IF_ERROR(ApplyInput(options.input, loaded.input));
  if (loaded.classes != options.classes) {
    return absl::InvalidArgumentError(absl::StrCat(options.from, " has ", loaded.classes,
                                                   " classes, --classes is ", options.classes,
                                                   ": add --new-head to replace its last layer"));
  }
  return Save(env, options.out, loaded, progress);
}

absl::Status RunPretrain(const PretrainOptions& options, base::Env& env, base::Clock& clock,
                         terminal::ProgressLine& progress) {
  if (options.epochs < 1 || options.epochs > kEpochsMax) {
    return absl::InvalidArgumentError(
        absl::StrCat("--epochs ", options.epochs, " must be 1 to ", kEpochsMax));
  }
  if (!(options.learning_rate_decay > 0 && options.learning_rate_decay <= 1)) {
    return absl::InvalidArgumentError(
        absl::StrCat("--learning-rate-decay ", options.learning_rate_decay, " must be in (0, 1]"));
  }
  QFL_RETURN_IF_ERROR(PrepareOut(env, options.out));
  absl::StatusOr<Checkpoint> start =
      options.init.empty() ? FreshCheckpoint(options.architecture, options.classes, options.seed)
                           : LoadCheckpoint(env, options.init, options.architecture,
                                            DefaultInput(options.architecture));
  if (!start.ok()) return start.status();
  Checkpoint& checkpoint = *start;
  QFL_RETURN_IF_ERROR(ApplyInput(options.input, checkpoint.input));
  checkpoint.input.augment = options.augment;
  QFL_ASSIGN_OR_RETURN(const data::Format format, data::ParseFormat(options.data_format));
  QFL_ASSIGN_OR_RETURN(const data::Dataset train,
                       data::LoadFolder(env, options.data_dir, format, data::Split::kTrain));
  QFL_ASSIGN_OR_RETURN(const data::Dataset test,
                       data::LoadFolder(env, options.data_dir, format, data::Split::kTest));
  QFL_ASSIGN_OR_RETURN(const std::unique_ptr<learn::Learner> learner,
                       MakeLearner(env, checkpoint, options.torchscript));

  std::vector<uint32_t> all(train.count());
  for (uint32_t i = 0; i < all.size(); ++i) all[i] = i;
  federation::TrainingSpec training;
  training.learning_rate = options.learning_rate;
  training.momentum = options.momentum;
  training.weight_decay = options.weight_decay;
  training.batch_size = options.batch_size;
  for (uint32_t epoch = 1; epoch <= options.epochs; ++epoch) {
    const base::SteadyTime begin = clock.Now();
    const std::string label = absl::StrCat("epoch ", epoch, "/", options.epochs);
    progress.Start(label, Unit::kExamples);
    const base::PrngKey key = {
        .run_seed = options.seed, .round = epoch, .purpose = base::PrngPurpose::kBatchOrder};
    QFL_ASSIGN_OR_RETURN(const learn::TrainResult trained,
                         learner->Train(checkpoint.flat, train, all, checkpoint.input, training,
                                        key, Show(progress)));
    progress.Start(label + " test", Unit::kExamples);
    QFL_ASSIGN_OR_RETURN(
        const learn::EvaluateResult tested,
        learner->Evaluate(checkpoint.flat, test, checkpoint.input, Show(progress)));
    progress.Print(absl::StrFormat(
        "%s  learning rate %.3g  training loss %.4f  test loss %.4f  test accuracy %.2f %%  %.1f s",
        label, training.learning_rate, trained.mean_loss, tested.mean_loss, 100 * tested.accuracy,
        absl::ToDoubleSeconds(clock.Now() - begin)));
    training.learning_rate *= options.learning_rate_decay;
  }
  return Save(env, options.out, checkpoint, progress);
}

absl::Status RunEvaluate(const EvaluateOptions& options, base::Env& env,
                         terminal::ProgressLine& progress) {
  QFL_ASSIGN_OR_RETURN(
      Checkpoint checkpoint,
      LoadCheckpoint(env, options.model, options.architecture, DefaultInput(options.architecture)));
  QFL_RETURN_IF_ERROR(ApplyInput(options.input, checkpoint.input));
  QFL_ASSIGN_OR_RETURN(const data::Format format, data::ParseFormat(options.data_format));
  QFL_ASSIGN_OR_RETURN(const data::Dataset dataset,
                       data::LoadFolder(env, options.data_dir, format, options.split));
  QFL_ASSIGN_OR_RETURN(const std::unique_ptr<learn::Learner> learner,
                       MakeLearner(env, checkpoint, options.torchscript));
  progress.Start("evaluating", Unit::kExamples);
  QFL_ASSIGN_OR_RETURN(
      const learn::EvaluateResult result,
      learner->Evaluate(checkpoint.flat, dataset, checkpoint.input, Show(progress)));
  progress.Print(absl::StrFormat("%s  %s examples  loss %.4f  accuracy %.2f %%", options.model,
                                 terminal::WithCommas(result.examples), result.mean_loss,
                                 100 * result.accuracy));
  return absl::OkStatus();
}

}  // namespace quantfl::model_tool
