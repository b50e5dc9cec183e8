#include "common/learn/script_network.h"

#include <ATen/CPUGeneratorImpl.h>
#include <torch/csrc/jit/ir/ir.h>
#include <torch/csrc/jit/passes/inliner.h>
#include <torch/csrc/jit/runtime/graph_executor.h>

#include <algorithm>
#include <map>
#include <mutex>
#include <sstream>
#include <stdexcept>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/base/digest.h"
#include "common/base/mutex.h"
#include "common/base/status.h"
#include "common/learn/catch_torch.h"
#include "common/model/architectures.h"

namespace quantfl::learn {
namespace {

using torch::Tensor;

// ATen draws from one generator a process: who seeds it keeps it until its numbers are drawn.
base::Mutex& GeneratorMutex() {
  static auto* const mutex = new base::Mutex;
  return *mutex;
}

bool Draws(const torch::jit::Block& block) {
  for (const torch::jit::Node* node : block.nodes()) {
    const absl::string_view kind = node->kind().toUnqualString();
    for (const absl::string_view part :
         {"dropout", "bernoulli", "rand", "normal_", "multinomial", "uniform", "exponential",
          "poisson", "rrelu", "binomial", "cauchy", "geometric"}) {
      if (absl::StrContains(kind, part)) return true;
    }
    if (kind == "normal") return true;
    for (const torch::jit::Block* inner : node->blocks()) {
      if (Draws(*inner)) return true;
    }
  }
  return false;
}

std::string ShapeText(absl::Span<const uint64_t> shape) {
  return absl::StrCat("[", absl::StrJoin(shape, ", "), "]");
}

std::vector<uint64_t> ShapeOf(const Tensor& tensor) {
  return {tensor.sizes().begin(), tensor.sizes().end()};
}

}  // namespace

ScriptNetwork::ScriptNetwork(const torch::jit::Module& module) : module_(module) {
  Collect(module_, "");
  draws_ = Draws(*Operations()->block());
  AddStage({}, [this](const Tensor& x) { return Run(x); });
}

absl::StatusOr<std::shared_ptr<ScriptNetwork>> ScriptNetwork::Load(absl::string_view file) {
  absl::StatusOr<std::shared_ptr<ScriptNetwork>> network = CatchTorch(
      "not a TorchScript file, as torch.jit.script(module).save(path) writes one",
      [&]() -> absl::StatusOr<std::shared_ptr<ScriptNetwork>> {
        std::istringstream stream{std::string(file)};
        const torch::jit::Module module = torch::jit::load(stream, torch::kCPU);
        if (!module.find_method("forward")) {
          return absl::DataLossError("the TorchScript module has no method forward");
        }
        return std::shared_ptr<ScriptNetwork>(new ScriptNetwork(module));
      },
      absl::StatusCode::kDataLoss);
  if (!network.ok()) return network;
  for (const Trainable& tensor : (*network)->trainable_) {
    if (tensor.value.scalar_type() == torch::kFloat) continue;
    return absl::InvalidArgumentError(absl::StrCat(
        "tensor ", tensor.name, " of the TorchScript module is ",
        c10::toString(tensor.value.scalar_type()), ": a run trains float32; save module.float()"));
  }
  return network;
}

void ScriptNetwork::Collect(const torch::jit::Module& module, const std::string& prefix) {
  const auto type = module.type();
  for (size_t i = 0; i < type->numAttributes(); ++i) {
    const c10::IValue value = module._ivalue()->getSlot(i);
    if (!value.isTensor() || !value.toTensor().defined()) continue;
    const Tensor& tensor = value.toTensor();
    ++tensor_count_;
    const std::string name = prefix + type->getAttributeName(i);
    const bool parameter = type->is_parameter(i);
    const bool statistic = !parameter && model::IsStatistic(name) && tensor.is_floating_point();
    if (!statistic && !(parameter && tensor.requires_grad())) {
      // A parameter is not changed by running it.
      if (!parameter) others_.emplace_back(tensor, tensor.detach().clone());
      continue;
    }
    // What has two names (tied weights) is one tensor, of the first name: files keep the memory
    // that is shared, but make two tensors of it.
    const auto known = std::find_if(trainable_.begin(), trainable_.end(), [&](const Trainable& t) {
      return t.value.data_ptr() == tensor.data_ptr() && t.value.sizes() == tensor.sizes() &&
             t.value.strides() == tensor.strides();
    });
    if (known == trainable_.end()) {
      trainable_.push_back({name, tensor, parameter, module});
    } else {
      module._ivalue()->setSlot(i, known->value);
    }
  }
  for (const auto& child : module.named_children()) {
    Collect(child.value, absl::StrCat(prefix, child.name, "."));
  }
}

std::shared_ptr<torch::jit::Graph> ScriptNetwork::Operations() const {
  std::shared_ptr<torch::jit::Graph> graph = module_.get_method("forward").graph()->copy();
  torch::jit::Inline(*graph);
  return graph;
}

Tensor ScriptNetwork::Run(const Tensor& x) {
  const torch::jit::GraphOptimizerEnabledGuard as_written(false);
  const auto forward = [&] {
    const c10::IValue answer = module_.forward({x.contiguous()});
    if (!answer.isTensor()) {
      throw std::invalid_argument(absl::StrCat(
          "forward returns ", answer.tagKind(),
          " instead of a tensor: wrap the module so that it returns the logits alone"));
    }
    return answer.toTensor();
  };
  if (!draws_ || !training_) return forward();
  const base::MutexLock lock(GeneratorMutex());
  {
    at::Generator generator = at::detail::getDefaultCPUGenerator();
    const std::lock_guard<std::mutex> of_the_generator(generator.mutex());
    generator.set_current_seed(seed_);
  }
  return forward();
}

absl::StatusOr<uint64_t> ScriptNetwork::Try(const std::vector<uint64_t>& shape) {
  if (tried_ == shape) return tried_classes_;
  return CatchTorch(
      absl::StrCat("the TorchScript module cannot take examples of ", ShapeText(shape),
                   " (channels, height, width)"),
      [&]() -> absl::StatusOr<uint64_t> {
        Restart();
        SetTraining(false);
        const torch::NoGradGuard no_grad;
        // Two sizes: a trace may have the size of its batch in it.
        for (const int64_t count : {3, 2}) {
          std::vector<int64_t> sizes = {count};
          sizes.insert(sizes.end(), shape.begin(), shape.end());
          const Tensor answer = Run(torch::zeros(sizes));
          if (answer.dim() != 2 || answer.size(0) != count || answer.size(1) < 1 ||
              answer.scalar_type() != torch::kFloat) {
            return absl::InvalidArgumentError(absl::StrCat(
                "the TorchScript module answers ", count, " examples of ", ShapeText(shape),
                " with ", c10::toString(answer.scalar_type()), " ", ShapeText(ShapeOf(answer)),
                ", not with a float32 for each example and class, [", count, ", classes]"));
          }
          tried_classes_ = static_cast<uint64_t>(answer.size(1));
        }
        tried_ = shape;
        return tried_classes_;
      },
      absl::StatusCode::kInvalidArgument);
}

absl::Status ScriptNetwork::CheckInput(const std::string&, const std::vector<uint64_t>& shape,
                                       uint32_t classes) {
  QFL_ASSIGN_OR_RETURN(const uint64_t there, Try(shape));
  if (there == classes) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("the TorchScript module has ", there, " classes, the run ", classes));
}

absl::StatusOr<std::vector<BoundTensor>> ScriptNetwork::Bind(const model::Schema& schema) {
  const auto refuse = [](absl::string_view what) {
    return absl::InvalidArgumentError(
        absl::StrCat("the run's schema is not of this TorchScript file: ", what));
  };
  if (schema.tensors().size() != trainable_.size()) {
    return refuse(absl::StrCat("it has ", schema.tensors().size(), " tensors, the module ",
                               trainable_.size(), " that can be trained"));
  }
  std::vector<BoundTensor> bound;
  for (size_t i = 0; i < trainable_.size(); ++i) {
    const model::TensorInfo& wanted = schema.tensors()[i];
    const Trainable& own = trainable_[i];
    const std::vector<uint64_t> shape = ShapeOf(own.value);
    if (wanted.shape != shape) {
      return refuse(absl::StrCat("tensor ", i, " is ", wanted.name, " ", ShapeText(wanted.shape),
                                 ", the module's is ", own.name, " ", ShapeText(shape)));
    }
    if (model::IsStatistic(wanted.name) == own.is_parameter) {
      return refuse(absl::StrCat("tensor ", i, " is ", wanted.name, ", the module's is ", own.name,
                                 ": one is a running statistic, the other a parameter"));
    }
    bound.push_back({own.value, own.is_parameter});
    if (!own.is_parameter && wanted.policy == model::Policy::kSkip) {
      normalisations_.push_back(own.owner);
    }
  }
  // Names are free, but not to be mixed up.
  std::map<absl::string_view, size_t> places;
  for (size_t i = 0; i < trainable_.size(); ++i) places[trainable_[i].name] = i;
  for (size_t i = 0; i < trainable_.size(); ++i) {
    const auto place = places.find(schema.tensors()[i].name);
    if (place == places.end() || place->second == i) continue;
    return refuse(absl::StrCat("tensor ", i, " is ", place->first,
                               ", which is the module's tensor ", place->second));
  }
  return bound;
}

void ScriptNetwork::SetTraining(bool training) {
  training_ = training;
  module_.train(training);
  for (torch::jit::Module& normalisation : normalisations_) normalisation.train(false);
}

void ScriptNetwork::Restart() {
  const torch::NoGradGuard no_grad;
  for (auto& [now, at_first] : others_) now.copy_(at_first);
}

void ScriptNetwork::BeginStep(const base::PrngKey& key, uint64_t step) {
  const base::Digest digest = base::Sha256(
      absl::StrCat("dropout ", key.run_seed, " ", key.round, " ", key.client_index, " ", step));
  seed_ = 0;
  for (int i = 0; i < 8; ++i) seed_ |= uint64_t{digest.bytes[i]} << (8 * i);
}

}  // namespace quantfl::learn
