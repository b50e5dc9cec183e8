// What Learner::Train makes of a fixed problem, for optimiser_python_test.py.
// argv: PIXELS OUT KEY=VALUE ...
//   PIXELS  uint8[n x 784], read: a LeNet-5 with weights of seed 1 and ten classes trains on them,
//           all in one batch, label i % 10
//   OUT     float32, written: the weights before, then those after
//   KEY     a field of TrainingSpec, or trainable

#include <cstdio>
#include <cstdlib>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"
#include "common/base/env.h"
#include "common/base/status.h"
#include "common/learn/learner.h"
#include "common/model/architectures.h"
#include "common/model/trainable.h"

namespace quantfl::learn {
namespace {

constexpr uint64_t kBytesMax = uint64_t{1} << 30;

absl::Status Set(const std::string& key, const std::string& value,
                 federation::TrainingSpec& training, std::string& trainable) {
  const double number = std::atof(value.c_str());
  if (key == "trainable") {
    trainable = value;
  } else if (key == "optimiser") {
    training.optimiser =
        value == "adam" ? federation::Optimiser::kAdam : federation::Optimiser::kSgd;
  } else if (key == "local_steps") {
    training.local_steps = static_cast<uint32_t>(number);
  } else {
    const std::pair<const char*, double*> fields[] = {
        {"learning_rate", &training.learning_rate},
        {"momentum", &training.momentum},
        {"weight_decay", &training.weight_decay},
        {"beta1", &training.beta1},
        {"beta2", &training.beta2},
        {"epsilon", &training.epsilon},
        {"label_smoothing", &training.label_smoothing}};
    for (const auto& [name, field] : fields) {
      if (key != name) continue;
      *field = number;
      return absl::OkStatus();
    }
    return absl::InvalidArgumentError(absl::StrCat("no field ", key));
  }
  return absl::OkStatus();
}

absl::Status Run(int argc, char** argv) {
  base::Env& env = base::PosixEnv();
  QFL_ASSIGN_OR_RETURN(const std::string pixels, env.ReadFile(argv[1], kBytesMax));
  data::Dataset data;
  data.height = data.width = 28;
  data.pixels.assign(pixels.begin(), pixels.end());
  std::vector<uint32_t> all;
  for (uint32_t i = 0; i < pixels.size() / 784; ++i) {
    data.labels.push_back(static_cast<uint16_t>(i % 10));
    all.push_back(i);
  }
  federation::TrainingSpec training;
  training.batch_size = static_cast<uint32_t>(all.size());
  std::string trainable = "all";
  for (int i = 3; i < argc; ++i) {
    const std::pair<std::string, std::string> parts = absl::StrSplit(argv[i], '=');
    QFL_RETURN_IF_ERROR(Set(parts.first, parts.second, training, trainable));
  }
  QFL_ASSIGN_OR_RETURN(const model::Schema whole, model::ArchitectureSchema("lenet5", 10));
  QFL_ASSIGN_OR_RETURN(const model::Schema schema, model::ApplyTrainable(whole, trainable));
  QFL_ASSIGN_OR_RETURN(const std::unique_ptr<Learner> learner, Learner::Create(schema, 10));
  std::vector<float> flat = learner->Initialise({.run_seed = 1});
  const auto bytes = [&flat] {
    return std::string(reinterpret_cast<const char*>(flat.data()), flat.size() * sizeof(float));
  };
  std::string out = bytes();
  QFL_RETURN_IF_ERROR(learner->Train(flat, data, all, {0.5, 0.25}, training, {}, nullptr).status());
  return env.WriteFileAtomically(argv[2], out + bytes());
}

}  // namespace
}  // namespace quantfl::learn

int main(int argc, char** argv) {
  if (argc < 3) return 64;
  quantfl::learn::ConfigureProcess();
  const absl::Status status = quantfl::learn::Run(argc, argv);
  if (status.ok()) return 0;
  std::fprintf(stderr, "optimiser_peer: %s\n", std::string(status.message()).c_str());
  return 1;
}
