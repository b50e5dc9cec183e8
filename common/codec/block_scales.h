#ifndef QUANTFL_COMMON_CODEC_BLOCK_SCALES_H_
#define QUANTFL_COMMON_CODEC_BLOCK_SCALES_H_

// The scales of tensors whose blocks are written before their largest value is known, so that
// values are read once. A scale is a power of two, so what is in units of the largest value so far
// becomes what is in units of the largest one by a change of exponents alone: the same bytes as if
// it had been known, unless a number is then a denormal of fp16.

#include <cstddef>
#include <cstdint>
#include <vector>

namespace quantfl::codec {

class BlockScales {
 public:
  explicit BlockScales(size_t tensor_count) : tensors_(tensor_count) {}

  // The scale of side information that is written to side[0, bytes) next.
  //   largest  magnitude of its values
  float ForNext(uint32_t tensor, float largest, char* side, uint64_t bytes);

  // Brings what was written into units of its tensor's scale. False if that cannot be had by
  // exponents alone: then all is to be written again, with the scales that are known now.
  bool Unify();

  float scale(uint32_t tensor) const { return tensors_[tensor].scale(); }

 private:
  struct Run {  // fp16 numbers of one scale
    char* side;
    uint64_t bytes;
    float scale;
  };
  struct Tensor {
    float known = 0;  // 0 before the first value that is not 0
    std::vector<Run> runs;
    float scale() const { return known == 0 ? 1.0f : known; }
  };

  std::vector<Tensor> tensors_;
};

}  // namespace quantfl::codec

#endif  // QUANTFL_COMMON_CODEC_BLOCK_SCALES_H_
