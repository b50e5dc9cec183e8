#ifndef QUANTFL_CLIENT_TRAINING_TRAINING_WORKLOAD_H_
#define QUANTFL_CLIENT_TRAINING_TRAINING_WORKLOAD_H_

#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "client/daemon/workload.h"
#include "common/base/digest.h"
#include "common/base/env.h"
#include "common/base/mutex.h"
#include "common/data/dataset.h"
#include "common/data/formats.h"
#include "common/data/holdout.h"
#include "common/federation/types.h"
#include "common/learn/activation_cache.h"
#include "common/learn/learner.h"

namespace quantfl::training {

struct TrainingWorkloadOptions {
  std::string data_dir;
  federation::Role role = federation::Role::kTrainer;  // a trainer loads the training split, an
                                                       // evaluator the test split
  data::Format format = data::Format::kIdx;
  // What a trainer evaluates on: this share of its examples, [0, 1), which it then does not train
  // on; or its folder's test split, loaded beside the training split.
  double holdout = 0;
  bool test_split = false;
  // TorchScript files on this device, and the digests of those that may be loaded: their code runs
  // with this process's rights.
  std::vector<std::string> torchscript_files = {};
  std::vector<base::Digest> torchscript_allow = {};
};

// What a client computes, with learn::Learner. All logical clients of a process share one data set;
// the partition of the run is computed once, and there are as many learners as calls ran at the
// same time. Thread-safe. Results do not depend on which learner or thread did the work.
class TrainingWorkload : public daemon::Workload {
 public:
  // Errors of data::LoadFolder. Call learn::ConfigureProcess() first; `env` outlives this.
  static absl::StatusOr<std::unique_ptr<TrainingWorkload>> Create(
      const TrainingWorkloadOptions& options, base::Env& env);

  // Where the activations of frozen layers are kept (learn::Learner::UseCache); outlives this.
  // Null, as at first: nowhere. Call before the other calls.
  void UseCache(learn::ActivationCache* cache);

  // FAILED_PRECONDITION: an architecture this build does not know, a TorchScript file that is not
  // allowed or not here, a schema with other tensors than the architecture's (policies may differ),
  // images of another shape, a label beyond the run's classes; INVALID_ARGUMENT: a partition that
  // leaves a client without data, or that does not exist.
  absl::Status Prepare(const federation::RunDescriptor& run, const model::Schema& schema) override;

  // As Workload says. TrainOutput::examples is what the client trained on: whoever offers
  // the update caps its weight at task.max_examples. INVALID_ARGUMENT: a client_index past the
  // partitions, what learn::Learner refuses; DATA_LOSS: a damaged model, training that diverged;
  // FAILED_PRECONDITION: a task of the other role.
  absl::StatusOr<daemon::TrainOutput> Train(const federation::RunDescriptor& run,
                                            const model::Schema& schema,
                                            base::ClientIndex client_index,
                                            const federation::TrainTask& task,
                                            absl::string_view model,
                                            const std::atomic<bool>& cancelled) override;
  // An evaluator's: on the test split. A trainer's: FAILED_PRECONDITION if it holds nothing out.
  absl::StatusOr<daemon::EvaluateOutput> Evaluate(const federation::RunDescriptor& run,
                                                  const model::Schema& schema,
                                                  std::optional<base::ClientIndex> client_index,
                                                  const federation::EvaluateTask& task,
                                                  absl::string_view model,
                                                  const std::atomic<bool>& cancelled) override;

  // The run's label counts for people (data::PartitionTable). A trainer's only.
  absl::StatusOr<std::string> PartitionTable(const federation::RunDescriptor& run);

 private:
  using Partitions = std::vector<std::vector<uint32_t>>;
  class Lease;

  TrainingWorkload(const TrainingWorkloadOptions& options, base::Env& env, data::Dataset dataset,
                   std::optional<data::Dataset> test);
  // What a client trains on and what it holds out.
  absl::StatusOr<data::HeldOut> ExamplesOf(const federation::RunDescriptor& run,
                                           base::ClientIndex client_index);
  absl::Status CheckRole(federation::Role wanted) const;
  absl::StatusOr<std::shared_ptr<const Partitions>> GetPartitions(
      const federation::PartitionSpec& spec);
  // Whether the run's network is here, is of its schema, and takes examples of `shape`.
  absl::Status CheckBuiltIn(const federation::RunDescriptor& run, const model::Schema& schema,
                            const std::vector<uint64_t>& shape) const;
  absl::Status CheckTorchScript(const federation::RunDescriptor& run, const model::Schema& schema,
                                const std::vector<uint64_t>& shape);
  // The file that the architecture names, where it is allowed.
  absl::StatusOr<std::string> ReadTorchScript(const std::string& architecture) const;
  absl::StatusOr<std::unique_ptr<learn::Learner>> TakeLearner(const federation::RunDescriptor& run,
                                                              const model::Schema& schema);
  void ReturnLearner(uint32_t classes, std::unique_ptr<learn::Learner> learner);

  base::Env& env_;
  const federation::Role role_;
  const double holdout_;
  const std::vector<std::string> torchscript_files_;
  const std::vector<base::Digest> torchscript_allow_;
  const data::Dataset dataset_;
  const std::optional<data::Dataset> test_;  // a trainer's own
  learn::ActivationCache* cache_ = nullptr;
  base::Digest dataset_digest_, test_digest_;  // where there is a cache

  base::Mutex mutex_;
  // Of the newest spec; calls of an older run keep theirs alive.
  std::optional<federation::PartitionSpec> partition_spec_ QFL_GUARDED_BY(mutex_);
  std::shared_ptr<const Partitions> partitions_ QFL_GUARDED_BY(mutex_);
  // Those that no call uses, all of one schema and class count.
  std::vector<std::unique_ptr<learn::Learner>> idle_ QFL_GUARDED_BY(mutex_);
  uint32_t idle_classes_ QFL_GUARDED_BY(mutex_) = 0;
};

}  // namespace quantfl::training

#endif  // QUANTFL_CLIENT_TRAINING_TRAINING_WORKLOAD_H_
