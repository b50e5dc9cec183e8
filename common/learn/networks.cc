#include "common/learn/networks.h"

#include <algorithm>
#include <limits>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "common/model/architectures.h"

namespace quantfl::learn {
namespace {

using torch::Tensor;
using torch::nn::BatchNorm2d;
using torch::nn::Conv2d;
using torch::nn::Conv2dOptions;
using torch::nn::Linear;

using Convolution = std::shared_ptr<torch::nn::Conv2dImpl>;

Tensor Pooled(const Convolution& conv, const Tensor& x) {
  return torch::max_pool2d(torch::relu(conv->forward(x)), 2);
}
Tensor Averaged(const Tensor& x) { return x.mean({2, 3}); }

class LeNet5 : public Network {
 public:
  explicit LeNet5(int64_t classes) {
    const auto conv1 = register_module("conv1", Conv2d(Conv2dOptions(1, 6, 5).padding(2)));
    const auto conv2 = register_module("conv2", Conv2d(Conv2dOptions(6, 16, 5)));
    const auto fc1 = register_module("fc1", Linear(400, 120));
    const auto fc2 = register_module("fc2", Linear(120, 84));
    const auto fc3 = register_module("fc3", Linear(84, classes));
    AddStage({"conv1"}, [conv1](const Tensor& x) { return Pooled(conv1, x); });
    AddStage({"conv2"}, [conv2](const Tensor& x) { return Pooled(conv2, x).flatten(1); });
    AddStage({"fc1"}, [fc1](const Tensor& x) { return torch::relu(fc1->forward(x)); });
    AddStage({"fc2"}, [fc2](const Tensor& x) { return torch::relu(fc2->forward(x)); });
    AddStage({"fc3"}, [fc3](const Tensor& x) { return fc3->forward(x); });
  }
};

class Cnn : public Network {
 public:
  explicit Cnn(int64_t classes) {
    const auto conv1 = register_module("conv1", Conv2d(Conv2dOptions(1, 32, 5).padding(2)));
    const auto conv2 = register_module("conv2", Conv2d(Conv2dOptions(32, 64, 5).padding(2)));
    const auto fc1 = register_module("fc1", Linear(3136, 512));
    const auto fc2 = register_module("fc2", Linear(512, classes));
    AddStage({"conv1"}, [conv1](const Tensor& x) { return Pooled(conv1, x); });
    AddStage({"conv2"}, [conv2](const Tensor& x) { return Pooled(conv2, x).flatten(1); });
    AddStage({"fc1"}, [fc1](const Tensor& x) { return torch::relu(fc1->forward(x)); });
    AddStage({"fc2"}, [fc2](const Tensor& x) { return fc2->forward(x); });
  }
};

class HarCnn : public Network {
 public:
  explicit HarCnn(int64_t classes) {
    using torch::nn::Conv1d;
    using torch::nn::Conv1dOptions;
    const auto conv1 = register_module("conv1", Conv1d(Conv1dOptions(9, 64, 5).padding(2)));
    const auto conv2 = register_module("conv2", Conv1d(Conv1dOptions(64, 64, 5).padding(2)));
    const auto fc1 = register_module("fc1", Linear(2048, 128));
    const auto fc2 = register_module("fc2", Linear(128, classes));
    AddStage({"conv1"}, [conv1](const Tensor& x) {
      return torch::max_pool1d(torch::relu(conv1->forward(x.squeeze(2))), 2);
    });
    AddStage({"conv2"}, [conv2](const Tensor& x) {
      return torch::max_pool1d(torch::relu(conv2->forward(x)), 2).flatten(1);
    });
    AddStage({"fc1"}, [fc1](const Tensor& x) { return torch::relu(fc1->forward(x)); });
    AddStage({"fc2"}, [fc2](const Tensor& x) { return fc2->forward(x); });
  }
};

Conv2d Conv3x3(int64_t in, int64_t out, int64_t stride) {
  return Conv2d(Conv2dOptions(in, out, 3).stride(stride).padding(1).bias(false));
}

struct ResidualBlock : torch::nn::Module {
  ResidualBlock(int64_t in, int64_t out, int64_t stride)
      : conv1(register_module("conv1", Conv3x3(in, out, stride))),
        bn1(register_module("bn1", BatchNorm2d(out))),
        conv2(register_module("conv2", Conv3x3(out, out, 1))),
        bn2(register_module("bn2", BatchNorm2d(out))),
        stride_(stride),
        padding_((out - in) / 2) {}
  Tensor Forward(const Tensor& x) {
    const Tensor y = bn2(conv2(torch::relu(bn1(conv1(x)))));
    if (stride_ == 1) return torch::relu(x + y);
    // Option A: every other position, and zero channels on either side of those there are.
    constexpr int64_t kToTheEnd = std::numeric_limits<int64_t>::max();
    const Tensor positions = x.slice(2, 0, kToTheEnd, stride_).slice(3, 0, kToTheEnd, stride_);
    return torch::relu(torch::constant_pad_nd(positions, {0, 0, 0, 0, padding_, padding_}) + y);
  }

  Conv2d conv1;
  BatchNorm2d bn1;
  Conv2d conv2;
  BatchNorm2d bn2;

 private:
  const int64_t stride_, padding_;
};

class ResNet : public Network {
 public:
  ResNet(int64_t blocks, int64_t classes) {
    const auto conv1 = register_module("conv1", Conv3x3(3, 16, 1));
    const auto bn1 = register_module("bn1", BatchNorm2d(16));
    AddStage({"conv1", "bn1"}, [conv1, bn1](const Tensor& x) {
      return torch::relu(bn1->forward(conv1->forward(x)));
    });
    int64_t in = 16;
    for (int64_t stage = 1; stage <= 3; ++stage) {
      const int64_t out = int64_t{8} << stage;
      const std::string name = absl::StrCat("layer", stage);
      torch::nn::ModuleList layer;
      for (int64_t i = 0; i < blocks; ++i) {
        const int64_t stride = i == 0 && stage > 1 ? 2 : 1;
        const auto block = std::make_shared<ResidualBlock>(in, out, stride);
        layer->push_back(block);
        AddStage({absl::StrCat(name, ".", i)},
                 [block](const Tensor& x) { return block->Forward(x); });
        in = out;
      }
      register_module(name, layer);
    }
    AddStage({}, Averaged);
    const auto linear = register_module("linear", Linear(in, classes));
    AddStage({"linear"}, [linear](const Tensor& x) { return linear->forward(x); });
  }
};

struct Fire : torch::nn::Module {
  Fire(int64_t in, int64_t squeezed, int64_t expanded)
      : squeeze(register_module("squeeze", Conv2d(Conv2dOptions(in, squeezed, 1)))),
        expand1x1(register_module("expand1x1", Conv2d(Conv2dOptions(squeezed, expanded, 1)))),
        expand3x3(register_module("expand3x3",
                                  Conv2d(Conv2dOptions(squeezed, expanded, 3).padding(1)))) {}
  Tensor Forward(const Tensor& x) {
    const Tensor y = torch::relu(squeeze(x));
    return torch::cat({torch::relu(expand1x1(y)), torch::relu(expand3x3(y))}, 1);
  }

  Conv2d squeeze, expand1x1, expand3x3;
};

// Without torchvision's dropout, which would make training depend on a second random stream, and
// without its ReLU behind the last convolution, which would cut negative logits off.
class SqueezeNet11 : public Network {
 public:
  explicit SqueezeNet11(int64_t classes) {
    // A place in torchvision's `features`; those of activations and poolings stay empty modules.
    torch::nn::ModuleList features;
    const auto empty = [&features] { features->push_back(torch::nn::Identity()); };
    const auto pool = [&] {
      AddStage({}, [](const Tensor& x) { return torch::max_pool2d(x, 3, 2, 0, 1, true); });
      empty();
    };
    const auto fire = [&](int64_t in, int64_t squeezed, int64_t expanded) {
      const auto module = std::make_shared<Fire>(in, squeezed, expanded);
      AddStage({absl::StrCat("features.", features->size())},
               [module](const Tensor& x) { return module->Forward(x); });
      features->push_back(module);
    };
    const Convolution first = Conv2d(Conv2dOptions(3, 64, 3).stride(2)).ptr();
    features->push_back(first);
    AddStage({"features.0"}, [first](const Tensor& x) { return torch::relu(first->forward(x)); });
    empty();
    pool();
    fire(64, 16, 64);
    fire(128, 16, 64);
    pool();
    fire(128, 32, 128);
    fire(256, 32, 128);
    pool();
    fire(256, 48, 192);
    fire(384, 48, 192);
    fire(384, 64, 256);
    fire(512, 64, 256);
    register_module("features", features);
    torch::nn::ModuleList classifier;
    classifier->push_back(torch::nn::Identity());
    const Convolution last = Conv2d(Conv2dOptions(512, classes, 1)).ptr();
    classifier->push_back(last);
    register_module("classifier", classifier);
    AddStage({"classifier.1"}, [last](const Tensor& x) { return Averaged(last->forward(x)); });
  }
};

Tensor Relu6(const Tensor& x) { return torch::hardtanh(x, 0, 6); }

// Without torchvision's dropout, as above.
class MobileNetV2 : public Network {
 public:
  explicit MobileNetV2(int64_t classes) {
    AddConvolution(Conv2dOptions(3, 32, 3).stride(2).padding(1));
    int64_t in = 32;
    for (const model::MobileNetStage& stage : model::kMobileNetV2Stages) {
      for (uint64_t block = 0; block < stage.blocks; ++block) {
        const auto out = static_cast<int64_t>(stage.channels);
        AddBlock(in, out, static_cast<int64_t>(stage.expansion),
                 block == 0 ? static_cast<int64_t>(stage.stride) : 1);
        in = out;
      }
    }
    AddConvolution(Conv2dOptions(in, 1280, 1));
    AddStage({}, Averaged);
    torch::nn::ModuleList classifier;
    classifier->push_back(torch::nn::Identity());
    const std::shared_ptr<torch::nn::LinearImpl> last = Linear(1280, classes).ptr();
    classifier->push_back(last);
    register_module("classifier", classifier);
    AddStage({"classifier.1"}, [last](const Tensor& x) { return last->forward(x); });
  }

 private:
  Convolution Register(const Conv2dOptions& options, std::vector<std::string>& names) {
    names.push_back(absl::StrFormat("conv%02d", convolutions_++));
    return register_module(names.back(), Conv2d(options));
  }
  void AddConvolution(const Conv2dOptions& options) {
    std::vector<std::string> names;
    const Convolution conv = Register(options, names);
    AddStage(std::move(names), [conv](const Tensor& x) { return Relu6(conv->forward(x)); });
  }
  // Wider, over the positions one channel at a time, narrower; the input is added where it fits.
  void AddBlock(int64_t in, int64_t out, int64_t expansion, int64_t stride) {
    const int64_t hidden = in * expansion;
    std::vector<std::string> names;
    std::vector<Convolution> convolutions;
    const auto add = [&](const Conv2dOptions& options) {
      convolutions.push_back(Register(options, names));
    };
    if (expansion != 1) add(Conv2dOptions(in, hidden, 1));
    add(Conv2dOptions(hidden, hidden, 3).stride(stride).padding(1).groups(hidden));
    add(Conv2dOptions(hidden, out, 1));
    const bool residual = stride == 1 && in == out;
    AddStage(std::move(names), [convolutions, residual](const Tensor& x) {
      Tensor y = x;
      for (size_t i = 0; i + 1 < convolutions.size(); ++i) y = Relu6(convolutions[i]->forward(y));
      y = convolutions.back()->forward(y);
      return residual ? x + y : y;
    });
  }

  int convolutions_ = 0;
};

}  // namespace

absl::StatusOr<std::vector<BoundTensor>> Network::Bind(const model::Schema& schema) {
  const auto parameters = named_parameters();
  const auto buffers = named_buffers();
  size_t counters = 0;  // batches that a normalisation saw: momentum is fixed, so nobody asks
  for (const auto& buffer : buffers) counters += buffer.value().scalar_type() == torch::kLong;
  bool same = parameters.size() + buffers.size() - counters == schema.tensors().size();
  std::vector<BoundTensor> bound;
  for (const model::TensorInfo& tensor : schema.tensors()) {
    const Tensor* found = parameters.find(tensor.name);
    const bool is_parameter = found != nullptr;
    if (!is_parameter) found = buffers.find(tensor.name);
    same = same && found != nullptr && found->is_contiguous() &&
           found->scalar_type() == torch::kFloat &&
           std::equal(tensor.shape.begin(), tensor.shape.end(), found->sizes().begin(),
                      found->sizes().end(),
                      [](uint64_t a, int64_t b) { return a == static_cast<uint64_t>(b); });
    if (!same) break;
    bound.push_back({*found, is_parameter});
  }
  if (!same) {
    return absl::InternalError(absl::StrCat("the network ", schema.architecture(),
                                            " has other parameters than its schema"));
  }
  const auto modules = named_modules();
  for (const model::TensorInfo& tensor : schema.tensors()) {
    if (tensor.policy != model::Policy::kSkip || !model::IsStatistic(tensor.name)) continue;
    frozen_.push_back(modules[tensor.name.substr(0, tensor.name.rfind('.'))]);
  }
  return bound;
}

absl::Status Network::CheckInput(const std::string& architecture,
                                 const std::vector<uint64_t>& shape, uint32_t) {
  return model::CheckInputShape(architecture, shape);
}

void Network::SetTraining(bool training) {
  train(training);
  for (const std::shared_ptr<torch::nn::Module>& normalisation : frozen_) normalisation->eval();
}

std::shared_ptr<Network> MakeNetwork(const std::string& architecture, uint32_t classes) {
  if (architecture == "cnn") return std::make_shared<Cnn>(classes);
  if (architecture == "har_cnn") return std::make_shared<HarCnn>(classes);
  if (architecture == "lenet5") return std::make_shared<LeNet5>(classes);
  if (architecture == "mobilenet_v2") return std::make_shared<MobileNetV2>(classes);
  if (architecture == "resnet20") return std::make_shared<ResNet>(3, classes);
  if (architecture == "resnet56") return std::make_shared<ResNet>(9, classes);
  if (architecture == "squeezenet1_1") return std::make_shared<SqueezeNet11>(classes);
  return nullptr;
}

}  // namespace quantfl::learn
