#include "server/coordinator/downlink.h"

#include <algorithm>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "common/base/status.h"
#include "common/model/model_step.h"
#include "common/model/safetensors.h"

namespace quantfl::coordinator {
namespace {

using base::RoundId;
using codec::QuantiserId;
using codec::Representative;

constexpr uint16_t kStableBuLevels = 4;
constexpr uint64_t kLeastSaved = 16;                   // a step saves at least one part of so many
constexpr uint32_t kCoordinatorStream = ~uint32_t{0};  // in the place of a client's index

// Notes of the last committed round: the broadcast model's digest, and each step's as
// "replaces digest".
constexpr char kNoteBroadcast[] = "downlink/broadcast";
std::string StepKey(RoundId round) { return absl::StrCat("downlink/step/", round.value()); }

absl::Status Diverges(const codec::Spec& spec, absl::string_view why) {
  return absl::InvalidArgumentError(absl::StrCat(
      codec::ToString(spec), " diverges on the downlink: ", why,
      ". bu:4 and finer, least-error quantisers (bq, bu with repr=mean, uniform), int8, fp16 and "
      "fp32 are stable; downlink.allow_divergent = true takes it all the same"));
}

absl::StatusOr<std::vector<float>> Trained(const std::string& safetensors,
                                           const model::Schema& schema) {
  QFL_ASSIGN_OR_RETURN(const std::vector<float> flat, model::LoadFlat(safetensors, schema));
  return schema.Gather(flat);
}

}  // namespace

std::shared_ptr<const Artifact> MakeArtifact(std::string bytes) {
  auto artifact = std::make_shared<Artifact>();
  artifact->digest = base::Sha256(bytes);
  artifact->bytes = std::move(bytes);
  return artifact;
}

absl::Status CheckDownlinkCodec(const codec::Spec& spec) {
  if (spec.rounding == codec::Rounding::kStochastic) {
    return Diverges(spec,
                    "stochastic rounding errs by more than it sends, and its errors come back with "
                    "the next difference and are rounded anew");
  }
  if (spec.quantiser == QuantiserId::kBu && spec.representative == Representative::kMidpoint) {
    if (codec::HasRateControl(spec)) {
      return Diverges(spec,
                      "rate control may come down to 2 levels with midpoints, which err by "
                      "more than the difference itself");
    }
    if (spec.levels < kStableBuLevels) {
      return Diverges(spec, absl::StrCat("with ", spec.levels,
                                         " levels midpoints err by more than the difference "
                                         "itself, so that it grows from round to round"));
    }
  }
  if (spec.unbias || spec.representative == Representative::kGain) {
    return Diverges(spec,
                    "what makes up for the length that quantisation takes away adds to its error, "
                    "which then grows from round to round");
  }
  return absl::OkStatus();
}

codec::PayloadBytes FilePayload(uint64_t file_bytes, uint64_t parameters) {
  codec::PayloadBytes payload;
  payload.codes = std::min(file_bytes, parameters * sizeof(float));
  payload.headers = file_bytes - payload.codes;
  return payload;
}

namespace {

MadeBroadcast Whole(const std::shared_ptr<const Artifact>& master, const model::Schema& schema) {
  MadeBroadcast made;
  made.broadcast = master;
  made.payload = FilePayload(master->bytes.size(), schema.size());
  return made;
}

absl::StatusOr<MadeBroadcast> MakeStep(const codec::Spec& spec, const model::Schema& schema,
                                       uint64_t run_seed, RoundId round,
                                       const std::shared_ptr<const Artifact>& broadcast,
                                       const std::shared_ptr<const Artifact>& master) {
  const bool replaces = spec.quantiser == QuantiserId::kFp32;
  QFL_ASSIGN_OR_RETURN(std::vector<float> values, Trained(master->bytes, schema));
  if (!replaces) {
    QFL_ASSIGN_OR_RETURN(const std::vector<float> before, Trained(broadcast->bytes, schema));
    for (size_t i = 0; i < values.size(); ++i) values[i] -= before[i];
  }
  QFL_ASSIGN_OR_RETURN(
      codec::EncodedUpdate encoded,
      codec::Encode(values, schema.update_layout(), spec,
                    {run_seed, round.value(), kCoordinatorStream, base::PrngPurpose::kRounding}));
  std::vector<float>().swap(values);
  const std::string file = codec::SerializeUpdate(encoded);
  MadeBroadcast made = Whole(master, schema);
  if (!replaces) {
    // Clients do the same with the same bytes.
    QFL_ASSIGN_OR_RETURN(std::string next,
                         model::ApplyStep(broadcast->bytes, file, schema, round.value(), false));
    made = Whole(MakeArtifact(std::move(next)), schema);
    if (encoded.squared_norm > 0) made.nmse = encoded.squared_error / encoded.squared_norm;
  }
  // Not for the little that a counter or two take.
  const uint64_t whole = made.broadcast->bytes.size();
  if (file.size() + whole / kLeastSaved >= whole) return made;
  made.payload = encoded.payload;
  made.payload.headers += file.size() - encoded.payload.total();
  made.step = KeptStep{round, replaces, MakeArtifact(file)};
  return made;
}

}  // namespace

MadeBroadcast MakeBroadcast(const codec::Spec& spec, const model::Schema& schema, uint64_t run_seed,
                            RoundId round, const std::shared_ptr<const Artifact>& broadcast,
                            const std::shared_ptr<const Artifact>& master) {
  // With full precision and nothing frozen there is nothing to leave out.
  if (spec.quantiser == QuantiserId::kFp32 && schema.update_layout().n() == schema.size()) {
    return Whole(master, schema);
  }
  absl::StatusOr<MadeBroadcast> made = MakeStep(spec, schema, run_seed, round, broadcast, master);
  if (made.ok()) return *std::move(made);
  MadeBroadcast whole = Whole(master, schema);
  whole.failure = std::string(made.status().message());
  return whole;
}

std::vector<base::Digest> StepBook::Add(RoundId round, const base::Digest& broadcast,
                                        uint64_t model_bytes, std::optional<KeptStep> step) {
  models_[round] = broadcast;
  model_bytes_ = model_bytes;
  if (step) {
    steps_.push_back(*std::move(step));
  }
  std::vector<base::Digest> dropped;
  const auto drop = [&] {
    dropped.push_back(steps_.front().artifact->digest);
    steps_.pop_front();
  };
  // A model that no step leads to ends the way of those before it; one that replaces needs none.
  while (!steps_.empty() && steps_.back().round != round) drop();
  const auto useless = [&] {
    if (steps_.size() > steps_kept_) return true;
    if (steps_.size() > 1 && steps_.back().replaces) return true;
    uint64_t bytes = 0;
    for (const KeptStep& kept : steps_) bytes += kept.artifact->bytes.size();
    return bytes >= model_bytes_;
  };
  while (!steps_.empty() && useless()) drop();
  return dropped;
}

std::optional<base::Digest> StepBook::DigestOf(RoundId round) const {
  const auto found = models_.find(round);
  return found == models_.end() ? std::nullopt : std::optional<base::Digest>(found->second);
}

std::vector<federation::ModelStep> StepBook::From(RoundId held) const {
  std::vector<federation::ModelStep> steps;
  if (steps_.empty() || steps_.back().round <= held) return steps;
  std::optional<base::Digest> from = DigestOf(held);
  size_t first = steps_.size() - 1;
  if (!steps_.back().replaces) {
    if (held.value() + 1 < steps_.front().round.value()) return steps;
    first = held.value() + 1 - steps_.front().round.value();
  }
  for (size_t i = first; i < steps_.size(); ++i) {
    const KeptStep& kept = steps_[i];
    if (!from) return {};
    steps.push_back(
        {*from, kept.artifact->digest, kept.artifact->bytes.size(), kept.round, kept.replaces});
    from = DigestOf(kept.round);
  }
  return steps;
}

void NoteDownlink(const base::Digest& master, const MadeBroadcast& made, RoundId round,
                  store::Notes& notes) {
  // An empty note: it is the master.
  notes[kNoteBroadcast] = made.broadcast->digest == master ? "" : made.broadcast->digest.Hex();
  if (made.step) {
    notes[StepKey(round)] =
        absl::StrCat(made.step->replaces ? "1 " : "0 ", made.step->artifact->digest.Hex());
  }
}

absl::StatusOr<KeptDownlink> ReadKeptDownlink(const store::RecoveredRun& found) {
  KeptDownlink kept;
  const auto broadcast = found.notes.find(kNoteBroadcast);
  if (broadcast != found.notes.end() && !broadcast->second.empty()) {
    kept.broadcast = MakeArtifact(found.broadcast);
    if (kept.broadcast->digest.Hex() != broadcast->second) {
      return absl::DataLossError(absl::StrCat(
          "the kept state of the run is damaged: the broadcast model after round ",
          found.model_round.value(), " is missing, or not the one that was committed"));
    }
  }
  for (const auto& [round, bytes] : found.steps) {
    const auto note = found.notes.find(StepKey(round));
    auto artifact = MakeArtifact(bytes);
    const bool right = note != found.notes.end() && note->second.size() > 2 &&
                       artifact->digest.Hex() == note->second.substr(2);
    const bool follows = kept.steps.empty() || round.value() == kept.steps.back().round.value() + 1;
    if (!right || !follows) kept.steps.clear();
    if (right) kept.steps.push_back({round, note->second[0] == '1', std::move(artifact)});
  }
  if (!kept.steps.empty() && kept.steps.back().round != found.model_round) kept.steps.clear();
  return kept;
}

}  // namespace quantfl::coordinator
