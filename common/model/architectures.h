#ifndef QUANTFL_COMMON_MODEL_ARCHITECTURES_H_
#define QUANTFL_COMMON_MODEL_ARCHITECTURES_H_

// What the built-in architectures' parameters are, without the library that trains them: the
// coordinator checks a checkpoint against it, common/learn builds the networks themselves.

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "common/model/schema.h"

namespace quantfl::model {

inline constexpr uint32_t kClassesMin = 2;
inline constexpr uint32_t kClassesMax = 65536;

// A stage of MobileNetV2's inverted residuals: each widens its input `expansion` times, and the
// first of the stage takes every `stride`-th position.
struct MobileNetStage {
  uint64_t expansion, channels, blocks, stride;
};
inline constexpr MobileNetStage kMobileNetV2Stages[] = {
    {1, 16, 1, 1}, {6, 24, 2, 2},  {6, 32, 3, 2}, {6, 64, 4, 2},
    {6, 96, 3, 1}, {6, 160, 3, 2}, {6, 320, 1, 1}};

// Names of the built-in architectures, sorted:
//   cnn             that of the FedAvg paper (McMahan et al. 2017), 1,663,370 parameters, 10
//   classes lenet5          61,706 parameters with 10 classes mobilenet_v2    1.0, batch
//   normalisation folded into the convolutions (Sandler et al. 2018) har_cnn  for UCI HAR's signals
//   of 9 x 128, two 1-D convolutions (as Ronao and Cho 2016), 286,534 parameters with 6 classes
//   resnet20, resnet56  for CIFAR,
//   option-A shortcuts, batch normalisation (He et al. 2015) squeezenet1_1   (Iandola et al. 2016)
std::vector<std::string> ArchitectureNames();

// Shape of one example as the network was published for, without the batch: {channels, height,
// width}. INVALID_ARGUMENT lists the names there are.
absl::StatusOr<std::vector<uint64_t>> ArchitectureInputShape(absl::string_view architecture);

// Whether the network can take examples of this {channels, height, width}: networks that average
// over the image before their last layer take other sizes than the published one. INVALID_ARGUMENT
// names the shape and what the network takes, or lists the names there are.
absl::Status CheckInputShape(absl::string_view architecture, const std::vector<uint64_t>& shape);

// Mean and standard deviation of p / 255, a channel each, that the published weights of a network
// were trained with, or of the data that it is made for; empty where nothing is known.
struct Normalisation {
  std::vector<double> mean, stddev;
};
Normalisation ArchitectureNormalisation(absl::string_view architecture);

// Names and shapes in the order of the published files (PyTorch's state_dict, without
// num_batches_tracked), each with DefaultPolicy. INVALID_ARGUMENT lists the names there are, or
// names `classes` and its range.
absl::StatusOr<Schema> ArchitectureSchema(absl::string_view architecture, uint32_t classes);

// Whether a tensor is a running statistic of a normalisation (*.running_mean, *.running_var):
// learnt from the data, not by gradients.
bool IsStatistic(absl::string_view tensor_name);

// How a tensor travels unless a configuration says otherwise: running statistics of a normalisation
// (*.running_mean, *.running_var) as fp32, *.num_batches_tracked not at all, the rest quantised.
Policy DefaultPolicy(absl::string_view tensor_name);

}  // namespace quantfl::model

#endif  // QUANTFL_COMMON_MODEL_ARCHITECTURES_H_
