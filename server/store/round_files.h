#ifndef QUANTFL_SERVER_STORE_ROUND_FILES_H_
#define QUANTFL_SERVER_STORE_ROUND_FILES_H_

#include <cstdint>
#include <deque>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "common/base/env.h"
#include "server/store/run_store.h"
#include "server/store/upload_segments.h"

namespace quantfl::store {

// The files of committed rounds in a store's folder: models, what clients hold of them, and the
// server optimiser's moments. What is no longer wanted goes when `segments` removes its garbage.
// Threads: as RunStore.
class RoundFiles {
 public:
  RoundFiles(base::Env& env, std::string folder, uint32_t checkpoints_kept,
             UploadSegments& segments)
      : env_(env),
        folder_(std::move(folder)),
        checkpoints_kept_(checkpoints_kept),
        segments_(segments) {}

  // All files of the round, durable; latest.safetensors is the last of them. Written again after a
  // kill.
  absl::Status Write(const CommittedRound& round, absl::string_view safetensors);
  // After what makes the round the current one.
  void Committed(const CommittedRound& round);

  // What is there of the rounds up to run.model_round, and the model itself with what belongs to
  // it. DATA_LOSS: it is missing, or not run.model.
  absl::Status Load(RecoveredRun& run);

 private:
  struct Kind {
    const char* prefix;
    const char* suffix;
  };
  std::string PathOf(const std::string& name) const;
  // Rounds of the files of a kind up to `newest`, ascending.
  static std::vector<base::RoundId> RoundsOf(const std::vector<std::string>& names,
                                             const Kind& kind, base::RoundId newest);
  static std::string NameOf(const Kind& kind, base::RoundId round);
  void KeepLast(std::deque<std::string>& paths, size_t count);

  static const Kind kCheckpoint, kMoments, kBroadcast, kStep;

  base::Env& env_;
  const std::string folder_;
  const uint32_t checkpoints_kept_;
  UploadSegments& segments_;
  // Paths, oldest first.
  std::deque<std::string> checkpoints_, moments_, broadcasts_, steps_;

  friend std::string CheckpointName(base::RoundId round);
  friend std::string MomentsName(base::RoundId round);
};

}  // namespace quantfl::store

#endif  // QUANTFL_SERVER_STORE_ROUND_FILES_H_
