#include "common/learn/script.h"

#include <torch/csrc/jit/ir/constants.h>
#include <torch/csrc/jit/ir/ir.h>

#include <algorithm>
#include <cmath>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/base/status.h"
#include "common/learn/catch_torch.h"
#include "common/learn/script_network.h"
#include "common/model/architectures.h"

namespace quantfl::learn {
namespace {

constexpr size_t kFixedShown = 4;

// "features.1.running_mean" for what is read out of the module, else empty.
std::string PathOf(const torch::jit::Value* value) {
  std::string path;
  while (value->node()->kind() == c10::prim::GetAttr) {
    path = absl::StrCat(value->node()->s(c10::attr::name), path.empty() ? "" : ".", path);
    value = value->node()->input(0);
  }
  return path;
}

// The input of an operation by the name that the operation gives it.
const torch::jit::Value* Input(const torch::jit::Node& node, const char* name) {
  const c10::FunctionSchema* schema = node.maybeSchema();
  if (schema == nullptr) return nullptr;
  const auto index = schema->argumentIndexWithName(name);
  return index ? node.input(static_cast<size_t>(*index)) : nullptr;
}

struct Fixed {
  std::vector<std::string> operations;
  bool eval = false, train = false;
};

void FindFixed(const torch::jit::Block& block, Fixed& fixed) {
  for (const torch::jit::Node* node : block.nodes()) {
    for (const torch::jit::Block* inner : node->blocks()) FindFixed(*inner, fixed);
    for (const char* name : {"training", "train", "use_input_stats"}) {
      const torch::jit::Value* mode = Input(*node, name);
      if (mode == nullptr) continue;
      const auto constant = torch::jit::toIValue(mode);
      if (!constant || !constant->isBool()) continue;
      std::string what = node->kind().toUnqualString();
      if (const torch::jit::Value* mean = Input(*node, "running_mean"); mean != nullptr) {
        // Without running statistics, those of the batch are what is meant in either mode.
        const auto none = torch::jit::toIValue(mean);
        if (none && none->isNone()) continue;
        const std::string path = PathOf(mean);
        absl::StrAppend(&what, path.empty() ? "" : " ", path.substr(0, path.rfind('.')));
      }
      (constant->toBool() ? fixed.train : fixed.eval) = true;
      fixed.operations.push_back(std::move(what));
    }
  }
}

std::string Names(const std::vector<std::string>& all) {
  const size_t shown = std::min(all.size(), kFixedShown);
  std::string text = absl::StrJoin(all.begin(), all.begin() + shown, ", ");
  if (all.size() > shown) absl::StrAppend(&text, " and ", all.size() - shown, " more");
  return text;
}

// One batch forward and backward: whether a gradient reaches any parameter.
absl::Status TryTraining(ScriptNetwork& network, const std::vector<uint64_t>& shape) {
  network.Restart();
  network.SetTraining(true);
  network.BeginStep({}, 0);
  std::vector<int64_t> sizes = {2};
  sizes.insert(sizes.end(), shape.begin(), shape.end());
  const torch::Tensor answer = network.Forward(torch::ones(sizes));
  if (answer.requires_grad()) answer.sum().backward();
  const auto& all = network.trainable();
  if (std::any_of(all.begin(), all.end(), [](const ScriptNetwork::Trainable& t) {
        return t.is_parameter && t.value.grad().defined();
      })) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(
      "no gradient reaches a parameter of the TorchScript module: does it detach, or run under "
      "no_grad?");
}

}  // namespace

absl::StatusOr<ScriptSummary> InspectScript(absl::string_view file,
                                            const std::vector<uint64_t>& shape) {
  QFL_ASSIGN_OR_RETURN(const std::shared_ptr<ScriptNetwork> network, ScriptNetwork::Load(file));
  ScriptSummary summary;
  const auto look = [&]() -> absl::Status {
    bool trains = false;
    for (const ScriptNetwork::Trainable& tensor : network->trainable()) {
      trains = trains || tensor.is_parameter;
      const torch::Tensor values = tensor.value.detach().contiguous();
      const float* begin = values.data_ptr<float>();
      const float* end = begin + values.numel();
      if (!std::all_of(begin, end, [](float v) { return std::isfinite(v); })) {
        return absl::DataLossError(
            absl::StrCat("tensor ", tensor.name, " of the module has a value that is not finite"));
      }
      summary.flat.insert(summary.flat.end(), begin, end);
      summary.tensors.push_back({tensor.name,
                                 {values.sizes().begin(), values.sizes().end()},
                                 model::DefaultPolicy(tensor.name)});
    }
    if (!trains) {
      return absl::InvalidArgumentError(absl::StrCat(
          "the module has nothing to train: of its ", network->tensor_count(),
          " tensors none is a parameter that requires a gradient. torch.jit.freeze and quantising "
          "turn parameters into constants: save torch.jit.script(module) of the plain module"));
    }
    Fixed fixed;
    FindFixed(*network->Operations()->block(), fixed);
    summary.mode = fixed.eval && fixed.train ? ScriptMode::kMixed
                   : fixed.eval              ? ScriptMode::kEval
                   : fixed.train             ? ScriptMode::kTrain
                                             : ScriptMode::kFree;
    summary.fixed = Names(fixed.operations);
    QFL_ASSIGN_OR_RETURN(const uint64_t classes, network->Try(shape));
    if (classes < model::kClassesMin || classes > model::kClassesMax) {
      return absl::InvalidArgumentError(absl::StrCat("the module has ", classes, " classes, not ",
                                                     model::kClassesMin, " to ",
                                                     model::kClassesMax));
    }
    summary.classes = static_cast<uint32_t>(classes);
    return CatchTorch(
        "the module cannot be trained", [&] { return TryTraining(*network, shape); },
        absl::StatusCode::kInvalidArgument);
  };
  QFL_RETURN_IF_ERROR(CatchTorch("reading the module", look));
  return summary;
}

}  // namespace quantfl::learn
