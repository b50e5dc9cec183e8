#include "common/learn/check_training.h"

#include <cstdint>
#include <utility>

#include "absl/strings/str_cat.h"

namespace quantfl::learn {
namespace {

constexpr uint32_t kBatchSizeMax = 65536;
constexpr uint32_t kLocalEpochsMax = 10000;
constexpr uint32_t kLocalStepsMax = 1u << 24;
constexpr uint32_t kCachePassesMax = 1000;
// LibTorch computes with these in float32.
constexpr double kRateMax = 1e38;

}  // namespace

absl::Status CheckTraining(const federation::TrainingSpec& training) {
  if (!(training.learning_rate > 0 && training.learning_rate <= kRateMax)) {
    return absl::InvalidArgumentError(absl::StrCat("learning_rate ", training.learning_rate,
                                                   " must be above 0, at most ", kRateMax));
  }
  if (!(training.momentum >= 0 && training.momentum < 1)) {
    return absl::InvalidArgumentError(
        absl::StrCat("momentum ", training.momentum, " must be in [0, 1)"));
  }
  if (!(training.weight_decay >= 0 && training.weight_decay <= kRateMax)) {
    return absl::InvalidArgumentError(
        absl::StrCat("weight_decay ", training.weight_decay, " must be 0 to ", kRateMax));
  }
  if (training.batch_size < 1 || training.batch_size > kBatchSizeMax) {
    return absl::InvalidArgumentError(
        absl::StrCat("batch_size ", training.batch_size, " must be 1 to ", kBatchSizeMax));
  }
  for (const auto& [name, beta] : {std::pair("beta1", training.beta1), {"beta2", training.beta2}}) {
    if (!(beta >= 0 && beta < 1)) {
      return absl::InvalidArgumentError(absl::StrCat(name, " ", beta, " must be in [0, 1)"));
    }
  }
  if (!(training.epsilon > 0 && training.epsilon <= kRateMax)) {
    return absl::InvalidArgumentError(
        absl::StrCat("epsilon ", training.epsilon, " must be above 0, at most ", kRateMax));
  }
  if (!(training.label_smoothing >= 0 && training.label_smoothing < 1)) {
    return absl::InvalidArgumentError(
        absl::StrCat("label_smoothing ", training.label_smoothing, " must be in [0, 1)"));
  }
  if (training.local_steps > kLocalStepsMax) {
    return absl::InvalidArgumentError(
        absl::StrCat("local_steps ", training.local_steps, " must be 0 to ", kLocalStepsMax));
  }
  if (training.cache_passes < 1 || training.cache_passes > kCachePassesMax) {
    return absl::InvalidArgumentError(
        absl::StrCat("cache_passes ", training.cache_passes, " must be 1 to ", kCachePassesMax));
  }
  if (training.local_epochs < 1 || training.local_epochs > kLocalEpochsMax) {
    return absl::InvalidArgumentError(
        absl::StrCat("local_epochs ", training.local_epochs, " must be 1 to ", kLocalEpochsMax));
  }
  return absl::OkStatus();
}

}  // namespace quantfl::learn
