#include "client/daemon/daemon.h"

#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "client/daemon/core.h"
#include "common/base/check.h"
#include "common/base/status.h"

namespace quantfl::daemon {
namespace {

constexpr uint32_t kTrainSlotsMax = 1024;

absl::Status Validate(const DaemonOptions& options) {
  QFL_RETURN_IF_ERROR(federation::ValidateDevice(options.device));
  const auto bad = [](absl::string_view key, const auto& value, absl::string_view range) {
    return absl::InvalidArgumentError(absl::StrCat(key, " = ", value, ": ", range));
  };
  if (options.clients < 1 || options.clients > kClientsMax) {
    return bad("clients", options.clients, absl::StrCat("1 to ", kClientsMax));
  }
  if (options.role == federation::Role::kEvaluator && options.clients != 1) {
    return bad("clients", options.clients, "an evaluator is one client");
  }
  if (options.first_index.has_value() && *options.first_index > UINT32_MAX - options.clients) {
    return bad("first_index", *options.first_index, "the last client's index must fit 32 bits");
  }
  if (options.train_slots < 1 || options.train_slots > kTrainSlotsMax) {
    return bad("train_slots", options.train_slots, absl::StrCat("1 to ", kTrainSlotsMax));
  }
  if (options.state_dir.empty()) return absl::InvalidArgumentError("state_dir is empty");
  if (options.retry_min <= absl::ZeroDuration() || options.retry_max < options.retry_min ||
      options.retry_max > absl::Hours(24)) {
    return bad("retry_min, retry_max",
               absl::StrCat(absl::FormatDuration(options.retry_min), ", ",
                            absl::FormatDuration(options.retry_max)),
               "above 0, in this order, at most 24h");
  }
  if (options.artifact_bytes_max == 0) return bad("artifact_bytes_max", 0, "at least 1");
  return absl::OkStatus();
}

class DaemonImpl : public Daemon {
 public:
  DaemonImpl(base::EventLoop* loop, std::shared_ptr<Core> core)
      : loop_(loop), core_(std::move(core)) {}

  void Start(std::function<void(absl::Status)> on_end) override {
    loop_->Post([weak = std::weak_ptr<Core>(core_), on_end = std::move(on_end)] {
      if (const std::shared_ptr<Core> core = weak.lock()) core->Start(on_end);
    });
  }

  void Stop() override {
    loop_->Post([weak = std::weak_ptr<Core>(core_)] {
      if (const std::shared_ptr<Core> core = weak.lock()) core->End(absl::OkStatus());
    });
  }

 private:
  base::EventLoop* const loop_;
  const std::shared_ptr<Core> core_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Daemon>> Daemon::Create(DaemonOptions options, DaemonDeps deps) {
  QFL_RETURN_IF_ERROR(Validate(options));
  QFL_CHECK(deps.loop && deps.training && deps.disk && deps.env && deps.clock && deps.logger &&
            deps.workload && deps.make_transport);
  ArtifactCacheOptions cache_options;
  cache_options.folder = absl::StrCat(options.state_dir, "/artifacts");
  cache_options.pretrained = options.pretrained;
  cache_options.bytes_max = options.artifact_cache_bytes;
  cache_options.artifact_bytes_max = options.artifact_bytes_max;
  QFL_ASSIGN_OR_RETURN(std::shared_ptr<ArtifactCache> cache,
                       ArtifactCache::Open(*deps.env, *deps.logger, std::move(cache_options)));
  QFL_ASSIGN_OR_RETURN(
      std::shared_ptr<spool::Spool> spool,
      spool::Spool::Open(*deps.env, *deps.logger, absl::StrCat(options.state_dir, "/spool")));
  base::EventLoop* const loop = deps.loop;
  return std::make_unique<DaemonImpl>(
      loop, std::make_shared<Core>(std::move(options), std::move(deps), std::move(cache),
                                   std::move(spool)));
}

}  // namespace quantfl::daemon
