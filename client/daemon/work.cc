#include "client/daemon/work.h"

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/base/prng.h"
#include "common/base/status.h"
#include "common/model/model_step.h"
#include "common/model/safetensors.h"

namespace quantfl::daemon {
namespace {

// An artifact that has gone (removed by hand, or to make room) is fetched again like a damaged one.
absl::StatusOr<std::string> ReadArtifact(ArtifactCache& cache, const base::Digest& digest) {
  absl::StatusOr<std::string> bytes = cache.Read(digest);
  if (absl::IsNotFound(bytes.status())) return absl::DataLossError(bytes.status().message());
  return bytes;
}

// The bytes that the workload was given are those that their digest names: what it does not like of
// them, or of what came of them (a training that diverged), another download would not mend. So
// DATA_LOSS is said of the disk alone.
absl::Status FromWorkload(const absl::Status& status) {
  return absl::IsDataLoss(status) ? absl::InvalidArgumentError(status.message()) : status;
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
  QFL_RETURN_IF_ERROR(FromWorkload(workload.Prepare(run, *schema)));
  return std::make_shared<const PreparedRun>(PreparedRun{run, *std::move(schema)});
}

DeltaDump DumpTo(base::Env& env, const std::string& folder) {
  if (folder.empty()) return nullptr;
  return [&env, folder](const PreparedRun& run, base::ClientIndex client_index,
                        const federation::TrainTask& task,
                        const TrainOutput& output) -> absl::Status {
    std::vector<model::TensorInfo> tensors;
    for (const model::TensorInfo& tensor : run.schema.tensors()) {
      if (tensor.policy != model::Policy::kSkip) tensors.push_back(tensor);
    }
    QFL_ASSIGN_OR_RETURN(const model::Schema schema,
                         model::Schema::Create(run.schema.architecture(), std::move(tensors)));
    const std::string run_folder = absl::StrCat(folder, "/", run.run.run_id);
    QFL_RETURN_IF_ERROR(env.CreateDirs(run_folder));
    return env.WriteFileAtomically(
        absl::StrCat(run_folder, "/round-", task.round.value(), "-client-", client_index.value(),
                     ".safetensors"),
        model::SerializeSafetensors(schema, output.delta,
                                    {{"quantfl.examples", absl::StrCat(output.examples)},
                                     {model::kMetadataArchitecture, run.schema.architecture()}}));
  };
}

absl::Status MakeModelOfSteps(ArtifactCache& cache, const model::Schema& schema,
                              absl::Span<const federation::ModelStep> steps,
                              const base::Digest& target) {
  if (cache.IsStored(target)) return absl::OkStatus();  // by another client of this process
  QFL_ASSIGN_OR_RETURN(std::string model, ReadArtifact(cache, steps.front().base));
  for (size_t i = 0; i < steps.size(); ++i) {
    QFL_ASSIGN_OR_RETURN(const std::string update, ReadArtifact(cache, steps[i].artifact));
    absl::StatusOr<std::string> next =
        model::ApplyStep(model, update, schema, steps[i].round.value(), steps[i].replaces);
    if (!next.ok()) return absl::DataLossError(next.status().message());
    model = *std::move(next);
    const base::Digest& stated = i + 1 < steps.size() ? steps[i + 1].base : target;
    if (const base::Digest found = base::Sha256(model); found != stated) {
      return absl::DataLossError(absl::StrCat("the step of round ", steps[i].round.value(),
                                              " makes a model of digest ", found.ShortHex(),
                                              ", the coordinator's has ", stated.ShortHex()));
    }
  }
  return cache.Put(target, model);
}

absl::StatusOr<TrainedWork> TrainOnce(Workload& workload, ArtifactCache& cache,
                                      const base::Clock& clock, const PreparedRun& run,
                                      base::ClientIndex client_index,
                                      const federation::TrainTask& task,
                                      const std::atomic<bool>& cancelled, const DeltaDump& dump) {
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
    absl::StatusOr<TrainOutput> trained =
        workload.Train(run.run, run.schema, client_index, task, model, cancelled);
    if (!trained.ok()) return FromWorkload(trained.status());
    output = *std::move(trained);
  }
  const base::SteadyTime encode_from = clock.Now();
  if (output.delta.size() != layout.n() || output.examples == 0) {
    return absl::InternalError(absl::StrCat("the workload returned ", output.delta.size(),
                                            " parameters from ", output.examples,
                                            " examples; an update has ", layout.n()));
  }
  if (dump != nullptr) QFL_RETURN_IF_ERROR(dump(run, client_index, task, output));
  QFL_ASSIGN_OR_RETURN(
      codec::EncodedUpdate encoded,
      codec::Encode(output.delta, layout, task.codec,
                    base::PrngKey{run.run.seed, task.round.value(), client_index.value(),
                                  base::PrngPurpose::kRounding}));
  output.delta = {};
  QFL_RETURN_IF_ERROR(base::Annotate(
      CheckWithinBounds(encoded, layout, task.bound_exponents),
      "the update would be refused (the run's round.bound_factor and round.bound_min say what is "
      "accepted; training that diverges ends here too)"));

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

absl::StatusOr<federation::EvaluationReport> EvaluateOnce(
    Workload& workload, ArtifactCache& cache, const base::Clock& clock, const PreparedRun& run,
    std::optional<base::ClientIndex> client_index, const federation::EvaluateTask& task,
    const std::atomic<bool>& cancelled) {
  if (cancelled) return absl::CancelledError("the task was withdrawn");
  const base::SteadyTime from = clock.Now();
  QFL_ASSIGN_OR_RETURN(const std::string model, ReadArtifact(cache, task.model));
  const absl::StatusOr<EvaluateOutput> measured =
      workload.Evaluate(run.run, run.schema, client_index, task, model, cancelled);
  if (!measured.ok()) return FromWorkload(measured.status());
  const EvaluateOutput& output = *measured;
  federation::EvaluationReport report;
  report.loss = output.mean_loss;
  report.accuracy = output.accuracy;
  report.examples = output.examples;
  report.evaluate = clock.Now() - from;
  return report;
}

}  // namespace quantfl::daemon
