// How an artifact comes: found on disk, downloaded, or waited for.

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "client/daemon/core.h"
#include "client/session/fetch_plan.h"

namespace quantfl::daemon {
namespace {

constexpr size_t kFetchedRemembered = 1024;  // digests a client; a forgotten one is fetched again

}  // namespace

void Core::PinModel(Client& client, const base::Digest& digest) {
  if (client.model == digest) return;
  cache_->Pin(digest);
  if (client.model.has_value()) {
    client.downloads.erase(*client.model);
    // What the new one may be made of.
    if (client.base.has_value()) cache_->Unpin(*client.base);
    client.base = client.model;
  }
  client.model = digest;
}

void Core::Do(Client& client, const session::Fetch& effect) {
  if (effect.kind == session::ArtifactKind::kModel) {
    PinModel(client, effect.digest);
  } else if (client.schema != effect.digest) {
    cache_->Pin(effect.digest);
    if (client.schema.has_value()) {
      cache_->Unpin(*client.schema);
      client.downloads.erase(*client.schema);
    }
    client.schema = effect.digest;
  }
  if (effect.steps.empty()) return FetchWhole(client.ordinal, effect, 0, "");
  ChooseWay(client.ordinal, effect);
}

void Core::ChooseWay(uint32_t ordinal, const session::Fetch& effect) {
  struct Found {
    std::vector<bool> from_before, broken;  // of the steps' bases, then of the model
  };
  Offload(
      *deps_.disk,
      [cache = cache_, effect] {
        Found found;
        const auto look = [&](const base::Digest& digest) {
          found.from_before.push_back(cache->IsFromBefore(digest));
          found.broken.push_back(cache->IsBroken(digest));
        };
        for (const federation::ModelStep& step : effect.steps) look(step.base);
        look(effect.digest);
        return found;
      },
      [ordinal, effect](Core& core, Found found) {
        const Client& c = core.clients_[ordinal];
        const bool shared = core.options_.shared_artifacts || core.options_.clients == 1;
        const auto is_here = [&](size_t i, const base::Digest& digest) {
          return found.from_before[i] ||
                 ((shared || c.fetched.count(digest) != 0) && core.cache_->IsStored(digest));
        };
        std::vector<bool> held;
        std::string repair;
        for (size_t i = 0; i < effect.steps.size(); ++i) {
          const base::Digest& base = effect.steps[i].base;
          held.push_back(is_here(i, base));
          if (found.broken[i]) {
            repair = absl::StrCat("the copy of model ", base.ShortHex(),
                                  " on disk is cut short or damaged");
          }
        }
        const session::FetchPlan plan = session::PlanFetch(effect.steps, held, effect.model_bytes);
        if (is_here(held.size(), effect.digest)) return core.FetchWhole(ordinal, effect, 0, "");
        if (!plan.first.has_value()) return core.FetchWhole(ordinal, effect, 0, repair);
        auto way = std::make_shared<ModelWay>();
        way->effect = effect;
        way->first = way->next = *plan.first;
        core.NextStep(ordinal, std::move(way));
      });
}

void Core::NextStep(uint32_t ordinal, std::shared_ptr<ModelWay> way) {
  // The session has turned to another model.
  if (clients_[ordinal].model != way->effect.digest) return;
  if (way->next == way->effect.steps.size()) return MakeModel(ordinal, way);
  Want want;
  want.request = way->effect.request;
  want.session = way->effect.session;
  want.digest = way->effect.steps[way->next].artifact;
  want.done = [ordinal, way](Core& core, absl::Status status, uint64_t bytes) {
    way->bytes += bytes;
    if (status.ok()) {
      ++way->next;
      return core.NextStep(ordinal, way);
    }
    // The coordinator keeps a step for some rounds only.
    if (absl::IsNotFound(status)) return core.FetchWhole(ordinal, way->effect, way->bytes, "");
    core.Feed(ordinal, session::FetchDone{way->effect.request, std::move(status), way->bytes});
  };
  Obtain(ordinal, std::move(want));
}

void Core::MakeModel(uint32_t ordinal, const std::shared_ptr<ModelWay>& way) {
  Offload(
      *deps_.disk,
      [cache = cache_, run = clients_[ordinal].run, way] {
        const absl::Span<const federation::ModelStep> steps = way->effect.steps;
        return MakeModelOfSteps(*cache, run->schema, steps.subspan(way->first), way->effect.digest);
      },
      [ordinal, way](Core& core, absl::Status status) {
        Client& c = core.clients_[ordinal];
        if (absl::IsDataLoss(status)) {
          return core.FetchWhole(ordinal, way->effect, way->bytes, std::string(status.message()));
        }
        if (status.ok()) {
          core.Remember(c, way->effect.digest);
          core.deps_.logger->Log(base::LogLevel::kInfo, "model_ready",
                                 {{"client", c.name},
                                  {"sha256", way->effect.digest.Hex()},
                                  {"steps", way->effect.steps.size() - way->first},
                                  {"bytes", way->bytes}});
        }
        core.Feed(ordinal, session::FetchDone{way->effect.request, std::move(status), way->bytes});
      });
}

void Core::FetchWhole(uint32_t ordinal, const session::Fetch& effect, uint64_t bytes_before,
                      const std::string& repair) {
  if (!repair.empty()) {
    deps_.logger->Warning("model_repaired", {{"client", clients_[ordinal].name},
                                             {"model", effect.digest.ShortHex()},
                                             {"reason", repair}});
  }
  Want want;
  want.request = effect.request;
  want.session = effect.session;
  want.digest = effect.digest;
  want.kind = effect.kind;
  want.done = [ordinal, effect, bytes_before, repair](Core& core, absl::Status status,
                                                      uint64_t bytes) {
    if (status.ok() && effect.kind == session::ArtifactKind::kModel) {
      core.deps_.logger->Info("model_ready", {{"client", core.clients_[ordinal].name},
                                              {"sha256", effect.digest.Hex()},
                                              {"steps", 0},
                                              {"bytes", bytes_before + bytes}});
    }
    core.Feed(ordinal,
              session::FetchDone{effect.request, std::move(status), bytes_before + bytes, repair});
  };
  Obtain(ordinal, std::move(want));
}

void Core::Obtain(uint32_t ordinal, Want want) {
  Offload(
      *deps_.disk, [cache = cache_, digest = want.digest] { return cache->IsFromBefore(digest); },
      [ordinal, want](Core& core, bool from_before) mutable {
        const Client& c = core.clients_[ordinal];
        const bool mine = core.options_.shared_artifacts || core.options_.clients == 1 ||
                          c.fetched.count(want.digest) != 0;
        if (from_before || (mine && core.cache_->IsStored(want.digest))) {
          return want.done(core, absl::OkStatus(), 0);
        }
        if (core.options_.shared_artifacts) {
          auto [it, first] = core.shared_fetches_.try_emplace(want.digest);
          if (!first) return it->second.push_back(std::move(want));
        }
        core.BeginDownload(ordinal, want);
      });
}

void Core::BeginDownload(uint32_t ordinal, const Want& want) {
  Client& client = clients_[ordinal];
  Downloads& downloads = options_.shared_artifacts ? shared_downloads_ : client.downloads;
  std::shared_ptr<Download>& slot = downloads[want.digest];
  const std::shared_ptr<Download> known = slot;
  // Ordinal and request name the use: requests are counted for each session.
  const uint64_t use = (uint64_t{ordinal} << 40) + want.request;
  struct Begun {
    std::shared_ptr<Download> download;
    uint64_t offset;
  };
  Offload(
      *deps_.disk,
      [cache = cache_, known, digest = want.digest, use] {
        Begun begun;
        begun.download = known != nullptr ? known : std::make_shared<Download>(cache, digest);
        begun.offset = begun.download->Begin(use);
        return begun;
      },
      [ordinal, want, use, epoch = client.epoch](Core& core, const Begun& begun) {
        Client& c = core.clients_[ordinal];
        Downloads& all = core.options_.shared_artifacts ? core.shared_downloads_ : c.downloads;
        // Forgotten meanwhile: the session has turned to another artifact.
        if (const auto it = all.find(want.digest); it != all.end()) it->second = begun.download;
        if (c.epoch != epoch) {
          return core.DownloadEnded(ordinal, want, absl::CancelledError("disconnected"), 0);
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
            want.kind == session::ArtifactKind::kSchema
                ? std::min<uint64_t>(model::kSchemaBytesMax, core.options_.artifact_bytes_max)
                : core.options_.artifact_bytes_max;
        const auto loop = core.deps_.loop;
        const auto disk = core.deps_.disk;
        const auto weak = core.weak_from_this();
        c.transport->Fetch(
            want.session, want.digest, offset,
            [=](std::string piece, std::shared_ptr<const void> turn) {
              // The next piece may come when this one is on disk, or dropped.
              disk->Post([=, piece = std::move(piece), turn = std::move(turn)] {
                if (progress->ended) return;
                absl::Status status;
                if (piece.size() > bytes_max - std::min(bytes_max, download->offset())) {
                  status = absl::ResourceExhaustedError(
                      absl::StrCat("artifact ", want.digest.ShortHex(), " is larger than ",
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
                  alive->DownloadEnded(ordinal, want, status, 0);
                });
              });
            },
            [=](const absl::Status& status) {
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
                    alive->DownloadEnded(ordinal, want, result, bytes);
                  }
                });
              });
            });
      });
}

void Core::Remember(Client& client, const base::Digest& digest) {
  if (client.fetched.size() >= kFetchedRemembered) client.fetched.clear();
  client.fetched.insert(digest);
}

void Core::DownloadEnded(uint32_t ordinal, const Want& want, const absl::Status& status,
                         uint64_t bytes) {
  Client& client = clients_[ordinal];
  if (status.ok()) {
    Remember(client, want.digest);
    client.downloads.erase(want.digest);
    deps_.logger->Log(
        base::LogLevel::kDebug, "fetched",
        {{"client", client.name}, {"sha256", want.digest.ShortHex()}, {"bytes", bytes}});
  }
  std::vector<Want> waiting;
  if (const auto it = shared_fetches_.find(want.digest); it != shared_fetches_.end()) {
    waiting = std::move(it->second);
    shared_fetches_.erase(it);
    if (status.ok()) shared_downloads_.erase(want.digest);
  }
  want.done(*this, status, bytes);
  for (const Want& other : waiting) {
    absl::Status theirs;
    if (!status.ok()) {
      theirs = absl::UnavailableError(
          absl::StrCat("the fetch shared with ", client.name, " ended: ", status.ToString()));
    }
    other.done(*this, theirs, bytes);
  }
}

}  // namespace quantfl::daemon
