#include "common/learn/learner.h"

#include <torch/torch.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <exception>
#include <new>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/base/status.h"
#include "common/learn/initialise.h"
#include "common/model/architectures.h"

namespace quantfl::learn {
namespace {

namespace F = torch::nn::functional;

constexpr uint32_t kBatchSizeMax = 65536;
constexpr uint32_t kLocalEpochsMax = 10000;
// LibTorch computes with these in float32.
constexpr double kRateMax = 1e38;
constexpr uint64_t kEvaluateBatch = 128;  // its activations stay in the cache's reach

struct Network : torch::nn::Module {
  //   x  float32[batch, channels, height, width]; returns float32[batch, classes]
  virtual torch::Tensor Forward(torch::Tensor x) = 0;
};

struct LeNet5 : Network {
  explicit LeNet5(int64_t classes) {
    conv1 =
        register_module("conv1", torch::nn::Conv2d(torch::nn::Conv2dOptions(1, 6, 5).padding(2)));
    conv2 = register_module("conv2", torch::nn::Conv2d(torch::nn::Conv2dOptions(6, 16, 5)));
    fc1 = register_module("fc1", torch::nn::Linear(400, 120));
    fc2 = register_module("fc2", torch::nn::Linear(120, 84));
    fc3 = register_module("fc3", torch::nn::Linear(84, classes));
  }
  torch::Tensor Forward(torch::Tensor x) override {
    x = torch::max_pool2d(torch::relu(conv1(x)), 2);
    x = torch::max_pool2d(torch::relu(conv2(x)), 2).flatten(1);
    return fc3(torch::relu(fc2(torch::relu(fc1(x)))));
  }

  torch::nn::Conv2d conv1{nullptr}, conv2{nullptr};
  torch::nn::Linear fc1{nullptr}, fc2{nullptr}, fc3{nullptr};
};

// The network of each name in model::ArchitectureNames().
std::shared_ptr<Network> MakeNetwork(const std::string& architecture, uint32_t classes) {
  if (architecture == "lenet5") return std::make_shared<LeNet5>(classes);
  return nullptr;
}

// Runs `body`, whose exceptions end here. LibTorch's messages go on with a backtrace after the
// first line.
template <typename Body>
auto CatchTorch(absl::string_view doing, Body body) -> decltype(body()) {
  const auto first_line = [](absl::string_view text) { return text.substr(0, text.find('\n')); };
  try {
    return body();
  } catch (const c10::Error& e) {
    return absl::InternalError(absl::StrCat(doing, ": ", first_line(e.what_without_backtrace())));
  } catch (const std::bad_alloc&) {
    return absl::ResourceExhaustedError(absl::StrCat(doing, ": out of memory"));
  } catch (const std::exception& e) {
    return absl::InternalError(absl::StrCat(doing, ": ", first_line(e.what())));
  }
}

absl::Status CheckInput(const federation::InputSpec& input) {
  if (std::isfinite(input.mean) && std::isfinite(input.stddev) && input.stddev > 0) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(absl::StrCat("input mean ", input.mean, " and stddev ",
                                                 input.stddev, " must be finite, stddev above 0"));
}

absl::Status CheckTraining(const federation::TrainingSpec& training) {
  if (!(training.learning_rate > 0 && training.learning_rate <= kRateMax)) {
    return absl::InvalidArgumentError(absl::StrCat("learning_rate ", training.learning_rate,
                                                   " must be above 0, at most ", kRateMax));
  }
  if (!(training.momentum >= 0 && training.momentum < 1)) {
    return absl::InvalidArgumentError(
        absl::StrCat("momentum ", training.momentum, " must be in [0, 1)"));
  }
  if (!(training.weight_decay >= 0 && training.weight_decay <= kRateMax)) {
    return absl::InvalidArgumentError(
        absl::StrCat("weight_decay ", training.weight_decay, " must be 0 to ", kRateMax));
  }
  if (training.batch_size < 1 || training.batch_size > kBatchSizeMax) {
    return absl::InvalidArgumentError(
        absl::StrCat("batch_size ", training.batch_size, " must be 1 to ", kBatchSizeMax));
  }
  if (training.local_epochs < 1 || training.local_epochs > kLocalEpochsMax) {
    return absl::InvalidArgumentError(
        absl::StrCat("local_epochs ", training.local_epochs, " must be 1 to ", kLocalEpochsMax));
  }
  return absl::OkStatus();
}

// Images and labels of a batch, in memory that is used again for the next one.
class Batch {
 public:
  Batch(const data::Dataset& data, const federation::InputSpec& input, uint64_t size)
      : data_(data),
        images_(torch::empty({static_cast<int64_t>(size), data.channels, data.height, data.width})),
        labels_(torch::empty({static_cast<int64_t>(size)}, torch::kLong)) {
    for (int p = 0; p < 256; ++p) {
      table_[p] = (static_cast<float>(p) / 255.0f - static_cast<float>(input.mean)) /
                  static_cast<float>(input.stddev);
    }
  }

  // Takes the examples index(0) .. index(count - 1), count <= size.
  template <typename Index>
  void Fill(uint64_t count, Index index) {
    float* to = images_.data_ptr<float>();
    int64_t* label = labels_.data_ptr<int64_t>();
    for (uint64_t i = 0; i < count; ++i) {
      const uint64_t example = index(i);
      for (uint8_t pixel : data_.example(example)) *to++ = table_[pixel];
      *label++ = data_.labels[example];
    }
    count_ = static_cast<int64_t>(count);
  }
  torch::Tensor images() const { return images_.narrow(0, 0, count_); }
  torch::Tensor labels() const { return labels_.narrow(0, 0, count_); }

 private:
  const data::Dataset& data_;
  std::array<float, 256> table_;
  torch::Tensor images_, labels_;
  int64_t count_ = 0;
};

class TorchLearner : public Learner {
 public:
  TorchLearner(model::Schema schema, std::vector<uint64_t> input_shape, uint32_t classes,
               std::shared_ptr<Network> network)
      : schema_(std::move(schema)),
        input_shape_(std::move(input_shape)),
        classes_(classes),
        network_(std::move(network)),
        parameters_(network_->parameters()) {}

  // Whether the network has the schema's parameters in its order.
  absl::Status CheckNetwork() const {
    const auto named = network_->named_parameters();
    bool same = named.size() == schema_.tensors().size();
    for (size_t i = 0; same && i < named.size(); ++i) {
      const model::TensorInfo& tensor = schema_.tensors()[i];
      same = named[i].key() == tensor.name && named[i].value().is_contiguous() &&
             std::equal(tensor.shape.begin(), tensor.shape.end(), named[i].value().sizes().begin(),
                        named[i].value().sizes().end(),
                        [](uint64_t a, int64_t b) { return a == static_cast<uint64_t>(b); });
    }
    if (same) return absl::OkStatus();
    return absl::InternalError(absl::StrCat("the network ", schema_.architecture(),
                                            " has other parameters than its schema"));
  }

  const model::Schema& schema() const override { return schema_; }
  std::vector<float> Initialise(base::PrngKey key) override {
    return learn::Initialise(schema_, key);
  }

  absl::StatusOr<TrainResult> Train(std::vector<float>& flat, const data::Dataset& data,
                                    absl::Span<const uint32_t> examples,
                                    const federation::InputSpec& input,
                                    const federation::TrainingSpec& training, base::PrngKey key,
                                    const Progress& progress) override {
    QFL_RETURN_IF_ERROR(CheckTraining(training));
    QFL_RETURN_IF_ERROR(CheckCall(flat, data, input));
    if (examples.empty()) return absl::InvalidArgumentError("no example to train on");
    for (uint32_t i : examples) {
      if (i >= data.count()) {
        return absl::InvalidArgumentError(
            absl::StrCat("example ", i, " of a data set of ", data.count()));
      }
      QFL_RETURN_IF_ERROR(CheckLabel(data, i));
    }
    return CatchTorch("training", [&]() -> absl::StatusOr<TrainResult> {
      return TrainChecked(flat, data, examples, input, training, key, progress);
    });
  }

  absl::StatusOr<EvaluateResult> Evaluate(const std::vector<float>& flat, const data::Dataset& data,
                                          const federation::InputSpec& input,
                                          const Progress& progress) override {
    QFL_RETURN_IF_ERROR(CheckCall(flat, data, input));
    if (data.count() == 0) return absl::InvalidArgumentError("no example to evaluate on");
    for (uint64_t i = 0; i < data.count(); ++i) QFL_RETURN_IF_ERROR(CheckLabel(data, i));
    return CatchTorch("evaluating", [&]() -> absl::StatusOr<EvaluateResult> {
      return EvaluateChecked(flat, data, input, progress);
    });
  }

 private:
  absl::Status CheckLabel(const data::Dataset& data, uint64_t example) const {
    if (data.labels[example] < classes_) return absl::OkStatus();
    return absl::InvalidArgumentError(absl::StrCat("example ", example, " has label ",
                                                   data.labels[example], ", but the network has ",
                                                   classes_, " classes"));
  }

  absl::Status CheckCall(const std::vector<float>& flat, const data::Dataset& data,
                         const federation::InputSpec& input) const {
    QFL_RETURN_IF_ERROR(CheckInput(input));
    if (flat.size() != schema_.size()) {
      return absl::InvalidArgumentError(absl::StrCat(
          flat.size(), " parameters, but ", schema_.architecture(), " has ", schema_.size()));
    }
    const std::vector<uint64_t> shape = {data.channels, data.height, data.width};
    if (shape != input_shape_ || data.pixels.size() != data.count() * data.example_bytes()) {
      return absl::InvalidArgumentError(absl::StrCat(
          "examples of [", absl::StrJoin(shape, ", "), "], but ", schema_.architecture(),
          " takes [", absl::StrJoin(input_shape_, ", "), "] (channels, height, width)"));
    }
    return absl::OkStatus();
  }

  void SetParameters(const std::vector<float>& flat) {
    const float* from = flat.data();
    for (torch::Tensor& parameter : parameters_) {
      const auto n = static_cast<size_t>(parameter.numel());
      std::memcpy(parameter.data_ptr<float>(), from, n * sizeof(float));
      from += n;
    }
  }

  absl::StatusOr<TrainResult> TrainChecked(std::vector<float>& flat, const data::Dataset& data,
                                           absl::Span<const uint32_t> examples,
                                           const federation::InputSpec& input,
                                           const federation::TrainingSpec& training,
                                           base::PrngKey key, const Progress& progress) {
    // OpenMP's thread count is each calling thread's own, whatever ConfigureProcess set in main.
    at::init_num_threads();
    SetParameters(flat);
    network_->train();
    torch::optim::SGD optimiser(parameters_, torch::optim::SGDOptions(training.learning_rate)
                                                 .momentum(training.momentum)
                                                 .weight_decay(training.weight_decay));
    const uint64_t batch_size = std::min<uint64_t>(training.batch_size, examples.size());
    Batch batch(data, input, batch_size);
    std::vector<uint32_t> order(examples.begin(), examples.end());
    base::Prng prng(key);
    const uint64_t total = order.size() * training.local_epochs;
    uint64_t done = 0;
    TrainResult result;
    result.examples = order.size();
    for (uint32_t epoch = 0; epoch < training.local_epochs; ++epoch) {
      prng.Shuffle(order);
      double loss_sum = 0;
      for (uint64_t begin = 0; begin < order.size(); begin += batch_size) {
        const uint64_t count = std::min(batch_size, order.size() - begin);
        batch.Fill(count, [&](uint64_t i) { return order[begin + i]; });
        optimiser.zero_grad();
        const torch::Tensor loss =
            F::cross_entropy(network_->Forward(batch.images()), batch.labels());
        loss.backward();
        optimiser.step();
        const double value = loss.item<double>();
        if (!std::isfinite(value)) return Diverged(training);
        loss_sum += value * static_cast<double>(count);
        done += count;
        if (progress && !progress(done, total))
          return absl::CancelledError("training was cancelled");
      }
      result.mean_loss = loss_sum / static_cast<double>(order.size());
    }
    // The last step may have diverged after its loss was computed.
    for (const torch::Tensor& parameter : parameters_) {
      const float* values = parameter.data_ptr<float>();
      if (!std::all_of(values, values + parameter.numel(),
                       [](float v) { return std::isfinite(v); })) {
        return Diverged(training);
      }
    }
    float* to = flat.data();
    for (const torch::Tensor& parameter : parameters_) {
      const auto n = static_cast<size_t>(parameter.numel());
      std::memcpy(to, parameter.data_ptr<float>(), n * sizeof(float));
      to += n;
    }
    return result;
  }

  static absl::Status Diverged(const federation::TrainingSpec& training) {
    return absl::DataLossError(
        absl::StrCat("training diverged: the loss is not finite with learning_rate ",
                     training.learning_rate, "; choose a smaller one"));
  }

  absl::StatusOr<EvaluateResult> EvaluateChecked(const std::vector<float>& flat,
                                                 const data::Dataset& data,
                                                 const federation::InputSpec& input,
                                                 const Progress& progress) {
    at::init_num_threads();
    SetParameters(flat);
    network_->eval();
    const torch::NoGradGuard no_grad;
    Batch batch(data, input, std::min(kEvaluateBatch, data.count()));
    double loss_sum = 0;
    int64_t correct = 0;
    for (uint64_t begin = 0; begin < data.count(); begin += kEvaluateBatch) {
      const uint64_t count = std::min(kEvaluateBatch, data.count() - begin);
      batch.Fill(count, [&](uint64_t i) { return begin + i; });
      const torch::Tensor logits = network_->Forward(batch.images());
      loss_sum += F::cross_entropy(logits, batch.labels(),
                                   F::CrossEntropyFuncOptions().reduction(torch::kSum))
                      .item<double>();
      correct += logits.argmax(1).eq(batch.labels()).sum().item<int64_t>();
      if (progress && !progress(begin + count, data.count())) {
        return absl::CancelledError("evaluation was cancelled");
      }
    }
    if (!std::isfinite(loss_sum)) {
      return absl::DataLossError("the model's loss is not finite: its weights are too large");
    }
    const auto n = static_cast<double>(data.count());
    return EvaluateResult{loss_sum / n, static_cast<double>(correct) / n, data.count()};
  }

  const model::Schema schema_;
  const std::vector<uint64_t> input_shape_;
  const uint32_t classes_;
  const std::shared_ptr<Network> network_;
  std::vector<torch::Tensor> parameters_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Learner>> Learner::Create(const std::string& architecture,
                                                         uint32_t classes) {
  QFL_ASSIGN_OR_RETURN(model::Schema schema, model::ArchitectureSchema(architecture, classes));
  QFL_ASSIGN_OR_RETURN(std::vector<uint64_t> input_shape,
                       model::ArchitectureInputShape(architecture));
  return CatchTorch("building the network", [&]() -> absl::StatusOr<std::unique_ptr<Learner>> {
    std::shared_ptr<Network> network = MakeNetwork(architecture, classes);
    if (network == nullptr) {
      return absl::InternalError(absl::StrCat("no network is named ", architecture));
    }
    auto learner = std::make_unique<TorchLearner>(std::move(schema), std::move(input_shape),
                                                  classes, std::move(network));
    QFL_RETURN_IF_ERROR(learner->CheckNetwork());
    return learner;
  });
}

}  // namespace quantfl::learn
