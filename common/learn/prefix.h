#ifndef QUANTFL_COMMON_LEARN_PREFIX_H_
#define QUANTFL_COMMON_LEARN_PREFIX_H_

// What stands before the first trained layer: it computes the same in every epoch of every round,
// so its activations can be kept. Inside common/learn only: it includes torch.h.

#include <torch/torch.h>
#include <torch/version.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "common/base/digest.h"
#include "common/federation/types.h"
#include "common/learn/activation_cache.h"
#include "common/learn/networks.h"
#include "common/model/schema.h"

namespace quantfl::learn {

// The stages of a network before the first one with a tensor that the schema does not skip.
class FrozenPrefix {
 public:
  // INTERNAL: a tensor of the schema is in no stage, or in two.
  static absl::StatusOr<FrozenPrefix> Find(std::shared_ptr<const Network> network,
                                           const model::Schema& schema);

  // LibTorch takes other convolutions for smaller batches, with other roundings, so smaller ones
  // are filled up to this.
  static constexpr int64_t kExamplesMin = 16;

  size_t stages() const { return stages_; }  // 0: there is no prefix

  // What the stages make of images, without gradients; the images themselves where there is none,
  // with the channels of a position side by side. An example's values do not depend on the batch
  // that it is in, but for the last bits of linear stages with some of OpenBLAS's kernels (AVX2).
  torch::Tensor Run(const torch::Tensor& images) const;

  // Of everything that the activations of an example depend on.
  //   tensors  the schema's, with their values
  base::Digest Digest(const model::Schema& schema, const std::vector<torch::Tensor>& tensors,
                      const federation::InputSpec& input) const;

 private:
  FrozenPrefix(std::shared_ptr<const Network> network, size_t stages, std::vector<size_t> tensors)
      : network_(std::move(network)), stages_(stages), tensors_(std::move(tensors)) {}
  std::shared_ptr<const Network> network_;
  size_t stages_;
  std::vector<size_t> tensors_;  // the schema's that are in it
};

// How a prefix's activations stand in the rows of a cache.
class ActivationRows {
 public:
  //   activations  float32[any, ...] of the prefix: its shape
  ActivationRows(const torch::Tensor& activations, federation::CacheDtype type);
  uint64_t bytes() const;  // of a row

  // The rows of `activations`. INVALID_ARGUMENT: fp16 cannot hold a value.
  absl::StatusOr<torch::Tensor> Pack(const torch::Tensor& activations) const;
  // What was packed, for rows row(0) .. row(count - 1); fp16 as float32. Errors of Activations.
  template <typename Row>
  absl::StatusOr<torch::Tensor> Read(const Activations& cached, int64_t count, Row row) const {
    torch::Tensor packed = torch::empty({count, values_}, type_);
    char* to = static_cast<char*>(packed.data_ptr());
    for (int64_t i = 0; i < count; ++i, to += bytes()) {
      const absl::Status read = cached.Read(row(static_cast<uint64_t>(i)), to);
      if (!read.ok()) return read;
    }
    return Unpack(packed);
  }

 private:
  torch::Tensor Unpack(const torch::Tensor& packed) const;

  std::vector<int64_t> shape_;  // of an example
  int64_t values_;
  torch::ScalarType type_;
  bool channels_last_;
};

}  // namespace quantfl::learn

#endif  // QUANTFL_COMMON_LEARN_PREFIX_H_
