#ifndef QUANTFL_COMMON_FEDERATION_INPUT_H_
#define QUANTFL_COMMON_FEDERATION_INPUT_H_

// How examples enter the network of a run: part of the run, so that it is the same on every client.
// common/data/transform.h does it.

#include <cstdint>
#include <initializer_list>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace quantfl::federation {

inline constexpr uint32_t kInputChannelsMax = 1024;
inline constexpr uint32_t kInputSideMax = 4096;         // pixels
inline constexpr uint32_t kInputCropPaddingMax = 1024;  // pixels

// One number for all channels, or one for each of them.
struct PerChannel {
  std::vector<double> values;

  PerChannel(double all) : values{all} {}  // NOLINT: the usual shorthand
  PerChannel(std::initializer_list<double> each) : values(each) {}
  explicit PerChannel(std::vector<double> each) : values(std::move(each)) {}
  double at(uint32_t channel) const { return values.size() == 1 ? values[0] : values[channel]; }
  friend bool operator==(const PerChannel&, const PerChannel&) = default;
};
// "0.5" or "0.485,0.456,0.406", in the shortest digits that read back the same.
std::string ToString(const PerChannel& numbers);
// INVALID_ARGUMENT: not numbers with commas between them, not finite, or more than
// kInputChannelsMax.
absl::StatusOr<PerChannel> ParsePerChannel(absl::string_view text);

// What is drawn anew for each example in each pass, in training only, in this order.
struct AugmentSpec {
  // The image, already of the network's size, gets so many black pixels at each side, and a window
  // of its size is cut out at a place that is uniform among all; 0: none.
  uint32_t crop_padding = 0;
  bool flip = false;  // mirrored left to right, every other time
  bool any() const { return crop_padding > 0 || flip; }
  friend bool operator==(const AugmentSpec&, const AugmentSpec&) = default;
};

// Pixel p in 0..255 of channel c enters the network as (p / 255 - mean[c]) / stddev[c], a number x
// of data that is not images as (x - mean[c]) / stddev[c].
struct InputSpec {
  PerChannel mean = 0;
  PerChannel stddev = 1;
  // What the network takes; 0: as the data is. Images of one channel are given to three in each;
  // other heights and widths are resized, bilinear.
  uint32_t channels = 0;
  uint32_t height = 0, width = 0;  // both or neither
  AugmentSpec augment = {};
  friend bool operator==(const InputSpec&, const InputSpec&) = default;
};

// INVALID_ARGUMENT names field, value and limit, as "input.stddev = 0: ...".
absl::Status ValidateInput(const InputSpec& input);

}  // namespace quantfl::federation

#endif  // QUANTFL_COMMON_FEDERATION_INPUT_H_
