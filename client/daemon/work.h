#ifndef QUANTFL_CLIENT_DAEMON_WORK_H_
#define QUANTFL_CLIENT_DAEMON_WORK_H_

// What runs on a train slot: reads the artifact, calls the workload, encodes. Blocking; each call
// takes what it needs and keeps nothing, so it may outlive the daemon that posted it.

#include <atomic>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "client/daemon/artifact_cache.h"
#include "client/daemon/workload.h"
#include "client/session/trained_update.h"
#include "common/base/clock.h"
#include "common/base/env.h"
#include "common/codec/update.h"
#include "common/federation/types.h"
#include "common/model/schema.h"

namespace quantfl::daemon {

// A run that the workload is prepared for. Immutable, shared by the clients of the process.
struct PreparedRun {
  federation::RunDescriptor run;
  model::Schema schema;
};

struct TrainedWork {
  session::TrainedUpdate update;  // report.fetch and report.upload are zero
  std::shared_ptr<const codec::EncodedUpdate> encoded;
};

// Takes float32[layout.n()], before it is encoded.
using DeltaDump =
    std::function<absl::Status(const PreparedRun& run, base::ClientIndex client_index,
                               const federation::TrainTask& task, const TrainOutput& output)>;
// Writes each to <folder>/<run_id>/round-<R>-client-<client_index>.safetensors: the tensors of an
// update under their names, with the number of examples as metadata. An empty `folder`: nothing.
DeltaDump DumpTo(base::Env& env, const std::string& folder);

// All three: DATA_LOSS where the artifact is not on disk as it was fetched; else the workload's
// errors, of which DATA_LOSS (a training that diverged) becomes INVALID_ARGUMENT: to fetch the
// model again would not mend it.

absl::StatusOr<std::shared_ptr<const PreparedRun>> PrepareRun(Workload& workload,
                                                              ArtifactCache& cache,
                                                              const federation::RunDescriptor& run);

// Makes steps.back()'s model, which is `target`, out of the base of the first step, and stores it.
// DATA_LOSS: a file is not on disk as it was, or what came of them is not what the steps, or
// `target`, say. Writes: on the cache's writing executor.
absl::Status MakeModelOfSteps(ArtifactCache& cache, const model::Schema& schema,
                              absl::Span<const federation::ModelStep> steps,
                              const base::Digest& target);

// Also INVALID_ARGUMENT: codec spec, a delta that is not finite or exceeds the round's bound (the
// coordinator would refuse it and count an offence); INTERNAL: a delta of another length.
//   dump  what to do with the delta before it is encoded, or nothing; its error is TrainOnce's
absl::StatusOr<TrainedWork> TrainOnce(Workload& workload, ArtifactCache& cache,
                                      const base::Clock& clock, const PreparedRun& run,
                                      base::ClientIndex client_index,
                                      const federation::TrainTask& task,
                                      const std::atomic<bool>& cancelled,
                                      const DeltaDump& dump = nullptr);

absl::StatusOr<federation::EvaluationReport> EvaluateOnce(
    Workload& workload, ArtifactCache& cache, const base::Clock& clock, const PreparedRun& run,
    std::optional<base::ClientIndex> client_index, const federation::EvaluateTask& task,
    const std::atomic<bool>& cancelled);

}  // namespace quantfl::daemon

#endif  // QUANTFL_CLIENT_DAEMON_WORK_H_
