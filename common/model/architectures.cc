#include "common/model/architectures.h"

#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "common/base/status.h"

namespace quantfl::model {
namespace {

using Shape = std::vector<uint64_t>;

struct NamedShape {
  std::string name;
  Shape shape;
};
using Tensors = std::vector<NamedShape>;

// A convolution or linear layer with its bias.
void AddLayer(Tensors& tensors, const std::string& name, Shape weight) {
  const uint64_t outputs = weight[0];
  tensors.push_back({name + ".weight", std::move(weight)});
  tensors.push_back({name + ".bias", {outputs}});
}

void AddBatchNorm(Tensors& tensors, const std::string& name, uint64_t channels) {
  for (const char* part : {".weight", ".bias", ".running_mean", ".running_var"}) {
    tensors.push_back({name + part, {channels}});
  }
}

// LeNet-5 as it is trained today: two 5x5 convolutions, each followed by ReLU and 2x2 max pooling,
// and three linear layers, for one channel of 28 x 28.
Tensors LeNet5(uint64_t classes) {
  Tensors t;
  AddLayer(t, "conv1", {6, 1, 5, 5});
  AddLayer(t, "conv2", {16, 6, 5, 5});
  AddLayer(t, "fc1", {120, 400});
  AddLayer(t, "fc2", {84, 120});
  AddLayer(t, "fc3", {classes, 84});
  return t;
}

// Two padded 5x5 convolutions, each followed by ReLU and 2x2 max pooling, and two linear layers.
Tensors Cnn(uint64_t classes) {
  Tensors t;
  AddLayer(t, "conv1", {32, 1, 5, 5});
  AddLayer(t, "conv2", {64, 32, 5, 5});
  AddLayer(t, "fc1", {512, 3136});
  AddLayer(t, "fc2", {classes, 512});
  return t;
}

// Three stages of `blocks` blocks of two 3x3 convolutions; shortcuts have no parameters.
Tensors ResNet(uint64_t blocks, uint64_t classes) {
  Tensors t;
  const auto add = [&](const std::string& prefix, const char* number, uint64_t in, uint64_t out) {
    t.push_back({absl::StrCat(prefix, "conv", number, ".weight"), {out, in, 3, 3}});
    AddBatchNorm(t, absl::StrCat(prefix, "bn", number), out);
  };
  add("", "1", 3, 16);
  uint64_t in = 16;
  for (uint64_t stage = 1; stage <= 3; ++stage) {
    const uint64_t out = uint64_t{8} << stage;
    for (uint64_t block = 0; block < blocks; ++block) {
      const std::string prefix = absl::StrCat("layer", stage, ".", block, ".");
      add(prefix, "1", in, out);
      add(prefix, "2", out, out);
      in = out;
    }
  }
  AddLayer(t, "linear", {classes, 64});
  return t;
}
Tensors ResNet20(uint64_t classes) { return ResNet(3, classes); }
Tensors ResNet56(uint64_t classes) { return ResNet(9, classes); }

// torchvision's names: `features` counts activations and poolings too.
Tensors SqueezeNet11(uint64_t classes) {
  struct Fire {
    const char* name;
    uint64_t in, squeeze, expand;
  };
  static constexpr Fire kFires[] = {{"3", 64, 16, 64},    {"4", 128, 16, 64},  {"6", 128, 32, 128},
                                    {"7", 256, 32, 128},  {"9", 256, 48, 192}, {"10", 384, 48, 192},
                                    {"11", 384, 64, 256}, {"12", 512, 64, 256}};
  Tensors t;
  AddLayer(t, "features.0", {64, 3, 3, 3});
  for (const Fire& fire : kFires) {
    const std::string prefix = absl::StrCat("features.", fire.name, ".");
    AddLayer(t, prefix + "squeeze", {fire.squeeze, fire.in, 1, 1});
    AddLayer(t, prefix + "expand1x1", {fire.expand, fire.squeeze, 1, 1});
    AddLayer(t, prefix + "expand3x3", {fire.expand, fire.squeeze, 3, 3});
  }
  AddLayer(t, "classifier.1", {classes, 512, 1, 1});
  return t;
}

// 52 convolutions in order of execution, conv00 to conv51, and the linear layer.
Tensors MobileNetV2(uint64_t classes) {
  Tensors t;
  const auto add = [&t](uint64_t out, uint64_t in, uint64_t kernel) {
    AddLayer(t, absl::StrFormat("conv%02d", t.size() / 2), {out, in, kernel, kernel});
  };
  add(32, 3, 3);
  uint64_t in = 32;
  for (const MobileNetStage& stage : kMobileNetV2Stages) {
    for (uint64_t block = 0; block < stage.blocks; ++block) {
      const uint64_t hidden = in * stage.expansion;
      if (stage.expansion != 1) add(hidden, in, 1);
      add(hidden, 1, 3);  // depthwise
      add(stage.channels, hidden, 1);
      in = stage.channels;
    }
  }
  add(1280, in, 1);
  AddLayer(t, "classifier.1", {classes, 1280});
  return t;
}

// Two padded convolutions along time, each followed by ReLU and max pooling by 2, and two linear
// layers, for signals of 9 channels of 128 samples.
Tensors HarCnn(uint64_t classes) {
  Tensors t;
  AddLayer(t, "conv1", {64, 9, 5});
  AddLayer(t, "conv2", {64, 64, 5});
  AddLayer(t, "fc1", {128, 2048});
  AddLayer(t, "fc2", {classes, 128});
  return t;
}

struct Architecture {
  const char* name;
  Shape input_shape;
  // Side lengths that the network takes; all others are those of input_shape where both are 0.
  uint64_t side_min, side_max;
  Tensors (*tensors)(uint64_t classes);
  Normalisation normalisation = {};
};

const std::vector<Architecture>& Table() {
  static const auto* const imagenet =
      new Normalisation{{0.485, 0.456, 0.406}, {0.229, 0.224, 0.225}};
  // UCI HAR's own signals, rounded: gravity is in total_acc_x.
  static const auto* const har = new Normalisation{
      {0, 0, 0, 0, 0, 0, 0.8, 0, 0}, {0.19, 0.12, 0.1, 0.4, 0.37, 0.25, 0.41, 0.4, 0.34}};
  static const auto* const table = new std::vector<Architecture>{
      {"cnn", {1, 28, 28}, 0, 0, Cnn},
      {"har_cnn", {9, 1, 128}, 0, 0, HarCnn, *har},
      {"lenet5", {1, 28, 28}, 0, 0, LeNet5},
      {"mobilenet_v2", {3, 224, 224}, 32, 1024, MobileNetV2, *imagenet},
      {"resnet20", {3, 32, 32}, 8, 256, ResNet20, *imagenet},
      {"resnet56", {3, 32, 32}, 8, 256, ResNet56, *imagenet},
      {"squeezenet1_1", {3, 224, 224}, 32, 1024, SqueezeNet11, *imagenet}};
  return *table;
}

absl::StatusOr<const Architecture*> Find(absl::string_view name) {
  for (const Architecture& a : Table()) {
    if (name == a.name) return &a;
  }
  return absl::InvalidArgumentError(absl::StrCat("unknown architecture \"", name, "\": there is ",
                                                 absl::StrJoin(ArchitectureNames(), ", ")));
}

}  // namespace

std::vector<std::string> ArchitectureNames() {
  std::vector<std::string> names;
  for (const Architecture& a : Table()) names.emplace_back(a.name);
  return names;
}

absl::StatusOr<std::vector<uint64_t>> ArchitectureInputShape(absl::string_view architecture) {
  QFL_ASSIGN_OR_RETURN(const Architecture* found, Find(architecture));
  return found->input_shape;
}

absl::Status CheckInputShape(absl::string_view architecture, const std::vector<uint64_t>& shape) {
  QFL_ASSIGN_OR_RETURN(const Architecture* found, Find(architecture));
  const std::vector<uint64_t>& native = found->input_shape;
  if (shape == native) return absl::OkStatus();
  const auto fits = [&](uint64_t side) {
    return side >= found->side_min && side <= found->side_max;
  };
  if (found->side_max != 0 && shape.size() == 3 && shape[0] == native[0] && fits(shape[1]) &&
      fits(shape[2])) {
    return absl::OkStatus();
  }
  const std::string sizes = found->side_max == 0
                                ? ""
                                : absl::StrCat(" or other heights and widths of ", found->side_min,
                                               " to ", found->side_max);
  return absl::InvalidArgumentError(
      absl::StrCat("examples of [", absl::StrJoin(shape, ", "), "], but ", architecture, " takes [",
                   absl::StrJoin(native, ", "), "]", sizes, " (channels, height, width)"));
}

Normalisation ArchitectureNormalisation(absl::string_view architecture) {
  const absl::StatusOr<const Architecture*> found = Find(architecture);
  return found.ok() ? (*found)->normalisation : Normalisation();
}

absl::StatusOr<Schema> ArchitectureSchema(absl::string_view architecture, uint32_t classes) {
  QFL_ASSIGN_OR_RETURN(const Architecture* found, Find(architecture));
  if (classes < kClassesMin || classes > kClassesMax) {
    return absl::InvalidArgumentError(
        absl::StrCat("classes is ", classes, ", not in ", kClassesMin, "..", kClassesMax));
  }
  std::vector<TensorInfo> tensors;
  for (NamedShape& t : found->tensors(classes)) {
    const Policy policy = DefaultPolicy(t.name);
    tensors.push_back({std::move(t.name), std::move(t.shape), policy});
  }
  return Schema::Create(std::string(architecture), std::move(tensors));
}

bool IsStatistic(absl::string_view tensor_name) {
  return absl::EndsWith(tensor_name, ".running_mean") ||
         absl::EndsWith(tensor_name, ".running_var");
}

Policy DefaultPolicy(absl::string_view tensor_name) {
  if (IsStatistic(tensor_name)) return Policy::kFp32;
  if (absl::EndsWith(tensor_name, ".num_batches_tracked")) return Policy::kSkip;
  return Policy::kQuantise;
}

}  // namespace quantfl::model
