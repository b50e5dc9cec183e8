#ifndef QUANTFL_COMMON_DATA_TRANSFORM_H_
#define QUANTFL_COMMON_DATA_TRANSFORM_H_

// From examples as they are in memory to what a network takes.

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "common/base/prng.h"
#include "common/data/dataset.h"
#include "common/federation/input.h"

namespace quantfl::data {

// What an InputSpec asks for, on examples of one shape, in this order:
//   channels   the one of grey images stands in each of several
//   resize     bilinear, corners not aligned, without antialiasing, as PyTorch's interpolate(mode =
//              "bilinear", align_corners = False): position i of n takes s = max(0, (i + 0.5) m / n
//              - 0.5) of the m there are, (1 - w) x[floor(s)] + w x[min(floor(s) + 1, m - 1)] with
//              w = s - floor(s); rows, then columns
//   augment    in training only: a random crop of the image padded with black, a random flip
//   normalise  (p / 255 - mean[c]) / stddev[c]
// Signals are normalised alone, (x - mean[c]) / stddev[c]; they have no other transforms.
// Of images, the first two and the last are the same for an example in every pass; what augment
// draws is a function of (key, pass, example) alone, not of batches, processes or what was drawn
// before. Immutable; used by any threads at the same time.
class Transform {
 public:
  // Of examples with the shape of those in `data`. INVALID_ARGUMENT: a field of `input` out of
  // range; numbers of channels or values that do not go together; more padding than image; signals
  // of another shape than the network's, or to be augmented.
  static absl::StatusOr<Transform> Create(const federation::InputSpec& input, const Dataset& data);

  // The shape of one example in a batch.
  uint32_t channels() const { return channels_; }
  uint32_t height() const { return height_; }
  uint32_t width() const { return width_; }
  std::vector<uint64_t> shape() const { return {channels_, height_, width_}; }
  uint64_t values() const { return uint64_t{channels_} * height_ * width_; }
  // Whether ApplyAugmented differs from Apply.
  bool augments() const { return augment_.any(); }

  // Writes values() numbers to `to`. `data` has the shape that Create saw; example < data.count().
  void Apply(const Dataset& data, uint64_t example, float* to) const;
  // The same with what is random: words of base::PrngBlock of `key` with the purpose kAugment at
  // pass x 2^32 + example; the first two place the crop's row and column. The third one's lowest
  // bit flips in an even pass, and the odd one after it flips where that did not: who keeps two
  // passes of an image has both its sides. pass < 2^16, example < 2^32.
  void ApplyAugmented(const Dataset& data, uint64_t example, base::PrngKey key, uint32_t pass,
                      float* to) const;

 private:
  // Positions and weights of one direction, for each of the places that are written.
  struct Taps {
    std::vector<uint32_t> low, high;
    std::vector<float> weight;  // of `high`
  };
  struct Draw {
    int64_t row = 0, column = 0;  // of the window, against the image
    bool flip = false;
  };

  Transform() = default;
  static Taps MakeTaps(uint32_t from, uint32_t to);
  void Write(const Dataset& data, uint64_t example, const Draw& draw, float* to) const;
  void WriteSignal(const Dataset& data, uint64_t example, float* to) const;

  uint32_t channels_ = 0, height_ = 0, width_ = 0;
  bool resizes_ = false;
  federation::AugmentSpec augment_;
  std::vector<float> table_;          // [channels][256]: what each pixel value becomes
  std::vector<float> scale_, shift_;  // [channels]: the same for values between pixels
  std::vector<float> mean_, stddev_;  // [channels]
  Taps rows_, columns_;               // where resizes_
};

}  // namespace quantfl::data

#endif  // QUANTFL_COMMON_DATA_TRANSFORM_H_
