#include "common/learn/prefix.h"

#include <algorithm>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"

namespace quantfl::learn {
namespace {

absl::string_view Bytes(const torch::Tensor& tensor) {
  return {static_cast<const char*>(tensor.data_ptr()), tensor.nbytes()};
}

}  // namespace

absl::StatusOr<FrozenPrefix> FrozenPrefix::Find(std::shared_ptr<const Network> network,
                                                const model::Schema& schema) {
  const std::vector<Stage>& stages = network->stages();
  // Of one stage nothing stands before anything.
  if (stages.size() == 1) return FrozenPrefix(std::move(network), 0, {});
  size_t frozen = stages.size();
  std::vector<size_t> stage_of(schema.tensors().size(), stages.size());
  for (size_t t = 0; t < schema.tensors().size(); ++t) {
    const model::TensorInfo& tensor = schema.tensors()[t];
    int found = 0;
    for (size_t s = 0; s < stages.size(); ++s) {
      for (const std::string& module : stages[s].modules) {
        if (!absl::StartsWith(tensor.name, absl::StrCat(module, "."))) continue;
        stage_of[t] = s;
        ++found;
      }
    }
    if (found != 1) {
      return absl::InternalError(
          absl::StrCat("tensor ", tensor.name, " is in ", found, " stages of its network"));
    }
    if (tensor.policy != model::Policy::kSkip) frozen = std::min(frozen, stage_of[t]);
  }
  std::vector<size_t> tensors;
  for (size_t t = 0; t < stage_of.size(); ++t) {
    if (stage_of[t] < frozen) tensors.push_back(t);
  }
  const size_t count = tensors.empty() ? 0 : frozen;  // before `tensors` is moved from
  return FrozenPrefix(std::move(network), count, std::move(tensors));
}

torch::Tensor FrozenPrefix::Run(const torch::Tensor& images) const {
  const torch::NoGradGuard no_grad;
  const int64_t count = images.size(0);
  torch::Tensor x = images;
  if (stages_ > 0 && count < kExamplesMin) {
    std::vector<int64_t> shape = images.sizes().vec();
    shape[0] = kExamplesMin - count;
    x = torch::cat({x, torch::zeros(shape)});
  }
  x = x.contiguous(network_->channels_last() ? torch::MemoryFormat::ChannelsLast
                                             : torch::MemoryFormat::Contiguous);
  x = network_->Forward(x, 0, stages_);
  return x.narrow(0, 0, count);
}

base::Digest FrozenPrefix::Digest(const model::Schema& schema,
                                  const std::vector<torch::Tensor>& tensors,
                                  const federation::InputSpec& input) const {
  base::Sha256Hasher hasher;
  hasher.Update(absl::StrCat("activations 3, LibTorch ", TORCH_VERSION, "\n", schema.architecture(),
                             " ", stages_, "\n"));
  hasher.Update(absl::StrCat("input ", federation::ToString(input.mean), " ",
                             federation::ToString(input.stddev), " ", input.channels, " ",
                             input.height, " ", input.width, "\n"));
  for (const size_t t : tensors_) {
    hasher.Update(absl::StrCat(schema.tensors()[t].name, "\n"));
    hasher.Update(Bytes(tensors[t]));
  }
  return std::move(hasher).Finish();
}

ActivationRows::ActivationRows(const torch::Tensor& activations, federation::CacheDtype type)
    : shape_(activations.sizes().slice(1).vec()),
      values_(activations.numel() / activations.size(0)),
      type_(type == federation::CacheDtype::kFp16 ? torch::kHalf : torch::kFloat),
      channels_last_(activations.suggest_memory_format() == torch::MemoryFormat::ChannelsLast) {}

uint64_t ActivationRows::bytes() const {
  return static_cast<uint64_t>(values_) * torch::elementSize(type_);
}

absl::StatusOr<torch::Tensor> ActivationRows::Pack(const torch::Tensor& activations) const {
  const torch::Tensor ordered = channels_last_ ? activations.permute({0, 2, 3, 1}) : activations;
  torch::Tensor packed = ordered.to(type_).contiguous();
  if (type_ == torch::kHalf && !torch::isfinite(packed).all().item<bool>()) {
    const double largest = activations.abs().max().item<double>();
    return absl::InvalidArgumentError(
        absl::StrCat("an activation of ", largest,
                     " is beyond fp16's 65504: training.cache_dtype = \"fp32\" holds it"));
  }
  return packed;
}

torch::Tensor ActivationRows::Unpack(const torch::Tensor& packed) const {
  const torch::Tensor values = packed.to(torch::kFloat);
  std::vector<int64_t> shape = {packed.size(0)};
  if (!channels_last_) {
    shape.insert(shape.end(), shape_.begin(), shape_.end());
    return values.view(shape);
  }
  shape.insert(shape.end(), {shape_[1], shape_[2], shape_[0]});
  return values.view(shape).permute({0, 3, 1, 2});
}

}  // namespace quantfl::learn
