#include "server/coordinator/rate_limit.h"

#include <algorithm>
#include <iterator>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"

namespace quantfl::coordinator {
namespace {

constexpr int kLookedAt = 64;

}  // namespace

void TokenBucket::Fill(base::SteadyTime now) {
  if (filled_) {
    const double seconds = absl::ToDoubleSeconds(now - *filled_);
    tokens_ = std::min(burst_, tokens_ + per_second_ * std::max(seconds, 0.0));
  }
  filled_ = now;
}

bool TokenBucket::Take(base::SteadyTime now) {
  Fill(now);
  if (tokens_ < 1) return false;
  tokens_ -= 1;
  return true;
}

bool TokenBucket::IsFull(base::SteadyTime now) {
  Fill(now);
  return tokens_ >= burst_;
}

absl::Status JoinLimiter::Take(const std::string& device, base::SteadyTime now) {
  if (devices_.size() >= kDevicesKept && devices_.count(device) == 0) {
    // A few, wherever the new name falls: a join costs the same however many names there are.
    auto it = devices_.lower_bound(device);
    for (int looked_at = 0; looked_at < kLookedAt && !devices_.empty(); ++looked_at) {
      if (it == devices_.end()) it = devices_.begin();
      it = it->second.IsFull(now) ? devices_.erase(it) : std::next(it);
    }
    if (devices_.size() >= kDevicesKept) {
      return absl::ResourceExhaustedError(
          absl::StrCat("more than ", kDevicesKept, " devices join at the same time: try later"));
    }
  }
  TokenBucket& of_device =
      devices_.try_emplace(device, rates_.per_second_of_device, rates_.burst_of_device)
          .first->second;
  if (!of_device.Take(now)) {
    return absl::ResourceExhaustedError(
        absl::StrCat("device ", device, " joins more than ", rates_.per_second_of_device,
                     " times a second (server.joins_per_second_of_device): try later"));
  }
  if (!all_.Take(now)) {
    return absl::ResourceExhaustedError(absl::StrCat("clients join more than ", rates_.per_second,
                                                     " times a second (server.joins_per_second): "
                                                     "try later"));
  }
  return absl::OkStatus();
}

std::optional<uint64_t> NoteLimiter::Admit(const std::string& key, base::SteadyTime now) {
  if (entries_.size() >= kKeysKept && entries_.count(key) == 0) {
    for (auto it = entries_.begin(); it != entries_.end();) {
      it = it->second.bucket.IsFull(now) && it->second.left_out == 0 ? entries_.erase(it)
                                                                     : std::next(it);
    }
    if (entries_.size() >= kKeysKept) entries_.clear();
  }
  Entry& entry = entries_[key];
  if (!entry.bucket.Take(now)) {
    ++entry.left_out;
    return std::nullopt;
  }
  return std::exchange(entry.left_out, 0);
}

}  // namespace quantfl::coordinator
