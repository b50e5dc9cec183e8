#ifndef QUANTFL_COMMON_LEARN_BATCH_H_
#define QUANTFL_COMMON_LEARN_BATCH_H_

// Inside common/learn only: it includes torch.h.

#include <torch/torch.h>

#include <cstdint>

#include "common/base/prng.h"
#include "common/data/dataset.h"
#include "common/data/transform.h"

namespace quantfl::learn {

// Images and labels of a batch, in memory that is used again for the next one.
class Batch {
 public:
  Batch(const data::Dataset& data, const data::Transform& transform, uint64_t size)
      : data_(data),
        transform_(transform),
        images_(torch::empty({static_cast<int64_t>(size), transform.channels(), transform.height(),
                              transform.width()})),
        labels_(torch::empty({static_cast<int64_t>(size)}, torch::kLong)) {}

  // Takes the examples index(0) .. index(count - 1), count <= size.
  template <typename Index>
  void Fill(uint64_t count, Index index) {
    FillBy(count, index,
           [&](uint64_t example, float* to) { transform_.Apply(data_, example, to); });
  }
  // The same as training sees them in its pass number `pass` through the data.
  template <typename Index>
  void FillAugmented(uint64_t count, const base::PrngKey& key, uint32_t pass, Index index) {
    if (!transform_.augments()) return Fill(count, index);
    FillBy(count, index, [&](uint64_t example, float* to) {
      transform_.ApplyAugmented(data_, example, key, pass, to);
    });
  }
  // What write(i, to) writes, for i = 0 .. count - 1; the labels mean nothing.
  template <typename Write>
  void FillEach(uint64_t count, Write write) {
    float* to = images_.data_ptr<float>();
    for (uint64_t i = 0; i < count; ++i, to += transform_.values()) write(i, to);
    count_ = static_cast<int64_t>(count);
  }
  // Labels alone.
  template <typename Index>
  void FillLabels(uint64_t count, Index index) {
    int64_t* label = labels_.data_ptr<int64_t>();
    for (uint64_t i = 0; i < count; ++i) label[i] = data_.labels[index(i)];
    count_ = static_cast<int64_t>(count);
  }
  torch::Tensor images() const { return images_.narrow(0, 0, count_); }
  torch::Tensor labels() const { return labels_.narrow(0, 0, count_); }

 private:
  template <typename Index, typename Write>
  void FillBy(uint64_t count, Index index, Write write) {
    float* to = images_.data_ptr<float>();
    int64_t* label = labels_.data_ptr<int64_t>();
    for (uint64_t i = 0; i < count; ++i, to += transform_.values()) {
      const uint64_t example = index(i);
      write(example, to);
      *label++ = data_.labels[example];
    }
    count_ = static_cast<int64_t>(count);
  }

  const data::Dataset& data_;
  const data::Transform& transform_;
  torch::Tensor images_, labels_;
  int64_t count_ = 0;
};

}  // namespace quantfl::learn

#endif  // QUANTFL_COMMON_LEARN_BATCH_H_
