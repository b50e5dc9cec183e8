#ifndef QUANTFL_SERVER_AGGREGATION_SERVER_OPTIMISER_H_
#define QUANTFL_SERVER_AGGREGATION_SERVER_OPTIMISER_H_

// What a round's mean delta does to the model: Reddi et al., "Adaptive Federated Optimization"
// (2021), Algorithm 2, and FedAvgM of Hsu et al., "Measuring the Effects of Non-Identical Data
// Distribution for Federated Visual Classification" (2019). With d the mean delta, all in fp32,
// each operation rounded once; sqrt and division are the only functions, so every machine computes
// the same bits:
//   fedavg    w += lr d
//   fedavgm   m = momentum m + d                              w += lr m
//   fedadam   m = beta1 m + (1 - beta1) d
//             v = beta2 v + (1 - beta2) d^2                   w += lr m / (sqrt(v) + tau)
//   fedyogi   m as above
//             v = v - (1 - beta2) d^2 sign(v - d^2)           w += lr m / (sqrt(v) + tau)
// m begins at 0 and v at tau^2; there is no bias correction, as in the paper.

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"

namespace quantfl::aggregation {

enum class ServerOptimiser : uint8_t { kFedAvg, kFedAvgM, kFedAdam, kFedYogi };
const std::vector<std::string>& ServerOptimiserNames();  // "fedavg", "fedavgm", ...
// INVALID_ARGUMENT lists the names.
absl::StatusOr<ServerOptimiser> ParseServerOptimiser(absl::string_view name);
std::string ToString(ServerOptimiser kind);

struct ServerOptimiserSpec {
  ServerOptimiser kind = ServerOptimiser::kFedAvg;
  double learning_rate = 1;  // (0, 1000]
  double momentum = 0.9;     // [0, 1), of fedavgm
  double beta1 = 0.9;        // [0, 1), of fedadam and fedyogi
  double beta2 = 0.99;       // [0, 1), of fedadam and fedyogi
  double tau = 1e-3;         // [1e-12, 1000], of fedadam and fedyogi
};
// The learning rate that a kind has unless told otherwise: 1 where the mean is added as it is, 0.01
// where a step has about the length of the learning rate whatever the mean's.
double DefaultServerLearningRate(ServerOptimiser kind);
// INVALID_ARGUMENT naming field, value and range.
absl::Status Validate(const ServerOptimiserSpec& spec);

// float32[n] vectors that the optimiser keeps from round to round: 0, 1 (m) or 2 (m, then v).
int MomentCount(ServerOptimiser kind);
// What moment `index` begins with, the same for every parameter.
float InitialMoment(const ServerOptimiserSpec& spec, int index);

// Parameters [first, first + count) of an update.
struct ParameterRange {
  uint64_t first = 0;
  uint64_t count = 0;
};

// One step, in place.
//   mean_delta, model  float32[n], finite
//   moments            float32[MomentCount * n], finite; changed like the model
//   averaged           ranges, ascending and apart, that are no parameters but statistics of the
//                      data (the running means and variances of a normalisation): whatever the
//                      optimiser, they become the clients' weighted mean, model + mean_delta, and
//                      their moments stay as they are
// INVALID_ARGUMENT: lengths or ranges that do not fit; DATA_LOSS naming the index: a result that is
// not finite. Model and moments are then unchanged.
absl::Status ApplyServerOptimiser(const ServerOptimiserSpec& spec,
                                  absl::Span<const float> mean_delta,
                                  absl::Span<const ParameterRange> averaged,
                                  absl::Span<float> moments, absl::Span<float> model);

}  // namespace quantfl::aggregation

#endif  // QUANTFL_SERVER_AGGREGATION_SERVER_OPTIMISER_H_
