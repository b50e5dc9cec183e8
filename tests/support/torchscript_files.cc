#include "tests/support/torchscript_files.h"

#include <torch/script.h>

#include <cmath>
#include <limits>
#include <map>
#include <sstream>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"

namespace quantfl::testing {
namespace {

torch::Tensor Values(const ScriptTensor& tensor, size_t index) {
  int64_t count = 1;
  for (const int64_t n : tensor.shape) count *= n;
  const int64_t fan_in = tensor.shape.size() < 2 ? 4 : count / tensor.shape[0];
  const double scale = 1 / std::sqrt(static_cast<double>(fan_in));
  torch::Tensor values =
      torch::sin(torch::arange(count, torch::kFloat) * 0.7 + static_cast<double>(index)) * scale;
  if (absl::EndsWith(tensor.name, "running_var")) values = values * 0.1 + 1;
  if (tensor.values == ScriptTensor::kNan) values[0] = std::numeric_limits<float>::quiet_NaN();
  if (tensor.values == ScriptTensor::kHalfPrecision) values = values.to(torch::kHalf);
  return values.reshape(tensor.shape);
}

std::string SmallForward(const std::string& training) {
  return absl::StrReplaceAll(R"(
    x = torch.conv2d(x, self.conv.weight, self.conv.bias, [1, 1], [1, 1])
    x = torch.batch_norm(x, self.bn.weight, self.bn.bias, self.bn.running_mean, self.bn.running_var, MODEbn, 0.1, 1e-05, True)
    x = torch.dropout(torch.relu(x), 0.25, MODEself)
    x = torch.mean(x, [2, 3])
    return torch.linear(x, self.fc.weight, self.fc.bias)
)",
                             {{"MODEbn", training.empty() ? "self.bn.training" : training},
                              {"MODEself", training.empty() ? "self.training" : training}});
}

std::string Small(int64_t channels, int64_t classes, const std::string& training) {
  return TorchScriptFile({{"conv.weight", {8, channels, 3, 3}},
                          {"conv.bias", {8}},
                          {"bn.weight", {8}},
                          {"bn.bias", {8}},
                          {"bn.running_mean", {8}, ScriptTensor::kBuffer},
                          {"bn.running_var", {8}, ScriptTensor::kBuffer},
                          {"fc.weight", {classes, 8}},
                          {"fc.bias", {classes}}},
                         SmallForward(training));
}

}  // namespace

std::string TorchScriptFile(const std::vector<ScriptTensor>& tensors, const std::string& forward) {
  const auto unit = std::make_shared<torch::jit::CompilationUnit>();
  torch::jit::Module root("__torch__.Net", unit);
  root.register_attribute("training", c10::BoolType::get(), true);
  std::map<std::string, torch::jit::Module> modules;
  torch::Tensor first;
  for (size_t i = 0; i < tensors.size(); ++i) {
    const std::string& name = tensors[i].name;
    const size_t dot = name.find('.');
    torch::jit::Module owner = root;
    if (dot != std::string::npos) {
      const std::string child = name.substr(0, dot);
      const auto known = modules.find(child);
      if (known != modules.end()) {
        owner = known->second;
      } else {
        owner = torch::jit::Module(absl::StrCat("__torch__.Net_", child), unit);
        owner.register_attribute("training", c10::BoolType::get(), true);
        modules.emplace(child, owner);
        root.register_module(child, owner);
      }
    }
    torch::Tensor values =
        tensors[i].values == ScriptTensor::kSameAsFirst ? first : Values(tensors[i], i);
    if (i == 0) first = values;
    const std::string own = dot == std::string::npos ? name : name.substr(dot + 1);
    values.set_requires_grad(tensors[i].kind == ScriptTensor::kParameter);
    owner.register_parameter(own, values, tensors[i].kind == ScriptTensor::kBuffer);
  }
  root.define(absl::StrCat("def forward(self, x):\n", forward));
  std::ostringstream out;
  root.save(out);
  return out.str();
}

std::string SmallTorchScript(int64_t channels, int64_t classes) {
  return Small(channels, classes, "");
}

std::string SmallTraceInEvalMode(int64_t channels, int64_t classes) {
  return Small(channels, classes, "False");
}

}  // namespace quantfl::testing
