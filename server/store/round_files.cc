#include "server/store/round_files.h"

#include <algorithm>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "common/base/digest.h"
#include "common/base/status.h"

namespace quantfl::store {
namespace {

using base::RoundId;

constexpr uint64_t kModelBytesMax = uint64_t{1} << 38;
constexpr size_t kRoundDigits = 6;

}  // namespace

const RoundFiles::Kind RoundFiles::kCheckpoint{"checkpoint-", ".safetensors"};
const RoundFiles::Kind RoundFiles::kMoments{"moments-", ".safetensors"};
const RoundFiles::Kind RoundFiles::kBroadcast{"broadcast-", ".safetensors"};
const RoundFiles::Kind RoundFiles::kStep{"step-", ".qflf"};

std::string CheckpointName(RoundId round) {
  return RoundFiles::NameOf(RoundFiles::kCheckpoint, round);
}
std::string MomentsName(RoundId round) { return RoundFiles::NameOf(RoundFiles::kMoments, round); }

std::string RoundFiles::NameOf(const Kind& kind, RoundId round) {
  return absl::StrFormat("%s%0*d%s", kind.prefix, static_cast<int>(kRoundDigits), round.value(),
                         kind.suffix);
}

std::string RoundFiles::PathOf(const std::string& name) const {
  return absl::StrCat(folder_, "/", name);
}

absl::Status RoundFiles::Write(const CommittedRound& round, absl::string_view safetensors) {
  const std::pair<const Kind*, absl::string_view> files[] = {
      {&kMoments, round.moments}, {&kBroadcast, round.broadcast}, {&kStep, round.step}};
  for (const auto& [kind, bytes] : files) {
    if (bytes.empty()) continue;
    QFL_RETURN_IF_ERROR(env_.WriteFileAtomically(PathOf(NameOf(*kind, round.round)), bytes));
  }
  QFL_RETURN_IF_ERROR(
      env_.WriteFileAtomically(PathOf(NameOf(kCheckpoint, round.round)), safetensors));
  return env_.WriteFileAtomically(PathOf(kLatestName), safetensors);
}

void RoundFiles::KeepLast(std::deque<std::string>& paths, size_t count) {
  while (paths.size() > count) {
    segments_.AddGarbage(paths.front());
    paths.pop_front();
  }
}

void RoundFiles::Committed(const CommittedRound& round) {
  const auto add = [&](std::deque<std::string>& paths, const Kind& kind, bool written,
                       size_t count) {
    const std::string path = PathOf(NameOf(kind, round.round));
    if (written && std::find(paths.begin(), paths.end(), path) == paths.end()) {
      paths.push_back(path);
    }
    KeepLast(paths, count);
  };
  add(checkpoints_, kCheckpoint, true, checkpoints_kept_);
  add(moments_, kMoments, !round.moments.empty(), round.moments.empty() ? 0 : 1);
  add(broadcasts_, kBroadcast, !round.broadcast.empty(), round.broadcast.empty() ? 0 : 1);
  add(steps_, kStep, !round.step.empty(), round.steps_kept);
}

std::vector<RoundId> RoundFiles::RoundsOf(const std::vector<std::string>& names, const Kind& kind,
                                          RoundId newest) {
  std::vector<RoundId> rounds;
  for (absl::string_view name : names) {
    uint32_t round = 0;
    const std::string whole(name);
    if (!absl::StartsWith(whole, kind.prefix) || !absl::EndsWith(whole, kind.suffix)) continue;
    const size_t prefix = std::string(kind.prefix).size();
    const size_t suffix = std::string(kind.suffix).size();
    if (whole.size() < prefix + kRoundDigits + suffix ||
        !absl::SimpleAtoi(whole.substr(prefix, whole.size() - prefix - suffix), &round)) {
      continue;
    }
    // One of a round whose row never came will be written again.
    if (RoundId(round) <= newest) rounds.push_back(RoundId(round));
  }
  std::sort(rounds.begin(), rounds.end());
  return rounds;
}

absl::Status RoundFiles::Load(RecoveredRun& run) {
  QFL_ASSIGN_OR_RETURN(const std::vector<std::string> names, env_.List(folder_));
  const RoundId newest = run.model_round;
  const std::pair<const Kind*, std::deque<std::string>*> kinds[] = {{&kCheckpoint, &checkpoints_},
                                                                    {&kMoments, &moments_},
                                                                    {&kBroadcast, &broadcasts_},
                                                                    {&kStep, &steps_}};
  for (const auto& [kind, paths] : kinds) {
    for (const RoundId round : RoundsOf(names, *kind, newest)) {
      paths->push_back(PathOf(NameOf(*kind, round)));
    }
  }
  KeepLast(moments_, 1);
  KeepLast(broadcasts_, 1);
  if (newest == RoundId(0)) return absl::OkStatus();

  const std::string path = PathOf(NameOf(kCheckpoint, newest));
  if (!env_.Exists(path)) {
    return absl::DataLossError(
        absl::StrCat(path, " is missing; it is the model after round ", newest.value()));
  }
  QFL_ASSIGN_OR_RETURN(run.safetensors, env_.ReadFile(path, kModelBytesMax));
  if (const base::Digest digest = base::Sha256(run.safetensors); digest != run.model) {
    return absl::DataLossError(absl::StrCat(path, " has the digest ", digest.ShortHex(),
                                            "...; round ", newest.value(), " committed ",
                                            run.model.ShortHex(), "..."));
  }
  const auto read = [&](const Kind& kind, std::string& bytes) -> absl::Status {
    const std::string file = PathOf(NameOf(kind, newest));
    if (!env_.Exists(file)) return absl::OkStatus();
    QFL_ASSIGN_OR_RETURN(bytes, env_.ReadFile(file, 2 * kModelBytesMax));
    return absl::OkStatus();
  };
  QFL_RETURN_IF_ERROR(read(kMoments, run.moments));
  QFL_RETURN_IF_ERROR(read(kBroadcast, run.broadcast));
  for (const RoundId round : RoundsOf(names, kStep, newest)) {
    QFL_ASSIGN_OR_RETURN(std::string bytes,
                         env_.ReadFile(PathOf(NameOf(kStep, round)), kModelBytesMax));
    run.steps.emplace_back(round, std::move(bytes));
  }
  return absl::OkStatus();
}

}  // namespace quantfl::store
