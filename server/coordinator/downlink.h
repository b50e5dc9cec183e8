#ifndef QUANTFL_SERVER_COORDINATOR_DOWNLINK_H_
#define QUANTFL_SERVER_COORDINATOR_DOWNLINK_H_

// What clients are sent of a model. With a quantised downlink they hold a model of their own, the
// broadcast model: after each round it moves by Q(master - broadcast), which everybody adds alike
// (model::ApplyStep). What Q left out is in the next difference.

#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "common/base/digest.h"
#include "common/base/ids.h"
#include "common/codec/update.h"
#include "common/federation/types.h"
#include "common/model/schema.h"
#include "server/coordinator/coordinator.h"
#include "server/store/run_store.h"

namespace quantfl::coordinator {

// With its digest.
std::shared_ptr<const Artifact> MakeArtifact(std::string bytes);

// One that takes clients from the broadcast model of the round before to that of `round`.
struct KeptStep {
  base::RoundId round;
  bool replaces = false;
  std::shared_ptr<const Artifact> artifact;  // an update file
};

// How far the next broadcast model is from the one before it.
struct MadeBroadcast {
  std::shared_ptr<const Artifact> broadcast;  // the master itself with a full-precision downlink
  std::optional<KeptStep> step;               // none: the whole file is no dearer
  codec::PayloadBytes payload;                // of the step, else of the file
  std::optional<double> nmse;                 // of the encoded difference; none: there was nothing
  std::string failure;                        // why there is no step, if there should be one
};

// After `round`, whose master is `master`, for clients that hold `broadcast`. O(parameters); any
// thread. `spec` is that of the downlink. A difference that cannot be encoded (it leaves the range
// of fp32) costs its step: clients then get the master whole.
//   run_seed  names the random numbers of stochastic rounding, with the round
MadeBroadcast MakeBroadcast(const codec::Spec& spec, const model::Schema& schema, uint64_t run_seed,
                            base::RoundId round, const std::shared_ptr<const Artifact>& broadcast,
                            const std::shared_ptr<const Artifact>& master);
// Of a safetensors file of `parameters` floats.
codec::PayloadBytes FilePayload(uint64_t file_bytes, uint64_t parameters);

// Which steps are kept, and from where they lead. Not thread-safe.
class StepBook {
 public:
  explicit StepBook(uint32_t steps_kept) : steps_kept_(steps_kept) {}

  // The broadcast model after `round` (0: the initial one), of `model_bytes`, and the step to it
  // from the one before. Returns what is kept no longer.
  std::vector<base::Digest> Add(base::RoundId round, const base::Digest& broadcast,
                                uint64_t model_bytes, std::optional<KeptStep> step);
  // Without a step: a model of an earlier process.
  void Know(base::RoundId round, const base::Digest& broadcast) { models_[round] = broadcast; }

  std::optional<base::Digest> DigestOf(base::RoundId round) const;

  // The steps for who holds the model after `held`; empty: none lead there for less than the whole
  // file.
  std::vector<federation::ModelStep> From(base::RoundId held) const;
  const std::deque<KeptStep>& kept() const { return steps_; }

 private:
  const uint32_t steps_kept_;
  std::map<base::RoundId, base::Digest> models_;  // broadcast ones, 32 bytes a round
  std::deque<KeptStep> steps_;                    // consecutive, to the current model
  uint64_t model_bytes_ = 0;
};

// The part of a recovered run that is the downlink's.
struct KeptDownlink {
  std::shared_ptr<const Artifact> broadcast;  // null: it is the master
  std::vector<KeptStep> steps;                // consecutive, to the current model
};
// DATA_LOSS: the broadcast model is missing, or not what was committed. Steps that are so are left
// out, with those before them: clients that want them get the whole model.
absl::StatusOr<KeptDownlink> ReadKeptDownlink(const store::RecoveredRun& found);
// What Load has to find again of a commit.
void NoteDownlink(const base::Digest& master, const MadeBroadcast& made, base::RoundId round,
                  store::Notes& notes);

}  // namespace quantfl::coordinator

#endif  // QUANTFL_SERVER_COORDINATOR_DOWNLINK_H_
