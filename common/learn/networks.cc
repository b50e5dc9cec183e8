#include "common/learn/networks.h"

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

struct LeNet5 : Network {
  explicit LeNet5(int64_t classes) {
    conv1 = register_module("conv1", Conv2d(Conv2dOptions(1, 6, 5).padding(2)));
    conv2 = register_module("conv2", Conv2d(Conv2dOptions(6, 16, 5)));
    fc1 = register_module("fc1", Linear(400, 120));
    fc2 = register_module("fc2", Linear(120, 84));
    fc3 = register_module("fc3", Linear(84, classes));
  }
  Tensor Forward(Tensor x) override {
    x = torch::max_pool2d(torch::relu(conv1(x)), 2);
    x = torch::max_pool2d(torch::relu(conv2(x)), 2).flatten(1);
    return fc3(torch::relu(fc2(torch::relu(fc1(x)))));
  }

  Conv2d conv1{nullptr}, conv2{nullptr};
  Linear fc1{nullptr}, fc2{nullptr}, fc3{nullptr};
};

struct Cnn : Network {
  explicit Cnn(int64_t classes) {
    conv1 = register_module("conv1", Conv2d(Conv2dOptions(1, 32, 5).padding(2)));
    conv2 = register_module("conv2", Conv2d(Conv2dOptions(32, 64, 5).padding(2)));
    fc1 = register_module("fc1", Linear(3136, 512));
    fc2 = register_module("fc2", Linear(512, classes));
  }
  Tensor Forward(Tensor x) override {
    x = torch::max_pool2d(torch::relu(conv1(x)), 2);
    x = torch::max_pool2d(torch::relu(conv2(x)), 2).flatten(1);
    return fc2(torch::relu(fc1(x)));
  }

  Conv2d conv1{nullptr}, conv2{nullptr};
  Linear fc1{nullptr}, fc2{nullptr};
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
    constexpr int64_t kEnd = std::numeric_limits<int64_t>::max();
    const Tensor positions = x.slice(2, 0, kEnd, stride_).slice(3, 0, kEnd, stride_);
    return torch::relu(torch::constant_pad_nd(positions, {0, 0, 0, 0, padding_, padding_}) + y);
  }

  Conv2d conv1;
  BatchNorm2d bn1;
  Conv2d conv2;
  BatchNorm2d bn2;

 private:
  const int64_t stride_, padding_;
};

struct ResNet : Network {
  ResNet(int64_t blocks, int64_t classes) {
    conv1 = register_module("conv1", Conv3x3(3, 16, 1));
    bn1 = register_module("bn1", BatchNorm2d(16));
    int64_t in = 16;
    for (int64_t stage = 1; stage <= 3; ++stage) {
      const int64_t out = int64_t{8} << stage;
      torch::nn::ModuleList layer;
      for (int64_t block = 0; block < blocks; ++block) {
        const int64_t stride = block == 0 && stage > 1 ? 2 : 1;
        residual_blocks.push_back(std::make_shared<ResidualBlock>(in, out, stride));
        layer->push_back(residual_blocks.back());
        in = out;
      }
      register_module(absl::StrCat("layer", stage), layer);
    }
    linear = register_module("linear", Linear(in, classes));
  }
  Tensor Forward(Tensor x) override {
    x = torch::relu(bn1(conv1(x)));
    for (const std::shared_ptr<ResidualBlock>& block : residual_blocks) x = block->Forward(x);
    return linear(x.mean({2, 3}));
  }

  Conv2d conv1{nullptr};
  BatchNorm2d bn1{nullptr};
  std::vector<std::shared_ptr<ResidualBlock>> residual_blocks;
  Linear linear{nullptr};
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
struct SqueezeNet11 : Network {
  explicit SqueezeNet11(int64_t classes) {
    // A place in torchvision's `features`; those of activations and poolings stay empty modules.
    torch::nn::ModuleList features;
    first = Conv2d(Conv2dOptions(3, 64, 3).stride(2));
    features->push_back(first);
    const auto empty = [&features] { features->push_back(torch::nn::Identity()); };
    const auto fire = [&](int64_t in, int64_t squeezed, int64_t expanded) {
      fires.push_back(std::make_shared<Fire>(in, squeezed, expanded));
      features->push_back(fires.back());
    };
    empty();
    empty();
    fire(64, 16, 64);
    fire(128, 16, 64);
    empty();
    fire(128, 32, 128);
    fire(256, 32, 128);
    empty();
    fire(256, 48, 192);
    fire(384, 48, 192);
    fire(384, 64, 256);
    fire(512, 64, 256);
    register_module("features", features);
    torch::nn::ModuleList classifier;
    classifier->push_back(torch::nn::Identity());
    last = Conv2d(Conv2dOptions(512, classes, 1));
    classifier->push_back(last);
    register_module("classifier", classifier);
  }
  Tensor Forward(Tensor x) override {
    const auto pool = [](const Tensor& y) { return torch::max_pool2d(y, 3, 2, 0, 1, true); };
    x = pool(torch::relu(first(x)));
    for (size_t i = 0; i < fires.size(); ++i) {
      if (i == 2 || i == 4) x = pool(x);
      x = fires[i]->Forward(x);
    }
    return last(x).mean({2, 3});
  }

  Conv2d first{nullptr}, last{nullptr};
  std::vector<std::shared_ptr<Fire>> fires;
};

Tensor Relu6(const Tensor& x) { return torch::hardtanh(x, 0, 6); }

// Without torchvision's dropout, as above.
struct MobileNetV2 : Network {
  explicit MobileNetV2(int64_t classes) {
    const auto add = [this](Conv2dOptions options) {
      const std::string name = absl::StrFormat("conv%02d", convolutions.size());
      convolutions.push_back(register_module(name, Conv2d(std::move(options))));
    };
    add(Conv2dOptions(3, 32, 3).stride(2).padding(1));
    int64_t in = 32;
    for (const model::MobileNetStage& stage : model::kMobileNetV2Stages) {
      const auto out = static_cast<int64_t>(stage.channels);
      for (uint64_t block = 0; block < stage.blocks; ++block) {
        const int64_t hidden = in * static_cast<int64_t>(stage.expansion);
        const int64_t stride = block == 0 ? static_cast<int64_t>(stage.stride) : 1;
        if (stage.expansion != 1) add(Conv2dOptions(in, hidden, 1));
        add(Conv2dOptions(hidden, hidden, 3).stride(stride).padding(1).groups(hidden));
        add(Conv2dOptions(hidden, out, 1));
        blocks.push_back({stage.expansion != 1, stride == 1 && in == out});
        in = out;
      }
    }
    add(Conv2dOptions(in, 1280, 1));
    torch::nn::ModuleList classifier;
    classifier->push_back(torch::nn::Identity());
    last = Linear(1280, classes);
    classifier->push_back(last);
    register_module("classifier", classifier);
  }
  Tensor Forward(Tensor x) override {
    auto next = convolutions.begin();
    x = Relu6((*next++)(x));
    for (const Block& block : blocks) {
      Tensor y = x;
      if (block.expands) y = Relu6((*next++)(y));
      y = Relu6((*next++)(y));
      y = (*next++)(y);
      x = block.residual ? x + y : y;
    }
    x = Relu6((*next)(x));
    return last(x.mean({2, 3}));
  }

  struct Block {
    bool expands, residual;
  };
  std::vector<Conv2d> convolutions;
  std::vector<Block> blocks;
  Linear last{nullptr};
};

}  // namespace

std::shared_ptr<Network> MakeNetwork(const std::string& architecture, uint32_t classes) {
  if (architecture == "cnn") return std::make_shared<Cnn>(classes);
  if (architecture == "lenet5") return std::make_shared<LeNet5>(classes);
  if (architecture == "mobilenet_v2") return std::make_shared<MobileNetV2>(classes);
  if (architecture == "resnet20") return std::make_shared<ResNet>(3, classes);
  if (architecture == "resnet56") return std::make_shared<ResNet>(9, classes);
  if (architecture == "squeezenet1_1") return std::make_shared<SqueezeNet11>(classes);
  return nullptr;
}

}  // namespace quantfl::learn
