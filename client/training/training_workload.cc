#include "client/training/training_workload.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/base/prng.h"
#include "common/base/status.h"
#include "common/data/transform.h"
#include "common/model/architectures.h"
#include "common/model/safetensors.h"
#include "common/model/torchscript.h"

namespace quantfl::training {

using federation::Role;
using federation::RunDescriptor;

namespace {

constexpr uint64_t kTorchScriptBytesMax = uint64_t{4} << 30;

// Of what a network sees of its examples: all but the labels.
base::Digest DigestOf(const data::Dataset& data) {
  base::Sha256Hasher hasher;
  hasher.Update(
      absl::StrCat(data.count(), " of ", data.channels, "x", data.height, "x", data.width, "\n"));
  hasher.Update({reinterpret_cast<const char*>(data.pixels.data()), data.pixels.size()});
  hasher.Update(
      {reinterpret_cast<const char*>(data.features.data()), data.features.size() * sizeof(float)});
  return std::move(hasher).Finish();
}

}  // namespace

// A learner for the time of one call.
class TrainingWorkload::Lease {
 public:
  Lease(TrainingWorkload& owner, const RunDescriptor& run, std::unique_ptr<learn::Learner> learner)
      : owner_(owner), classes_(run.classes), learner_(std::move(learner)) {}
  ~Lease() { owner_.ReturnLearner(classes_, std::move(learner_)); }
  Lease(const Lease&) = delete;
  Lease& operator=(const Lease&) = delete;
  learn::Learner& operator*() { return *learner_; }
  learn::Learner* operator->() { return learner_.get(); }

 private:
  TrainingWorkload& owner_;
  const uint32_t classes_;
  std::unique_ptr<learn::Learner> learner_;
};

TrainingWorkload::TrainingWorkload(const TrainingWorkloadOptions& options, base::Env& env,
                                   data::Dataset dataset, std::optional<data::Dataset> test)
    : env_(env),
      role_(options.role),
      holdout_(options.holdout),
      torchscript_files_(options.torchscript_files),
      torchscript_allow_(options.torchscript_allow),
      dataset_(std::move(dataset)),
      test_(std::move(test)) {}

absl::StatusOr<std::unique_ptr<TrainingWorkload>> TrainingWorkload::Create(
    const TrainingWorkloadOptions& options, base::Env& env) {
  const data::Split split =
      options.role == Role::kTrainer ? data::Split::kTrain : data::Split::kTest;
  QFL_ASSIGN_OR_RETURN(data::Dataset dataset,
                       data::LoadFolder(env, options.data_dir, options.format, split));
  std::optional<data::Dataset> test;
  if (options.test_split && options.role == Role::kTrainer) {
    QFL_ASSIGN_OR_RETURN(
        test, data::LoadFolder(env, options.data_dir, options.format, data::Split::kTest));
    if (test->example_bytes() != dataset.example_bytes() || test->height != dataset.height) {
      return absl::FailedPreconditionError(
          absl::StrCat(options.data_dir, ": training examples of ", dataset.channels, " x ",
                       dataset.height, " x ", dataset.width, ", test examples of ", test->channels,
                       " x ", test->height, " x ", test->width));
    }
  }
  return std::unique_ptr<TrainingWorkload>(
      new TrainingWorkload(options, env, std::move(dataset), std::move(test)));
}

absl::StatusOr<std::string> TrainingWorkload::ReadTorchScript(
    const std::string& architecture) const {
  QFL_ASSIGN_OR_RETURN(const base::Digest wanted, model::TorchScriptDigest(architecture));
  if (std::find(torchscript_allow_.begin(), torchscript_allow_.end(), wanted) ==
      torchscript_allow_.end()) {
    return absl::FailedPreconditionError(absl::StrCat(
        "the run's model is the TorchScript file with sha256 ", wanted.Hex(),
        ", which is not in this device's torchscript.allow (of ", torchscript_allow_.size(),
        "). Such a file is a program: list it only if you trust where it comes from"));
  }
  std::vector<std::string> others;
  for (const std::string& path : torchscript_files_) {
    absl::StatusOr<std::string> file = env_.ReadFile(path, kTorchScriptBytesMax);
    if (!file.ok()) {
      others.push_back(std::string(file.status().message()));
    } else if (const base::Digest digest = base::Sha256(*file); digest != wanted) {
      others.push_back(absl::StrCat(path, " has sha256 ", digest.Hex()));
    } else {
      return file;
    }
  }
  return absl::FailedPreconditionError(
      absl::StrCat("the TorchScript file with sha256 ", wanted.Hex(),
                   " is allowed, but not among this device's torchscript.files: ",
                   others.empty() ? "none is named" : absl::StrJoin(others, "; ")));
}

absl::Status TrainingWorkload::CheckBuiltIn(const RunDescriptor& run, const model::Schema& schema,
                                            const std::vector<uint64_t>& shape) const {
  QFL_ASSIGN_OR_RETURN(const model::Schema built_in,
                       model::ArchitectureSchema(run.architecture, run.classes));
  if (!model::SameTensors(schema, built_in)) {
    return absl::InvalidArgumentError(
        absl::StrCat("the run's schema has other tensors than this program's ", run.architecture,
                     " with ", run.classes, " classes"));
  }
  absl::Status fits = model::CheckInputShape(run.architecture, shape);
  if (fits.ok()) return fits;
  return absl::InvalidArgumentError(absl::StrCat(
      "the data holds ", fits.message(), "; the run's input.height and input.width resize images"));
}

absl::Status TrainingWorkload::CheckTorchScript(const RunDescriptor& run,
                                                const model::Schema& schema,
                                                const std::vector<uint64_t>& shape) {
  if (schema.architecture() != run.architecture) {
    return absl::InvalidArgumentError(absl::StrCat("the run's architecture is ", run.architecture,
                                                   ", its schema is of ", schema.architecture()));
  }
  QFL_ASSIGN_OR_RETURN(std::unique_ptr<learn::Learner> learner, TakeLearner(run, schema));
  Lease lease(*this, run, std::move(learner));
  return lease->CheckInput(shape);
}

absl::Status TrainingWorkload::Prepare(const RunDescriptor& run, const model::Schema& schema) {
  const absl::StatusOr<data::Transform> transform = data::Transform::Create(run.input, dataset_);
  if (!transform.ok()) {
    return absl::FailedPreconditionError(
        absl::StrCat("this device's data and the run's input: ", transform.status().message()));
  }
  const absl::Status network = model::IsTorchScript(run.architecture)
                                   ? CheckTorchScript(run, schema, transform->shape())
                                   : CheckBuiltIn(run, schema, transform->shape());
  if (!network.ok()) return absl::FailedPreconditionError(network.message());
  if (dataset_.classes() > run.classes) {
    return absl::FailedPreconditionError(absl::StrCat("the data has label ", dataset_.classes() - 1,
                                                      ", the run only ", run.classes, " classes"));
  }
  if (role_ == Role::kTrainer) return GetPartitions(run.partition).status();
  return absl::OkStatus();
}

void TrainingWorkload::UseCache(learn::ActivationCache* cache) {
  cache_ = cache;
  if (cache == nullptr) return;
  dataset_digest_ = DigestOf(dataset_);
  if (test_) test_digest_ = DigestOf(*test_);
}

absl::Status TrainingWorkload::CheckRole(Role wanted) const {
  if (role_ == wanted) return absl::OkStatus();
  return absl::FailedPreconditionError(absl::StrCat("this client is ", federation::ToString(role_),
                                                    " and loaded no data for the task of ",
                                                    federation::ToString(wanted)));
}

absl::StatusOr<std::shared_ptr<const TrainingWorkload::Partitions>> TrainingWorkload::GetPartitions(
    const federation::PartitionSpec& spec) {
  // Computed under the lock: whoever else asks wants the same partition and would compute it too.
  base::MutexLock lock(mutex_);
  if (partition_spec_ != spec) {
    QFL_ASSIGN_OR_RETURN(Partitions partitions, data::Partition(dataset_, spec));
    partitions_ = std::make_shared<const Partitions>(std::move(partitions));
    partition_spec_ = spec;
  }
  return partitions_;
}

absl::StatusOr<std::unique_ptr<learn::Learner>> TrainingWorkload::TakeLearner(
    const RunDescriptor& run, const model::Schema& schema) {
  {
    base::MutexLock lock(mutex_);
    if (!idle_.empty() && idle_.back()->schema().digest() == schema.digest() &&
        idle_classes_ == run.classes) {
      std::unique_ptr<learn::Learner> learner = std::move(idle_.back());
      idle_.pop_back();
      learner->UseCache(cache_, dataset_digest_);
      return learner;
    }
  }
  absl::StatusOr<std::unique_ptr<learn::Learner>> made = absl::UnknownError("no learner was made");
  if (model::IsTorchScript(schema.architecture())) {
    QFL_ASSIGN_OR_RETURN(const std::string file, ReadTorchScript(schema.architecture()));
    made = learn::Learner::Create(schema, run.classes, file);
  } else {
    made = learn::Learner::Create(schema, run.classes);
  }
  QFL_ASSIGN_OR_RETURN(std::unique_ptr<learn::Learner> learner, std::move(made));
  learner->UseCache(cache_, dataset_digest_);
  return learner;
}

void TrainingWorkload::ReturnLearner(uint32_t classes, std::unique_ptr<learn::Learner> learner) {
  base::MutexLock lock(mutex_);
  if (!idle_.empty() &&
      (idle_.back()->schema().digest() != learner->schema().digest() || idle_classes_ != classes)) {
    idle_.clear();
  }
  idle_classes_ = classes;
  idle_.push_back(std::move(learner));
}

absl::StatusOr<data::HeldOut> TrainingWorkload::ExamplesOf(const RunDescriptor& run,
                                                           base::ClientIndex client_index) {
  QFL_ASSIGN_OR_RETURN(const std::shared_ptr<const Partitions> partitions,
                       GetPartitions(run.partition));
  const bool own = run.partition.kind == federation::PartitionKind::kOwn;
  if (!own && client_index.value() >= partitions->size()) {
    return absl::InvalidArgumentError(absl::StrCat("client_index ", client_index.value(),
                                                   " of a run with ", partitions->size(),
                                                   " partitions"));
  }
  return data::HoldOut((*partitions)[own ? 0 : client_index.value()], holdout_, run.partition.seed,
                       client_index.value());
}

absl::StatusOr<daemon::TrainOutput> TrainingWorkload::Train(const RunDescriptor& run,
                                                            const model::Schema& schema,
                                                            base::ClientIndex client_index,
                                                            const federation::TrainTask& task,
                                                            absl::string_view model,
                                                            const std::atomic<bool>& cancelled) {
  QFL_RETURN_IF_ERROR(CheckRole(Role::kTrainer));
  QFL_ASSIGN_OR_RETURN(const data::HeldOut parts, ExamplesOf(run, client_index));
  const std::vector<uint32_t>& examples = parts.train;
  QFL_ASSIGN_OR_RETURN(const std::vector<float> before, model::LoadFlat(model, schema));
  std::vector<float> after = before;

  QFL_ASSIGN_OR_RETURN(std::unique_ptr<learn::Learner> learner, TakeLearner(run, schema));
  Lease lease(*this, run, std::move(learner));
  const base::PrngKey key = {.run_seed = run.seed,
                             .round = task.round.value(),
                             .client_index = client_index.value(),
                             .purpose = base::PrngPurpose::kBatchOrder};
  QFL_ASSIGN_OR_RETURN(
      const learn::TrainResult result,
      lease->Train(after, dataset_, examples, run.input, task.training, key,
                   [&](uint64_t, uint64_t) { return !cancelled.load(std::memory_order_relaxed); }));

  for (size_t i = 0; i < after.size(); ++i) after[i] -= before[i];
  daemon::TrainOutput output;
  output.delta = schema.Gather(after);
  output.examples = static_cast<uint32_t>(examples.size());
  output.mean_loss = result.mean_loss;
  return output;
}

absl::StatusOr<daemon::EvaluateOutput> TrainingWorkload::Evaluate(
    const RunDescriptor& run, const model::Schema& schema,
    std::optional<base::ClientIndex> client_index, const federation::EvaluateTask&,
    absl::string_view model, const std::atomic<bool>& cancelled) {
  QFL_RETURN_IF_ERROR(CheckRole(client_index ? Role::kTrainer : Role::kEvaluator));
  const data::Dataset& on = test_ ? *test_ : dataset_;
  std::vector<uint32_t> examples;
  if (test_ || !client_index) {
    examples = data::AllExamples(on);
  } else {
    QFL_ASSIGN_OR_RETURN(data::HeldOut parts, ExamplesOf(run, *client_index));
    if (parts.held_out.empty()) {
      return absl::FailedPreconditionError(absl::StrCat(
          "of ", parts.train.size(), " examples none is held out (data.holdout = ", holdout_,
          ", data.test_split = false): there is nothing to evaluate on"));
    }
    examples = std::move(parts.held_out);
  }
  QFL_ASSIGN_OR_RETURN(const std::vector<float> flat, model::LoadFlat(model, schema));
  QFL_ASSIGN_OR_RETURN(std::unique_ptr<learn::Learner> learner, TakeLearner(run, schema));
  Lease lease(*this, run, std::move(learner));
  if (test_) lease->UseCache(cache_, test_digest_);
  QFL_ASSIGN_OR_RETURN(const learn::EvaluateResult result,
                       lease->Evaluate(flat, on, examples, run.input, [&](uint64_t, uint64_t) {
                         return !cancelled.load(std::memory_order_relaxed);
                       }));
  return daemon::EvaluateOutput{result.mean_loss, result.accuracy, result.examples};
}

absl::StatusOr<std::string> TrainingWorkload::PartitionTable(const RunDescriptor& run) {
  QFL_RETURN_IF_ERROR(CheckRole(Role::kTrainer));
  QFL_ASSIGN_OR_RETURN(const std::shared_ptr<const Partitions> partitions,
                       GetPartitions(run.partition));
  return data::PartitionTable(dataset_.labels, *partitions);
}

}  // namespace quantfl::training
