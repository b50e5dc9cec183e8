#ifndef QUANTFL_CLIENT_DAEMON_WORKLOAD_H_
#define QUANTFL_CLIENT_DAEMON_WORKLOAD_H_

// What a client computes. client/training implements it with learn::Learner, tests/support with
// made-up deltas and no LibTorch.

#include <atomic>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "common/base/ids.h"
#include "common/federation/types.h"
#include "common/model/schema.h"

namespace quantfl::daemon {

struct TrainOutput {
  std::vector<float> delta;  // float32[schema.update_layout().n()]
  uint32_t examples = 0;     // >= 1
  double mean_loss = 0;
};

struct EvaluateOutput {
  double mean_loss = 0;
  double accuracy = 0;
  uint64_t examples = 0;
};

// Called from at most `train_slots` threads at once; each call blocks until done or `cancelled` is
// set (then CANCELLED).
class Workload {
 public:
  virtual ~Workload() = default;
  // Whether this process can take part: architecture known, data of the right shape, enough
  // partitions. FAILED_PRECONDITION or INVALID_ARGUMENT with the reason, which the daemon logs
  // before it tries the next run.
  virtual absl::Status Prepare(const federation::RunDescriptor& run,
                               const model::Schema& schema) = 0;
  //   model  safetensors bytes of the broadcast model, digest already verified
  virtual absl::StatusOr<TrainOutput> Train(const federation::RunDescriptor& run,
                                            const model::Schema& schema,
                                            base::ClientIndex client_index,
                                            const federation::TrainTask& task,
                                            absl::string_view model,
                                            const std::atomic<bool>& cancelled) = 0;
  //   client_index  of the trainer whose own data is to be evaluated on; an evaluator has none
  virtual absl::StatusOr<EvaluateOutput> Evaluate(const federation::RunDescriptor& run,
                                                  const model::Schema& schema,
                                                  std::optional<base::ClientIndex> client_index,
                                                  const federation::EvaluateTask& task,
                                                  absl::string_view model,
                                                  const std::atomic<bool>& cancelled) = 0;
};

}  // namespace quantfl::daemon

#endif  // QUANTFL_CLIENT_DAEMON_WORKLOAD_H_
