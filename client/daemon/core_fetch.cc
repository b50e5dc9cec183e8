// How an artifact comes: found on disk, downloaded, or waited for.

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "client/daemon/core.h"

namespace quantfl::daemon {
namespace {

constexpr size_t kFetchedRemembered = 1024;  // digests a client; a forgotten one is fetched again

}  // namespace

void Core::Do(Client& client, const session::Fetch& effect) {
  std::optional<base::Digest>& pinned =
      effect.kind == session::ArtifactKind::kSchema ? client.schema : client.model;
  if (pinned != effect.digest) {
    cache_->Pin(effect.digest);
    if (pinned.has_value()) {
      cache_->Unpin(*pinned);
      client.downloads.erase(*pinned);
    }
    pinned = effect.digest;
  }
  Offload(
      *deps_.disk, [cache = cache_, digest = effect.digest] { return cache->IsFromBefore(digest); },
      [ordinal = client.ordinal, effect](Core& core, bool from_before) {
        Client& c = core.clients_[ordinal];
        const bool mine = core.options_.shared_artifacts || core.options_.clients == 1 ||
                          c.fetched.count(effect.digest) != 0;
        if (from_before || (mine && core.cache_->IsStored(effect.digest))) {
          return core.Feed(ordinal, session::FetchDone{effect.request, absl::OkStatus(), 0});
        }
        if (core.options_.shared_artifacts) {
          auto [it, first] = core.shared_fetches_.try_emplace(effect.digest);
          if (!first) {
            it->second.emplace_back(ordinal, effect);
            return;
          }
        }
        core.BeginDownload(ordinal, effect);
      });
}

void Core::BeginDownload(uint32_t ordinal, const session::Fetch& effect) {
  Client& client = clients_[ordinal];
  Downloads& downloads = options_.shared_artifacts ? shared_downloads_ : client.downloads;
  std::shared_ptr<Download>& slot = downloads[effect.digest];
  const std::shared_ptr<Download> known = slot;
  // Ordinal and request name the use: requests are counted for each session.
  const uint64_t use = (uint64_t{ordinal} << 40) + effect.request;
  struct Begun {
    std::shared_ptr<Download> download;
    uint64_t offset;
  };
  Offload(
      *deps_.disk,
      [cache = cache_, known, digest = effect.digest, use] {
        Begun begun;
        begun.download = known != nullptr ? known : std::make_shared<Download>(cache, digest);
        begun.offset = begun.download->Begin(use);
        return begun;
      },
      [ordinal, effect, use, epoch = client.epoch](Core& core, Begun begun) {
        Client& c = core.clients_[ordinal];
        Downloads& all = core.options_.shared_artifacts ? core.shared_downloads_ : c.downloads;
        // Forgotten meanwhile: the session has turned to another artifact.
        if (const auto it = all.find(effect.digest); it != all.end()) it->second = begun.download;
        if (c.epoch != epoch) {
          return core.FetchEnded(ordinal, effect, absl::CancelledError("disconnected"), 0);
        }
        const std::shared_ptr<Download> download = begun.download;
        const uint64_t offset = begun.offset;
        // Touched on the disk executor only.
        struct Progress {
          uint64_t bytes = 0;
          bool ended = false;
        };
        const auto progress = std::make_shared<Progress>();
        const uint64_t bytes_max =
            effect.kind == session::ArtifactKind::kSchema
                ? std::min<uint64_t>(model::kSchemaBytesMax, core.options_.artifact_bytes_max)
                : core.options_.artifact_bytes_max;
        const auto loop = core.deps_.loop;
        const auto disk = core.deps_.disk;
        const auto weak = core.weak_from_this();
        c.transport->Fetch(
            effect.session, effect.digest, offset,
            [=](std::string piece, std::shared_ptr<const void> turn) {
              // The next piece may come when this one is on disk, or dropped.
              disk->Post([=, piece = std::move(piece), turn = std::move(turn)] {
                if (progress->ended) return;
                absl::Status status;
                if (piece.size() > bytes_max - std::min(bytes_max, download->offset())) {
                  status = absl::ResourceExhaustedError(
                      absl::StrCat("artifact ", effect.digest.ShortHex(), " is larger than ",
                                   bytes_max, " bytes (artifact_bytes_max)"));
                  download->Restart();
                } else {
                  status = download->Add(use, piece);
                }
                progress->bytes += piece.size();
                if (status.ok()) return;
                progress->ended = true;
                loop->Post([=] {
                  const std::shared_ptr<Core> alive = weak.lock();
                  if (alive == nullptr) return;
                  // There is no other way to stop a sender that does not end.
                  if (Client& to = alive->clients_[ordinal]; to.epoch == epoch) {
                    ++to.epoch;
                    to.transport->Disconnect();
                  }
                  alive->FetchEnded(ordinal, effect, status, 0);
                });
              });
            },
            [=](absl::Status status) {
              disk->Post([=] {
                if (progress->ended) return;
                progress->ended = true;
                absl::Status result = status;
                if (status.ok()) {
                  result = download->Finish(use);
                } else if (offset > 0 && progress->bytes == 0 &&
                           (absl::IsInvalidArgument(status) || absl::IsOutOfRange(status))) {
                  // What lay on disk is longer than the artifact.
                  download->Restart();
                  result = absl::DataLossError(status.ToString());
                }
                loop->Post([=, bytes = progress->bytes] {
                  if (const std::shared_ptr<Core> alive = weak.lock()) {
                    alive->FetchEnded(ordinal, effect, result, bytes);
                  }
                });
              });
            });
      });
}

void Core::FetchEnded(uint32_t ordinal, const session::Fetch& effect, absl::Status status,
                      uint64_t bytes) {
  Client& client = clients_[ordinal];
  if (status.ok()) {
    if (client.fetched.size() >= kFetchedRemembered) client.fetched.clear();
    client.fetched.insert(effect.digest);
    client.downloads.erase(effect.digest);
    deps_.logger->Log(
        base::LogLevel::kDebug, "fetched",
        {{"client", client.name}, {"sha256", effect.digest.ShortHex()}, {"bytes", bytes}});
  }
  std::vector<std::pair<uint32_t, session::Fetch>> waiting;
  if (const auto it = shared_fetches_.find(effect.digest); it != shared_fetches_.end()) {
    waiting = std::move(it->second);
    shared_fetches_.erase(it);
    if (status.ok()) shared_downloads_.erase(effect.digest);
  }
  Feed(ordinal, session::FetchDone{effect.request, status, bytes});
  for (const auto& [other, fetch] : waiting) {
    absl::Status theirs;
    if (!status.ok()) {
      theirs = absl::UnavailableError(
          absl::StrCat("the fetch shared with ", client.name, " ended: ", status.ToString()));
    }
    Feed(other, session::FetchDone{fetch.request, theirs, bytes});
  }
}

}  // namespace quantfl::daemon
