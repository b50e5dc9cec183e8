#include "client/daemon/work.h"

#include <algorithm>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/prng.h"
#include "common/base/status.h"

namespace quantfl::daemon {
namespace {

// An artifact that has gone (removed by hand, or to make room) is fetched again like a damaged one.
absl::StatusOr<std::string> ReadArtifact(ArtifactCache& cache, const base::Digest& digest) {
  absl::StatusOr<std::string> bytes = cache.Read(digest);
  if (absl::IsNotFound(bytes.status())) return absl::DataLossError(bytes.status().message());
  return bytes;
}

absl::Status CheckWithinBounds(const codec::EncodedUpdate& encoded, const codec::Layout& layout,
                               const std::vector<int8_t>& bound_exponents) {
  QFL_ASSIGN_OR_RETURN(const codec::UpdateHeader header,
                       codec::ParseHeader(encoded.header, layout));
  QFL_RETURN_IF_ERROR(codec::CheckBounds(header, layout, bound_exponents));
  if (codec::HeaderBoundsCodes(header.spec) && !layout.has_fp32()) return absl::OkStatus();
  for (uint32_t index = 0; index < encoded.chunks.size(); ++index) {
    QFL_ASSIGN_OR_RETURN(const codec::ChunkView chunk,
                         codec::ParseChunk(encoded.chunks[index], header, layout, index));
    QFL_RETURN_IF_ERROR(codec::CheckBounds(chunk, bound_exponents));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::shared_ptr<const PreparedRun>> PrepareRun(
    Workload& workload, ArtifactCache& cache, const federation::RunDescriptor& run) {
  QFL_ASSIGN_OR_RETURN(const std::string bytes, ReadArtifact(cache, run.schema));
  absl::StatusOr<model::Schema> schema = model::Schema::Parse(bytes);
  if (!schema.ok()) {
    // The bytes have the digest that the run names: another download would bring the same.
    return absl::InvalidArgumentError(absl::StrCat("schema: ", schema.status().message()));
  }
  QFL_RETURN_IF_ERROR(workload.Prepare(run, *schema));
  return std::make_shared<const PreparedRun>(PreparedRun{run, *std::move(schema)});
}

absl::StatusOr<TrainedWork> TrainOnce(Workload& workload, ArtifactCache& cache,
                                      const base::Clock& clock, const PreparedRun& run,
                                      base::ClientIndex client_index,
                                      const federation::TrainTask& task,
                                      const std::atomic<bool>& cancelled) {
  // A task that was withdrawn while it waited for its slot.
  if (cancelled) return absl::CancelledError("the task was withdrawn");
  const codec::Layout& layout = run.schema.update_layout();
  QFL_RETURN_IF_ERROR(codec::Validate(task.codec));
  if (task.bound_exponents.size() != layout.tensors().size()) {
    return absl::InvalidArgumentError(absl::StrCat(task.bound_exponents.size(),
                                                   " bound exponents for an update of ",
                                                   layout.tensors().size(), " tensors"));
  }
  TrainOutput output;
  const base::SteadyTime train_from = clock.Now();
  {
    QFL_ASSIGN_OR_RETURN(const std::string model, ReadArtifact(cache, task.model));
    QFL_ASSIGN_OR_RETURN(output,
                         workload.Train(run.run, run.schema, client_index, task, model, cancelled));
  }
  const base::SteadyTime encode_from = clock.Now();
  if (output.delta.size() != layout.n() || output.examples == 0) {
    return absl::InternalError(absl::StrCat("the workload returned ", output.delta.size(),
                                            " parameters from ", output.examples,
                                            " examples; an update has ", layout.n()));
  }
  QFL_ASSIGN_OR_RETURN(
      codec::EncodedUpdate encoded,
      codec::Encode(output.delta, layout, task.codec,
                    base::PrngKey{run.run.seed, task.round.value(), client_index.value(),
                                  base::PrngPurpose::kRounding}));
  output.delta = {};
  QFL_RETURN_IF_ERROR(CheckWithinBounds(encoded, layout, task.bound_exponents));

  TrainedWork work;
  base::Sha256Hasher hasher;
  hasher.Update(encoded.header);
  uint64_t payload_bytes = encoded.header.size();
  for (const std::string& chunk : encoded.chunks) {
    hasher.Update(chunk);
    payload_bytes += chunk.size();
  }
  work.update.run_id = run.run.run_id;
  work.update.offer.task_id = task.task_id;
  work.update.offer.digest = std::move(hasher).Finish();
  work.update.offer.codec_header = encoded.header;
  work.update.offer.payload_bytes = payload_bytes;
  work.update.offer.chunk_count = static_cast<uint32_t>(encoded.chunks.size());
  work.update.offer.examples = std::min(output.examples, std::max(task.max_examples, 1u));
  work.update.report.loss = output.mean_loss;
  work.update.report.examples = output.examples;
  work.update.report.squared_error = encoded.squared_error;
  work.update.report.squared_norm = encoded.squared_norm;
  work.update.report.train = encode_from - train_from;
  work.update.report.encode = clock.Now() - encode_from;
  work.encoded = std::make_shared<const codec::EncodedUpdate>(std::move(encoded));
  return work;
}

absl::StatusOr<federation::EvaluationReport> EvaluateOnce(Workload& workload, ArtifactCache& cache,
                                                          const base::Clock& clock,
                                                          const PreparedRun& run,
                                                          const federation::EvaluateTask& task,
                                                          const std::atomic<bool>& cancelled) {
  if (cancelled) return absl::CancelledError("the task was withdrawn");
  const base::SteadyTime from = clock.Now();
  QFL_ASSIGN_OR_RETURN(const std::string model, ReadArtifact(cache, task.model));
  QFL_ASSIGN_OR_RETURN(const EvaluateOutput output,
                       workload.Evaluate(run.run, run.schema, task, model, cancelled));
  federation::EvaluationReport report;
  report.loss = output.mean_loss;
  report.accuracy = output.accuracy;
  report.examples = output.examples;
  report.evaluate = clock.Now() - from;
  return report;
}

}  // namespace quantfl::daemon
