// What a TorchScript module computes in common/learn, for script_python_test.py.
// argv: TORCHSCRIPT CHECKPOINT COUNT STEPS TRAINABLE FREEZE PIXELS LOGITS TRAINED
//   PIXELS   uint8[COUNT x channels x height x width] of the checkpoint's input, read
//   LOGITS   float32[COUNT x classes], written: the checkpoint's answers
//   TRAINED  checkpoint, written: after STEPS of SGD (0.02, momentum 0.9, weight decay 0.001) on
//   all
//            examples, label i % classes, as round 2 of client 5 of seed 7
//   FREEZE   1: running statistics stay

#include <cstdio>
#include <cstdlib>
#include <string>

#include "absl/strings/string_view.h"
#include "client/model/checkpoint.h"
#include "common/base/env.h"
#include "common/base/status.h"
#include "common/learn/learner.h"
#include "common/model/trainable.h"

namespace quantfl::learn {
namespace {

constexpr uint64_t kBytesMax = uint64_t{1} << 30;

absl::Status Run(char** argv) {
  base::Env& env = base::PosixEnv();
  QFL_ASSIGN_OR_RETURN(const std::string torchscript, env.ReadFile(argv[1], kBytesMax));
  QFL_ASSIGN_OR_RETURN(model_tool::Checkpoint checkpoint,
                       model_tool::LoadCheckpoint(env, argv[2], "", {}));
  const auto count = static_cast<uint32_t>(std::atoi(argv[3]));
  data::Dataset data;
  data.channels = checkpoint.input.channels;
  data.height = checkpoint.input.height;
  data.width = checkpoint.input.width;
  QFL_ASSIGN_OR_RETURN(const std::string pixels, env.ReadFile(argv[7], kBytesMax));
  data.pixels.assign(pixels.begin(), pixels.end());
  std::vector<uint32_t> all;
  for (uint32_t i = 0; i < count; ++i) {
    data.labels.push_back(static_cast<uint16_t>(i % checkpoint.classes));
    all.push_back(i);
  }
  QFL_ASSIGN_OR_RETURN(model::Schema schema, model::ApplyTrainable(checkpoint.schema, argv[5]));
  if (std::atoi(argv[6]) != 0) {
    QFL_ASSIGN_OR_RETURN(schema, model::FreezeStatistics(schema));
  }
  QFL_ASSIGN_OR_RETURN(const std::unique_ptr<Learner> learner,
                       Learner::Create(schema, checkpoint.classes, torchscript));
  QFL_ASSIGN_OR_RETURN(const std::vector<float> logits,
                       learner->Logits(checkpoint.flat, data, checkpoint.input));
  QFL_RETURN_IF_ERROR(env.WriteFileAtomically(
      argv[8], absl::string_view(reinterpret_cast<const char*>(logits.data()),
                                 logits.size() * sizeof(float))));
  federation::TrainingSpec training;
  training.learning_rate = 0.02;
  training.momentum = 0.9;
  training.weight_decay = 0.001;
  training.batch_size = count;
  training.local_steps = static_cast<uint32_t>(std::atoi(argv[4]));
  const base::PrngKey key = {.run_seed = 7, .round = 2, .client_index = 5};
  QFL_RETURN_IF_ERROR(
      learner->Train(checkpoint.flat, data, all, checkpoint.input, training, key, nullptr)
          .status());
  return model_tool::SaveCheckpoint(env, argv[9], checkpoint).status();
}

}  // namespace
}  // namespace quantfl::learn

int main(int argc, char** argv) {
  if (argc != 10) return 64;
  quantfl::learn::ConfigureProcess();
  const absl::Status status = quantfl::learn::Run(argv);
  if (status.ok()) return 0;
  std::fprintf(stderr, "script_peer: %s\n", std::string(status.message()).c_str());
  return 1;
}
