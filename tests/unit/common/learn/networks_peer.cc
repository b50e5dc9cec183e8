// What the networks of common/learn compute, for networks_python_test.py.
// argv: CHECKPOINT CLASSES CHANNELS SIDE COUNT MEAN STDDEV PIXELS LOGITS STEPPED
//   PIXELS   uint8[COUNT x CHANNELS x SIDE x SIDE], read
//   LOGITS   float32[COUNT x CLASSES], written: the checkpoint's answers
//   STEPPED  checkpoint, written: after one step of SGD on all examples, label i % CLASSES

#include <cstdio>
#include <cstdlib>
#include <string>

#include "absl/strings/string_view.h"
#include "client/model/checkpoint.h"
#include "common/base/env.h"
#include "common/base/status.h"
#include "common/learn/learner.h"

namespace quantfl::learn {
namespace {

constexpr uint64_t kBytesMax = uint64_t{1} << 30;

uint32_t Number(const char* text) { return static_cast<uint32_t>(std::strtoul(text, nullptr, 10)); }

absl::Status Run(char** argv) {
  base::Env& env = base::PosixEnv();
  QFL_ASSIGN_OR_RETURN(model_tool::Checkpoint checkpoint,
                       model_tool::LoadCheckpoint(env, argv[1], "", {}));
  const uint32_t classes = Number(argv[2]);
  data::Dataset data;
  data.channels = Number(argv[3]);
  data.height = data.width = Number(argv[4]);
  const uint32_t count = Number(argv[5]);
  const federation::InputSpec input = {std::atof(argv[6]), std::atof(argv[7])};
  QFL_ASSIGN_OR_RETURN(const std::string pixels, env.ReadFile(argv[8], kBytesMax));
  data.pixels.assign(pixels.begin(), pixels.end());
  std::vector<uint32_t> all;
  for (uint32_t i = 0; i < count; ++i) {
    data.labels.push_back(static_cast<uint16_t>(i % classes));
    all.push_back(i);
  }
  QFL_ASSIGN_OR_RETURN(const std::unique_ptr<Learner> learner,
                       Learner::Create(checkpoint.schema, classes));
  QFL_ASSIGN_OR_RETURN(const std::vector<float> logits,
                       learner->Logits(checkpoint.flat, data, input));
  QFL_RETURN_IF_ERROR(env.WriteFileAtomically(
      argv[9], absl::string_view(reinterpret_cast<const char*>(logits.data()),
                                 logits.size() * sizeof(float))));
  QFL_RETURN_IF_ERROR(learner
                          ->Train(checkpoint.flat, data, all, input,
                                  {.learning_rate = 0.01, .momentum = 0.9, .batch_size = count}, {},
                                  nullptr)
                          .status());
  return model_tool::SaveCheckpoint(env, argv[10], checkpoint).status();
}

}  // namespace
}  // namespace quantfl::learn

int main(int argc, char** argv) {
  if (argc != 11) return 64;
  quantfl::learn::ConfigureProcess();
  const absl::Status status = quantfl::learn::Run(argv);
  if (status.ok()) return 0;
  std::fprintf(stderr, "networks_peer: %s\n", std::string(status.message()).c_str());
  return 1;
}
