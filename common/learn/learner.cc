#include "common/learn/learner.h"

#include <torch/torch.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "common/data/transform.h"
#include "common/learn/batch.h"
#include "common/learn/catch_torch.h"
#include "common/learn/check_training.h"
#include "common/learn/initialise.h"
#include "common/learn/networks.h"
#include "common/learn/prefix.h"
#include "common/learn/script_network.h"
#include "common/model/architectures.h"
#include "common/model/torchscript.h"

namespace quantfl::learn {
namespace {

namespace F = torch::nn::functional;

// Of an evaluation's batch, so that its activations stay in the cache's reach: so many examples,
// and so many positions of all examples together.
constexpr uint64_t kEvaluateExamplesMin = FrozenPrefix::kExamplesMin;
constexpr uint64_t kEvaluateExamplesMax = 128;
constexpr uint64_t kEvaluatePositionsMax = 1u << 18;

// What a call is to work on.
struct Examples {
  const data::Dataset& data;
  absl::Span<const uint32_t> indices;
  const federation::InputSpec& input;
  const data::Transform& transform;  // of `input`
};

class TorchLearner : public Learner {
 public:
  TorchLearner(model::Schema schema, uint32_t classes, std::shared_ptr<Network> network)
      : schema_(std::move(schema)), classes_(classes), network_(std::move(network)) {}

  absl::Status Bind() {
    QFL_ASSIGN_OR_RETURN(const std::vector<BoundTensor> bound, network_->Bind(schema_));
    for (size_t i = 0; i < bound.size(); ++i) {
      tensors_.push_back(bound[i].value);
      if (!bound[i].is_parameter) continue;
      const bool trained = schema_.tensors()[i].policy != model::Policy::kSkip;
      // Without it, nothing before the first trained layer is differentiated.
      tensors_.back().set_requires_grad(trained);
      if (trained) trained_.push_back(tensors_.back());
    }
    // Convolutions are up to twice as fast with the channels of a position side by side.
    for (torch::Tensor& tensor : tensors_) {
      if (tensor.dim() != 4 || !network_->channels_last()) continue;
      tensor.set_data(
          tensor.detach().to(tensor.options(), false, false, torch::MemoryFormat::ChannelsLast));
    }
    QFL_ASSIGN_OR_RETURN(prefix_, FrozenPrefix::Find(network_, schema_));
    return absl::OkStatus();
  }

  void UseCache(ActivationCache* cache, const base::Digest& data) override {
    cache_ = cache;
    cached_data_ = data;
  }
  const model::Schema& schema() const override { return schema_; }
  std::vector<float> Initialise(base::PrngKey key) override {
    return learn::Initialise(schema_, key);
  }
  absl::Status CheckInput(const std::vector<uint64_t>& shape) const override {
    return network_->CheckInput(schema_.architecture(), shape, classes_);
  }

  absl::StatusOr<TrainResult> Train(std::vector<float>& flat, const data::Dataset& data,
                                    absl::Span<const uint32_t> examples,
                                    const federation::InputSpec& input,
                                    const federation::TrainingSpec& training, base::PrngKey key,
                                    const Progress& progress) override {
    QFL_RETURN_IF_ERROR(CheckTraining(training));
    QFL_ASSIGN_OR_RETURN(const data::Transform transform, CheckCall(flat, data, input));
    if (trained_.empty()) {
      return absl::InvalidArgumentError(
          absl::StrCat("nothing to train: no parameter of this schema of ", schema_.architecture(),
                       " is in an update"));
    }
    if (examples.empty()) return absl::InvalidArgumentError("no example to train on");
    QFL_RETURN_IF_ERROR(CheckExamples(data, examples));
    return CatchTorch("training", [&]() -> absl::StatusOr<TrainResult> {
      return TrainChecked(flat, {data, examples, input, transform}, training, key, progress);
    });
  }

  absl::StatusOr<EvaluateResult> Evaluate(const std::vector<float>& flat, const data::Dataset& data,
                                          absl::Span<const uint32_t> examples,
                                          const federation::InputSpec& input,
                                          const Progress& progress) override {
    QFL_ASSIGN_OR_RETURN(const data::Transform transform, CheckCall(flat, data, input));
    if (examples.empty()) return absl::InvalidArgumentError("no example to evaluate on");
    QFL_RETURN_IF_ERROR(CheckExamples(data, examples));
    return CatchTorch("evaluating", [&]() -> absl::StatusOr<EvaluateResult> {
      return EvaluateChecked(flat, {data, examples, input, transform}, progress);
    });
  }

  absl::StatusOr<std::vector<float>> Logits(const std::vector<float>& flat,
                                            const data::Dataset& data,
                                            const federation::InputSpec& input) override {
    QFL_ASSIGN_OR_RETURN(const data::Transform transform, CheckCall(flat, data, input));
    return CatchTorch("evaluating", [&]() -> absl::StatusOr<std::vector<float>> {
      std::vector<float> all;
      all.reserve(data.count() * classes_);
      const auto collect = [&](const torch::Tensor& logits, const torch::Tensor&) {
        const torch::Tensor rows = logits.contiguous();
        const float* values = rows.data_ptr<float>();
        all.insert(all.end(), values, values + rows.numel());
      };
      const std::vector<uint32_t> examples = data::AllExamples(data);
      QFL_RETURN_IF_ERROR(ForEachBatch(flat, {data, examples, input, transform}, nullptr, collect));
      return all;
    });
  }

 private:
  absl::Status CheckExamples(const data::Dataset& data, absl::Span<const uint32_t> examples) const {
    for (const uint32_t i : examples) {
      if (i >= data.count()) {
        return absl::InvalidArgumentError(
            absl::StrCat("example ", i, " of a data set of ", data.count()));
      }
      if (data.labels[i] >= classes_) {
        return absl::InvalidArgumentError(absl::StrCat("example ", i, " has label ", data.labels[i],
                                                       ", but the network has ", classes_,
                                                       " classes"));
      }
    }
    return absl::OkStatus();
  }

  absl::StatusOr<data::Transform> CheckCall(const std::vector<float>& flat,
                                            const data::Dataset& data,
                                            const federation::InputSpec& input) const {
    if (flat.size() != schema_.size()) {
      return absl::InvalidArgumentError(absl::StrCat(
          flat.size(), " parameters, but ", schema_.architecture(), " has ", schema_.size()));
    }
    QFL_ASSIGN_OR_RETURN(data::Transform transform, data::Transform::Create(input, data));
    QFL_RETURN_IF_ERROR(CheckInput(transform.shape()));
    const uint64_t held = data.is_signals() ? data.features.size() : data.pixels.size();
    if (held != data.count() * data.example_values()) {
      return absl::InvalidArgumentError(absl::StrCat(held, " pixels or numbers for ", data.count(),
                                                     " examples of ", data.example_values()));
    }
    return transform;
  }

  void SetTensors(const std::vector<float>& flat) {
    const torch::NoGradGuard no_grad;
    network_->Restart();
    auto* from = const_cast<float*>(flat.data());  // which is only read
    for (torch::Tensor& tensor : tensors_) {
      tensor.copy_(torch::from_blob(from, tensor.sizes()));
      from += tensor.numel();
    }
  }

  absl::StatusOr<TrainResult> TrainChecked(std::vector<float>& flat, const Examples& examples,
                                           const federation::TrainingSpec& training,
                                           base::PrngKey key, const Progress& progress) {
    // OpenMP's thread count is each calling thread's own, whatever ConfigureProcess set in main.
    at::init_num_threads();
    SetTensors(flat);
    network_->SetTraining(true);
    const std::unique_ptr<torch::optim::Optimizer> optimiser = MakeOptimiser(training);
    const auto loss_options =
        F::CrossEntropyFuncOptions().label_smoothing(training.label_smoothing);
    const uint64_t batch_size = std::min<uint64_t>(training.batch_size, examples.indices.size());
    std::vector<uint32_t> order(examples.indices.size());  // of places in `examples`
    std::iota(order.begin(), order.end(), 0u);
    base::Prng prng(key);
    const uint64_t steps_an_epoch = (order.size() + batch_size - 1) / batch_size;
    const uint64_t steps =
        training.local_steps > 0 ? training.local_steps : training.local_epochs * steps_an_epoch;
    const uint64_t total =
        steps / steps_an_epoch * order.size() + steps % steps_an_epoch * batch_size;
    QFL_ASSIGN_OR_RETURN(
        const std::optional<Cached> cached,
        CachePrefix(examples, &training, key, [&] { return !progress || progress(0, total); }));
    Batch batch(examples.data, examples.transform, batch_size);
    uint64_t done = 0;
    double loss_sum = 0;
    for (uint64_t step = 0; step < steps; ++step) {
      const uint64_t begin = step % steps_an_epoch * batch_size;
      if (begin == 0) {
        prng.Shuffle(order);
        loss_sum = 0;
      }
      const uint64_t count = std::min(batch_size, order.size() - begin);
      const uint64_t epoch = step / steps_an_epoch;
      const auto place = [&](uint64_t i) { return order[begin + i]; };
      const auto example = [&](uint64_t i) { return examples.indices[place(i)]; };
      torch::Tensor activations;
      if (cached.has_value()) {
        batch.FillLabels(count, example);
        // Each example takes its passes in turn.
        const uint64_t epochs = (steps + steps_an_epoch - 1) / steps_an_epoch;
        const uint64_t turn = key.round * epochs + epoch;
        QFL_ASSIGN_OR_RETURN(activations, cached->Read(count, [&](uint64_t i) {
          return place(i) * cached->passes + (turn + place(i)) % cached->passes;
        }));
      } else {
        batch.FillAugmented(count, key, static_cast<uint32_t>(epoch), example);
        activations = prefix_->Run(batch.images());
      }
      network_->BeginStep(key, step);
      optimiser->zero_grad();
      const torch::Tensor loss =
          F::cross_entropy(AfterPrefix(activations), batch.labels(), loss_options);
      loss.backward();
      optimiser->step();
      const double value = loss.item<double>();
      if (!std::isfinite(value)) return Diverged(training);
      loss_sum += value * static_cast<double>(count);
      done += count;
      if (progress && !progress(done, total)) {
        return absl::CancelledError("training was cancelled");
      }
    }
    TrainResult result;
    result.examples = order.size();
    const uint64_t in_last_epoch = done - (steps - 1) / steps_an_epoch * order.size();
    result.mean_loss = loss_sum / static_cast<double>(in_last_epoch);
    // The last step may have diverged after its loss was computed.
    for (const torch::Tensor& tensor : tensors_) {
      const float* values = tensor.data_ptr<float>();
      if (!std::all_of(values, values + tensor.numel(), [](float v) { return std::isfinite(v); })) {
        return Diverged(training);
      }
    }
    float* to = flat.data();
    for (const torch::Tensor& tensor : tensors_) {
      torch::from_blob(to, tensor.sizes()).copy_(tensor.detach());
      to += tensor.numel();
    }
    return result;
  }

  // Activations of examples at the end of the prefix, in a cache: for each of them `passes` rows.
  struct Cached {
    ActivationRows layout;
    uint64_t passes;
    std::shared_ptr<const Activations> rows;

    template <typename Row>
    absl::StatusOr<torch::Tensor> Read(uint64_t count, Row row) const {
      return layout.Read(*rows, static_cast<int64_t>(count), row);
    }
  };

  torch::Tensor AfterPrefix(const torch::Tensor& activations) const {
    return network_->Forward(activations, prefix_->stages(), network_->stages().size());
  }

  // The prefix's activations of `examples`; nothing where there is no cache or no prefix. The
  // tensors are set.
  //   training  null: for an evaluation, in fp32 and not augmented
  //   key       of the task
  template <typename GoOn>
  absl::StatusOr<std::optional<Cached>> CachePrefix(const Examples& examples,
                                                    const federation::TrainingSpec* training,
                                                    base::PrngKey key, GoOn go_on) {
    const absl::Span<const uint32_t> indices = examples.indices;
    if (cache_ == nullptr || prefix_->stages() == 0 || indices.empty()) return std::nullopt;
    const bool augments = training != nullptr && examples.transform.augments();
    const federation::CacheDtype dtype =
        training != nullptr ? training->cache_dtype : federation::CacheDtype::kFp32;
    const uint64_t passes = augments ? training->cache_passes : 1;
    key.round = 0;  // the passes are the same in every round
    const uint64_t rows = indices.size() * passes;
    const uint64_t batch_size = std::min(EvaluationBatch(examples.transform), rows);
    Batch batch(examples.data, examples.transform, batch_size);
    if (prefix_input_ != batch.images().sizes().slice(1)) {
      batch.Fill(1, [&](uint64_t) { return indices[0]; });
      prefix_input_ = batch.images().sizes().slice(1).vec();
      prefix_output_ = prefix_->Run(batch.images());
    }
    Cached cached = {ActivationRows(prefix_output_, dtype), passes, nullptr};
    base::Sha256Hasher hasher;
    hasher.Update(absl::StrCat(federation::ToString(dtype), "\n"));
    hasher.Update(cached_data_.AsBytes());
    hasher.Update(
        {reinterpret_cast<const char*>(indices.data()), indices.size() * sizeof(indices[0])});
    if (augments) {
      const federation::AugmentSpec& augment = examples.input.augment;
      hasher.Update(absl::StrCat("crop ", augment.crop_padding, " flip ", augment.flip, " passes ",
                                 passes, " seed ", key.run_seed, " client ", key.client_index));
    }
    const ActivationKey entry = {prefix_->Digest(schema_, tensors_, examples.input),
                                 std::move(hasher).Finish(), rows, cached.layout.bytes()};
    const auto compute = [&](const ActivationCache::Append& append) -> absl::Status {
      for (uint64_t begin = 0; begin < rows; begin += batch_size) {
        if (!go_on()) return absl::CancelledError("the task was cancelled");
        const uint64_t count = std::min(batch_size, rows - begin);
        batch.FillEach(count, [&](uint64_t i, float* to) {
          const uint64_t row = begin + i;
          if (augments) {
            examples.transform.ApplyAugmented(examples.data, indices[row / passes], key,
                                              static_cast<uint32_t>(row % passes), to);
          } else {
            examples.transform.Apply(examples.data, indices[row], to);
          }
        });
        QFL_ASSIGN_OR_RETURN(const torch::Tensor packed,
                             cached.layout.Pack(prefix_->Run(batch.images())));
        QFL_RETURN_IF_ERROR(append({static_cast<const char*>(packed.data_ptr()), packed.nbytes()}));
      }
      return absl::OkStatus();
    };
    QFL_ASSIGN_OR_RETURN(cached.rows, cache_->Get(entry, compute));
    return std::optional<Cached>(std::move(cached));
  }

  std::unique_ptr<torch::optim::Optimizer> MakeOptimiser(
      const federation::TrainingSpec& training) const {
    if (training.optimiser == federation::Optimiser::kAdam) {
      return std::make_unique<torch::optim::Adam>(trained_,
                                                  torch::optim::AdamOptions(training.learning_rate)
                                                      .betas({training.beta1, training.beta2})
                                                      .eps(training.epsilon)
                                                      .weight_decay(training.weight_decay));
    }
    return std::make_unique<torch::optim::SGD>(trained_,
                                               torch::optim::SGDOptions(training.learning_rate)
                                                   .momentum(training.momentum)
                                                   .weight_decay(training.weight_decay));
  }

  static absl::Status Diverged(const federation::TrainingSpec& training) {
    return absl::DataLossError(
        absl::StrCat("training diverged: the loss is not finite with learning_rate ",
                     training.learning_rate, "; choose a smaller one"));
  }

  static uint64_t EvaluationBatch(const data::Transform& transform) {
    const uint64_t positions = uint64_t{transform.height()} * transform.width();
    return std::clamp(kEvaluatePositionsMax / positions, kEvaluateExamplesMin,
                      kEvaluateExamplesMax);
  }

  // Runs `body(logits, labels)` on all examples in order, the network in evaluation, without
  // gradients.
  template <typename Body>
  absl::Status ForEachBatch(const std::vector<float>& flat, const Examples& examples,
                            const Progress& progress, Body body) {
    at::init_num_threads();
    SetTensors(flat);
    network_->SetTraining(false);
    const torch::NoGradGuard no_grad;
    const uint64_t total = examples.indices.size();
    QFL_ASSIGN_OR_RETURN(
        const std::optional<Cached> cached,
        CachePrefix(examples, nullptr, {}, [&] { return !progress || progress(0, total); }));
    const uint64_t batch_size = std::min(EvaluationBatch(examples.transform), total);
    Batch batch(examples.data, examples.transform, batch_size);
    for (uint64_t begin = 0; begin < total; begin += batch_size) {
      const uint64_t count = std::min(batch_size, total - begin);
      const auto place = [&](uint64_t i) { return begin + i; };
      const auto example = [&](uint64_t i) { return examples.indices[place(i)]; };
      torch::Tensor activations;
      if (cached.has_value()) {
        batch.FillLabels(count, example);
        QFL_ASSIGN_OR_RETURN(activations, cached->Read(count, place));
      } else {
        batch.Fill(count, example);
        activations = prefix_->Run(batch.images());
      }
      body(AfterPrefix(activations), batch.labels());
      if (progress && !progress(begin + count, total)) {
        return absl::CancelledError("evaluation was cancelled");
      }
    }
    return absl::OkStatus();
  }

  absl::StatusOr<EvaluateResult> EvaluateChecked(const std::vector<float>& flat,
                                                 const Examples& examples,
                                                 const Progress& progress) {
    double loss_sum = 0;
    int64_t correct = 0;
    const auto count = [&](const torch::Tensor& logits, const torch::Tensor& labels) {
      loss_sum +=
          F::cross_entropy(logits, labels, F::CrossEntropyFuncOptions().reduction(torch::kSum))
              .template item<double>();
      correct += logits.argmax(1).eq(labels).sum().template item<int64_t>();
    };
    QFL_RETURN_IF_ERROR(ForEachBatch(flat, examples, progress, count));
    if (!std::isfinite(loss_sum)) {
      return absl::DataLossError("the model's loss is not finite: its weights are too large");
    }
    const uint64_t count_all = examples.indices.size();
    const auto n = static_cast<double>(count_all);
    return EvaluateResult{loss_sum / n, static_cast<double>(correct) / n, count_all};
  }

  const model::Schema schema_;
  const uint32_t classes_;
  const std::shared_ptr<Network> network_;
  std::vector<torch::Tensor> tensors_;  // the schema's, in its order
  std::vector<torch::Tensor> trained_;  // the parameters among them that are in an update
  std::optional<FrozenPrefix> prefix_;  // once bound
  // An example's shape, and what the prefix made of it; of the last call.
  std::vector<int64_t> prefix_input_;
  torch::Tensor prefix_output_;
  ActivationCache* cache_ = nullptr;
  base::Digest cached_data_;
};

absl::StatusOr<std::unique_ptr<Learner>> Bound(const model::Schema& schema, uint32_t classes,
                                               std::shared_ptr<Network> network) {
  auto learner = std::make_unique<TorchLearner>(schema, classes, std::move(network));
  QFL_RETURN_IF_ERROR(learner->Bind());
  return learner;
}

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
    return Bound(schema, classes, std::move(network));
  });
}

absl::StatusOr<std::unique_ptr<Learner>> Learner::Create(const model::Schema& schema,
                                                         uint32_t classes,
                                                         absl::string_view torchscript) {
  QFL_ASSIGN_OR_RETURN(const base::Digest wanted, model::TorchScriptDigest(schema.architecture()));
  if (const base::Digest digest = base::Sha256(torchscript); digest != wanted) {
    return absl::InvalidArgumentError(absl::StrCat("the TorchScript file has sha256 ", digest.Hex(),
                                                   ", the schema is of the one with ",
                                                   wanted.Hex()));
  }
  QFL_ASSIGN_OR_RETURN(std::shared_ptr<Network> network, ScriptNetwork::Load(torchscript));
  return CatchTorch("binding the module", [&] { return Bound(schema, classes, network); });
}

}  // namespace quantfl::learn
