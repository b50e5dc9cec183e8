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
#include "absl/strings/strip.h"
#include "common/base/status.h"
#include "common/learn/initialise.h"
#include "common/learn/networks.h"
#include "common/model/architectures.h"

namespace quantfl::learn {
namespace {

namespace F = torch::nn::functional;

constexpr uint32_t kBatchSizeMax = 65536;
constexpr uint32_t kLocalEpochsMax = 10000;
// LibTorch computes with these in float32.
constexpr double kRateMax = 1e38;
// Of an evaluation's batch, so that its activations stay in the cache's reach: so many examples,
// and so many positions of all examples together.
constexpr uint64_t kEvaluateExamplesMax = 128;
constexpr uint64_t kEvaluatePositionsMax = 1u << 18;

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
  TorchLearner(model::Schema schema, uint32_t classes, std::shared_ptr<Network> network)
      : schema_(std::move(schema)), classes_(classes), network_(std::move(network)) {}

  // Finds the schema's tensors in the network: each is there, and the network has no others.
  absl::Status Bind() {
    const auto parameters = network_->named_parameters();
    const auto buffers = network_->named_buffers();
    size_t counters = 0;  // batches that a normalisation saw: momentum is fixed, so nobody asks
    for (const auto& buffer : buffers) counters += buffer.value().scalar_type() == torch::kLong;
    bool same = parameters.size() + buffers.size() - counters == schema_.tensors().size();
    for (const model::TensorInfo& tensor : schema_.tensors()) {
      const torch::Tensor* found = parameters.find(tensor.name);
      const bool is_parameter = found != nullptr;
      if (!is_parameter) found = buffers.find(tensor.name);
      same = same && found != nullptr && found->is_contiguous() &&
             found->scalar_type() == torch::kFloat &&
             std::equal(tensor.shape.begin(), tensor.shape.end(), found->sizes().begin(),
                        found->sizes().end(),
                        [](uint64_t a, int64_t b) { return a == static_cast<uint64_t>(b); });
      if (!same) break;
      tensors_.push_back(*found);
      if (is_parameter) {
        const bool trained = tensor.policy != model::Policy::kSkip;
        // Without it, nothing before the first trained layer is differentiated.
        tensors_.back().set_requires_grad(trained);
        if (trained) trained_.push_back(*found);
      }
    }
    if (!same) {
      return absl::InternalError(absl::StrCat("the network ", schema_.architecture(),
                                              " has other parameters than its schema"));
    }
    const auto modules = network_->named_modules();
    for (const model::TensorInfo& tensor : schema_.tensors()) {
      absl::string_view module = tensor.name;
      if (tensor.policy == model::Policy::kSkip && (absl::ConsumeSuffix(&module, ".running_mean") ||
                                                    absl::ConsumeSuffix(&module, ".running_var"))) {
        frozen_.push_back(modules[std::string(module)]);
      }
    }
    return absl::OkStatus();
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
    if (trained_.empty()) {
      return absl::InvalidArgumentError(
          absl::StrCat("nothing to train: no parameter of this schema of ", schema_.architecture(),
                       " is in an update"));
    }
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

  absl::StatusOr<std::vector<float>> Logits(const std::vector<float>& flat,
                                            const data::Dataset& data,
                                            const federation::InputSpec& input) override {
    QFL_RETURN_IF_ERROR(CheckCall(flat, data, input));
    return CatchTorch("evaluating", [&]() -> absl::StatusOr<std::vector<float>> {
      std::vector<float> all;
      all.reserve(data.count() * classes_);
      QFL_RETURN_IF_ERROR(ForEachBatch(flat, data, input, nullptr, [&](const Batch& batch) {
        const torch::Tensor logits = network_->Forward(batch.images()).contiguous();
        const float* values = logits.data_ptr<float>();
        all.insert(all.end(), values, values + logits.numel());
      }));
      return all;
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
    QFL_RETURN_IF_ERROR(
        model::CheckInputShape(schema_.architecture(), {data.channels, data.height, data.width}));
    if (data.pixels.size() != data.count() * data.example_bytes()) {
      return absl::InvalidArgumentError(absl::StrCat(data.pixels.size(), " bytes of pixels for ",
                                                     data.count(), " examples of ",
                                                     data.example_bytes()));
    }
    return absl::OkStatus();
  }

  void SetTensors(const std::vector<float>& flat) {
    const float* from = flat.data();
    for (torch::Tensor& tensor : tensors_) {
      const auto n = static_cast<size_t>(tensor.numel());
      std::memcpy(tensor.data_ptr<float>(), from, n * sizeof(float));
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
    SetTensors(flat);
    network_->train();
    for (const std::shared_ptr<torch::nn::Module>& normalisation : frozen_) normalisation->eval();
    torch::optim::SGD optimiser(trained_, torch::optim::SGDOptions(training.learning_rate)
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
    for (const torch::Tensor& tensor : tensors_) {
      const float* values = tensor.data_ptr<float>();
      if (!std::all_of(values, values + tensor.numel(), [](float v) { return std::isfinite(v); })) {
        return Diverged(training);
      }
    }
    float* to = flat.data();
    for (const torch::Tensor& tensor : tensors_) {
      const auto n = static_cast<size_t>(tensor.numel());
      std::memcpy(to, tensor.data_ptr<float>(), n * sizeof(float));
      to += n;
    }
    return result;
  }

  static absl::Status Diverged(const federation::TrainingSpec& training) {
    return absl::DataLossError(
        absl::StrCat("training diverged: the loss is not finite with learning_rate ",
                     training.learning_rate, "; choose a smaller one"));
  }

  // Runs `body(batch)` on all of `data` in order, the network in evaluation, without gradients.
  template <typename Body>
  absl::Status ForEachBatch(const std::vector<float>& flat, const data::Dataset& data,
                            const federation::InputSpec& input, const Progress& progress,
                            Body body) {
    at::init_num_threads();
    SetTensors(flat);
    network_->eval();
    const torch::NoGradGuard no_grad;
    const uint64_t positions = uint64_t{data.height} * data.width;
    const uint64_t batch_size =
        std::min({kEvaluateExamplesMax, data.count(),
                  std::max<uint64_t>(kEvaluatePositionsMax / positions, 1)});
    Batch batch(data, input, batch_size);
    for (uint64_t begin = 0; begin < data.count(); begin += batch_size) {
      const uint64_t count = std::min(batch_size, data.count() - begin);
      batch.Fill(count, [&](uint64_t i) { return begin + i; });
      body(batch);
      if (progress && !progress(begin + count, data.count())) {
        return absl::CancelledError("evaluation was cancelled");
      }
    }
    return absl::OkStatus();
  }

  absl::StatusOr<EvaluateResult> EvaluateChecked(const std::vector<float>& flat,
                                                 const data::Dataset& data,
                                                 const federation::InputSpec& input,
                                                 const Progress& progress) {
    double loss_sum = 0;
    int64_t correct = 0;
    QFL_RETURN_IF_ERROR(ForEachBatch(flat, data, input, progress, [&](const Batch& batch) {
      const torch::Tensor logits = network_->Forward(batch.images());
      loss_sum += F::cross_entropy(logits, batch.labels(),
                                   F::CrossEntropyFuncOptions().reduction(torch::kSum))
                      .template item<double>();
      correct += logits.argmax(1).eq(batch.labels()).sum().template item<int64_t>();
    }));
    if (!std::isfinite(loss_sum)) {
      return absl::DataLossError("the model's loss is not finite: its weights are too large");
    }
    const auto n = static_cast<double>(data.count());
    return EvaluateResult{loss_sum / n, static_cast<double>(correct) / n, data.count()};
  }

  const model::Schema schema_;
  const uint32_t classes_;
  const std::shared_ptr<Network> network_;
  std::vector<torch::Tensor> tensors_;  // the schema's, in its order
  std::vector<torch::Tensor> trained_;  // the parameters among them that are in an update
  // Normalisations whose statistics are not in an update: they use those that they were given.
  std::vector<std::shared_ptr<torch::nn::Module>> frozen_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Learner>> Learner::Create(const std::string& architecture,
                                                         uint32_t classes) {
  QFL_ASSIGN_OR_RETURN(const model::Schema schema,
                       model::ArchitectureSchema(architecture, classes));
  return Create(schema, classes);
}

absl::StatusOr<std::unique_ptr<Learner>> Learner::Create(const model::Schema& schema,
                                                         uint32_t classes) {
  const std::string& architecture = schema.architecture();
  QFL_ASSIGN_OR_RETURN(const model::Schema built_in,
                       model::ArchitectureSchema(architecture, classes));
  if (!model::SameTensors(schema, built_in)) {
    return absl::InvalidArgumentError(
        absl::StrCat("the schema has other tensors than this program's ", architecture, " with ",
                     classes, " classes"));
  }
  return CatchTorch("building the network", [&]() -> absl::StatusOr<std::unique_ptr<Learner>> {
    std::shared_ptr<Network> network = MakeNetwork(architecture, classes);
    if (network == nullptr) {
      return absl::InternalError(absl::StrCat("no network is named ", architecture));
    }
    auto learner = std::make_unique<TorchLearner>(schema, classes, std::move(network));
    QFL_RETURN_IF_ERROR(learner->Bind());
    return learner;
  });
}

}  // namespace quantfl::learn
