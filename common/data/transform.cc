#include "common/data/transform.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/check.h"
#include "common/base/status.h"

namespace quantfl::data {

absl::StatusOr<Transform> Transform::Create(const federation::InputSpec& input,
                                            const Dataset& data) {
  QFL_RETURN_IF_ERROR(federation::ValidateInput(input));
  Transform t;
  t.channels_ = input.channels == 0 ? data.channels : input.channels;
  t.height_ = input.height == 0 ? data.height : input.height;
  t.width_ = input.width == 0 ? data.width : input.width;
  t.augment_ = input.augment;
  if (t.channels_ != data.channels && data.channels != 1) {
    return absl::InvalidArgumentError(absl::StrCat("examples of ", data.channels,
                                                   " channels, but the network takes ", t.channels_,
                                                   ": only one channel is repeated"));
  }
  for (const auto& [name, numbers] :
       {std::pair<const char*, const federation::PerChannel&>("input.mean", input.mean),
        {"input.stddev", input.stddev}}) {
    if (numbers.values.size() > 1 && numbers.values.size() != t.channels_) {
      return absl::InvalidArgumentError(absl::StrCat(name, " has ", numbers.values.size(),
                                                     " numbers for ", t.channels_, " channels"));
    }
  }
  const uint32_t padding = t.augment_.crop_padding;
  if (padding > 0 && padding >= std::min(t.height_, t.width_)) {
    return absl::InvalidArgumentError(absl::StrCat("input.crop_padding = ", padding,
                                                   ": it is below the sides of an image, ",
                                                   t.height_, " x ", t.width_));
  }
  t.resizes_ = t.height_ != data.height || t.width_ != data.width;
  if (data.is_signals() && (t.resizes_ || t.channels_ != data.channels || t.augment_.any())) {
    return absl::InvalidArgumentError(absl::StrCat(
        "signals of ", data.channels, " x ", data.height, " x ", data.width, ", but the run asks ",
        t.augment_.any() ? "for random crops or flips, which images alone have"
                         : absl::StrCat("for ", t.channels_, " x ", t.height_, " x ", t.width_,
                                        ", and only images are resized")));
  }
  if (t.resizes_) {
    if (data.height == 0 || data.width == 0) {
      return absl::InvalidArgumentError("examples without a pixel cannot be resized");
    }
    t.rows_ = MakeTaps(data.height, t.height_);
    t.columns_ = MakeTaps(data.width, t.width_);
  }
  t.table_.reserve(uint64_t{256} * t.channels_);
  for (uint32_t c = 0; c < t.channels_; ++c) {
    const auto mean = static_cast<float>(input.mean.at(c));
    const auto stddev = static_cast<float>(input.stddev.at(c));
    for (int p = 0; p < 256; ++p) {
      t.table_.push_back((static_cast<float>(p) / 255.0f - mean) / stddev);
    }
    t.mean_.push_back(mean);
    t.stddev_.push_back(stddev);
    t.scale_.push_back(1.0f / (255.0f * stddev));
    t.shift_.push_back(-mean / stddev);
  }
  return t;
}

Transform::Taps Transform::MakeTaps(uint32_t from, uint32_t to) {
  Taps taps;
  const double step = static_cast<double>(from) / to;
  for (uint32_t i = 0; i < to; ++i) {
    const double at = std::max(0.0, (i + 0.5) * step - 0.5);
    const auto low = std::min(static_cast<uint32_t>(at), from - 1);
    taps.low.push_back(low);
    taps.high.push_back(std::min(low + 1, from - 1));
    taps.weight.push_back(static_cast<float>(at - low));
  }
  return taps;
}

void Transform::WriteSignal(const Dataset& data, uint64_t example, float* to) const {
  const float* from = data.features.data() + example * data.example_values();
  const uint64_t plane = uint64_t{height_} * width_;
  for (uint32_t c = 0; c < channels_; ++c) {
    const float mean = mean_[c], stddev = stddev_[c];
    for (uint64_t i = 0; i < plane; ++i) *to++ = (*from++ - mean) / stddev;
  }
}

void Transform::Apply(const Dataset& data, uint64_t example, float* to) const {
  if (data.is_signals()) return WriteSignal(data, example, to);
  Write(data, example, {}, to);
}

void Transform::ApplyAugmented(const Dataset& data, uint64_t example, base::PrngKey key,
                               uint32_t pass, float* to) const {
  QFL_CHECK(pass < (1u << 16) && example < (uint64_t{1} << 32));
  key.purpose = base::PrngPurpose::kAugment;
  const auto words_of = [&](uint64_t p) { return base::PrngBlock(key, p << 32 | example); };
  const std::array<uint32_t, 4> words = words_of(pass);
  const uint64_t places = 2 * uint64_t{augment_.crop_padding} + 1;
  // The high half of word x places: one place is at most 2^-32 more likely than another.
  const auto place = [&](uint32_t word) {
    return static_cast<int64_t>(word * places >> 32) - augment_.crop_padding;
  };
  Draw draw;
  draw.row = place(words[0]);
  draw.column = place(words[1]);
  const bool is_second = pass % 2 != 0;
  const uint32_t first = is_second ? words_of(pass - 1)[2] : words[2];
  draw.flip = augment_.flip && ((first & 1) != 0) != is_second;
  Write(data, example, draw, to);
}

void Transform::Write(const Dataset& data, uint64_t example, const Draw& draw, float* to) const {
  const uint8_t* const pixels = data.pixels.data() + example * data.example_bytes();
  const uint64_t plane = uint64_t{data.height} * data.width;
  const int64_t width = width_;
  // The columns that the image fills; black ones are beside them.
  const int64_t begin = std::clamp<int64_t>(-draw.column, 0, width);
  const int64_t end = std::clamp<int64_t>(width - draw.column, 0, width);
  std::vector<float> between(resizes_ ? data.width : 0);
  for (uint32_t c = 0; c < channels_; ++c) {
    const uint8_t* const from = pixels + (data.channels == 1 ? 0 : c) * plane;
    const float* const table = table_.data() + uint64_t{256} * c;
    const float black = table[0], scale = scale_[c], shift = shift_[c];
    for (int64_t y = 0; y < height_; ++y, to += width) {
      const int64_t row = y + draw.row;
      if (row < 0 || row >= height_) {
        std::fill(to, to + width, black);
        continue;
      }
      std::fill(to, to + begin, black);
      std::fill(to + end, to + width, black);
      if (resizes_) {
        const uint8_t* const low = from + uint64_t{rows_.low[row]} * data.width;
        const uint8_t* const high = from + uint64_t{rows_.high[row]} * data.width;
        const float w = rows_.weight[row];
        for (uint32_t x = 0; x < data.width; ++x) {
          between[x] = (1 - w) * static_cast<float>(low[x]) + w * static_cast<float>(high[x]);
        }
        for (int64_t x = begin; x < end; ++x) {
          const int64_t column = x + draw.column;
          const float v = columns_.weight[column];
          to[x] = ((1 - v) * between[columns_.low[column]] + v * between[columns_.high[column]]) *
                      scale +
                  shift;
        }
      } else {
        const uint8_t* const source = from + row * width;
        for (int64_t x = begin; x < end; ++x) to[x] = table[source[x + draw.column]];
      }
      if (draw.flip) std::reverse(to, to + width);
    }
  }
}

}  // namespace quantfl::data
