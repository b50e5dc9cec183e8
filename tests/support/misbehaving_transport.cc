#include "tests/support/misbehaving_transport.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/base/mutex.h"
#include "common/base/status.h"
#include "common/codec/wire.h"
#include "tests/support/seal.h"

namespace quantfl::testing {
namespace {

namespace wire = codec::wire;

constexpr std::pair<absl::string_view, Misbehaviour> kNames[] = {
    {"wrong_schema", Misbehaviour::kWrongSchema}, {"wrong_round", Misbehaviour::kWrongRound},
    {"unknown_task", Misbehaviour::kUnknownTask}, {"nan", Misbehaviour::kNan},
    {"wrong_size", Misbehaviour::kWrongSize},     {"flipped_bit", Misbehaviour::kFlippedBit},
    {"oversize", Misbehaviour::kOversize},        {"wrong_version", Misbehaviour::kWrongVersion},
    {"bad_token", Misbehaviour::kBadToken},
};

constexpr size_t kOversizeBytes = 250 << 10;

struct Update {
  federation::UpdateOffer offer;
  std::vector<std::string> chunks;
};

class MemoryChunks final : public daemon::ChunkSource {
 public:
  explicit MemoryChunks(std::vector<std::string> chunks) : chunks_(std::move(chunks)) {}
  absl::StatusOr<std::string> ReadChunk(uint32_t index) override {
    if (index >= chunks_.size()) return absl::OutOfRangeError("no such chunk");
    return chunks_[index];
  }

 private:
  const std::vector<std::string> chunks_;
};

void Spoil(Misbehaviour how, Update& update) {
  std::string& header = update.offer.codec_header;
  std::string& chunk = update.chunks.front();
  switch (how) {
    case Misbehaviour::kWrongSchema:
      header[wire::kSchemaDigest] = static_cast<char>(header[wire::kSchemaDigest] ^ 0xff);
      codec::Seal(header);
      break;
    case Misbehaviour::kWrongSize:
      wire::Store<uint64_t>(header, wire::kN, wire::Load<uint64_t>(header, wire::kN) + 1);
      codec::Seal(header);
      break;
    case Misbehaviour::kUnknownTask:
      update.offer.task_id = base::TaskId(update.offer.task_id.value() + 1'000'000);
      break;
    case Misbehaviour::kNan: {
      constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
      if (wire::Load<uint32_t>(header, wire::kSideSize) > 0) {
        wire::Store(header, wire::kSide, kNan);
        codec::Seal(header);
      } else {
        wire::Store(chunk, wire::kChunkCodes, kNan);
        codec::Seal(chunk);
      }
      break;
    }
    case Misbehaviour::kOversize:
      update.offer.payload_bytes += kOversizeBytes - chunk.size();
      chunk.resize(kOversizeBytes);
      break;
    case Misbehaviour::kFlippedBit:
      // The digest stays that of the update that was meant.
      chunk[chunk.size() / 2] = static_cast<char>(chunk[chunk.size() / 2] ^ 1);
      return;
    case Misbehaviour::kWrongRound:
    case Misbehaviour::kWrongVersion:
    case Misbehaviour::kBadToken:
      return;
  }
  base::Sha256Hasher hasher;
  hasher.Update(header);
  for (const std::string& c : update.chunks) hasher.Update(c);
  update.offer.digest = std::move(hasher).Finish();
}

class MisbehavingTransport final : public daemon::Transport {
 public:
  MisbehavingTransport(std::unique_ptr<daemon::Transport> inner, Misbehaviour how,
                       std::function<void(MisbehaviourOutcome)> outcome)
      : how_(how), outcome_(std::move(outcome)), inner_(std::move(inner)) {}

  ~MisbehavingTransport() override { Disconnect(); }

  void Join(federation::JoinRequest request,
            std::function<void(absl::StatusOr<federation::JoinAnswer>)> done) override {
    const bool now = how_ == Misbehaviour::kWrongVersion || how_ == Misbehaviour::kBadToken;
    if (how_ == Misbehaviour::kWrongVersion) request.protocol_version = 99;
    inner_->Join(std::move(request), [this, now, done](absl::StatusOr<federation::JoinAnswer> a) {
      if (now) Tell(a.status());
      done(std::move(a));
    });
  }

  void Tasks(std::string session, std::function<void(federation::Instruction)> next,
             std::function<void(absl::Status)> done) override {
    inner_->Tasks(
        std::move(session),
        [this, next](federation::Instruction instruction) {
          if (const auto* task = std::get_if<federation::TrainTask>(&instruction.what)) {
            Release(*task);
          }
          next(std::move(instruction));
        },
        std::move(done));
  }

  void Fetch(std::string session, base::Digest digest, uint64_t offset, Piece piece,
             std::function<void(absl::Status)> done) override {
    inner_->Fetch(std::move(session), digest, offset, std::move(piece), std::move(done));
  }

  void Upload(std::string session, federation::UpdateOffer offer,
              std::shared_ptr<daemon::ChunkSource> chunks,
              std::function<void(absl::StatusOr<daemon::UploadResult>)> done) override {
    const base::TaskId task = offer.task_id;
    Update update;
    for (uint32_t i = 0; i < offer.chunk_count; ++i) {
      absl::StatusOr<std::string> chunk = chunks->ReadChunk(i);
      if (!chunk.ok()) return inner_->Upload(session, offer, chunks, done);
      update.chunks.push_back(*std::move(chunk));
    }
    update.offer = std::move(offer);
    Spoil(how_, update);
    auto send = [this, session = std::move(session), update = std::move(update),
                 done = std::move(done)]() mutable {
      inner_->Upload(std::move(session), std::move(update.offer),
                     std::make_shared<MemoryChunks>(std::move(update.chunks)),
                     [this, done = std::move(done)](absl::StatusOr<daemon::UploadResult> result) {
                       if (result.ok())
                         Tell(result->verdict);
                       else
                         Tell(result.status());
                       done(std::move(result));
                     });
    };
    if (how_ == Misbehaviour::kWrongRound) {
      base::MutexLock lock(mutex_);
      if (rounds_.empty() || rounds_.rbegin()->first <= RoundOf(task)) {
        held_ = std::move(send);
        held_round_ = RoundOf(task);
        return;
      }
    }
    send();
  }

  void Report(std::string session, federation::ClientReport report,
              std::function<void(absl::Status)> done) override {
    inner_->Report(std::move(session), std::move(report), std::move(done));
  }
  void FailTask(std::string session, federation::TaskFailure failure,
                std::function<void(absl::Status)> done) override {
    inner_->FailTask(std::move(session), std::move(failure), std::move(done));
  }
  void Disconnect() override {
    std::function<void()> send;
    {
      base::MutexLock lock(mutex_);
      send = std::exchange(held_, nullptr);
    }
    // So that its callback comes, CANCELLED, as every other one's.
    if (send) send();
    inner_->Disconnect();
  }
  federation::ByteCounters Counters() override { return inner_->Counters(); }

 private:
  base::RoundId RoundOf(base::TaskId task) QFL_REQUIRES(mutex_) {
    for (const auto& [round, id] : rounds_) {
      if (id == task) return round;
    }
    return base::RoundId(0);
  }

  // A task of a later round: the one that is held is of a wrong round now.
  void Release(const federation::TrainTask& task) {
    std::function<void()> send;
    {
      base::MutexLock lock(mutex_);
      rounds_[task.round] = task.task_id;
      if (!held_ || task.round <= held_round_) return;
      send = std::exchange(held_, nullptr);
    }
    send();
  }

  void Tell(const federation::UpdateVerdict& verdict) {
    outcome_({verdict.verdict != federation::Verdict::kAccepted,
              std::string(federation::ToString(verdict.verdict)), verdict.reason});
  }
  void Tell(const absl::Status& status) {
    if (absl::IsUnavailable(status) || absl::IsCancelled(status)) return;
    outcome_(
        {!status.ok(), absl::StatusCodeToString(status.code()), std::string(status.message())});
  }

  const Misbehaviour how_;
  const std::function<void(MisbehaviourOutcome)> outcome_;
  base::Mutex mutex_;
  std::map<base::RoundId, base::TaskId> rounds_ QFL_GUARDED_BY(mutex_);
  std::function<void()> held_ QFL_GUARDED_BY(mutex_);
  base::RoundId held_round_ QFL_GUARDED_BY(mutex_);
  // Last, so that its callbacks have run before the rest goes.
  const std::unique_ptr<daemon::Transport> inner_;
};

}  // namespace

absl::StatusOr<Misbehaviour> ParseMisbehaviour(absl::string_view name) {
  std::string known;
  for (const auto& [text, how] : kNames) {
    if (text == name) return how;
    absl::StrAppend(&known, known.empty() ? "" : ", ", text);
  }
  return absl::InvalidArgumentError(absl::StrCat("\"", name, "\": expected one of ", known));
}

std::unique_ptr<daemon::Transport> MakeMisbehavingTransport(
    std::unique_ptr<daemon::Transport> inner, Misbehaviour how,
    std::function<void(MisbehaviourOutcome)> outcome) {
  return std::make_unique<MisbehavingTransport>(std::move(inner), how, std::move(outcome));
}

}  // namespace quantfl::testing
