// How fast a client trains: learn::Learner on made-up images, for throughput.py and
// client_round.py. argv: ARCHITECTURE CLASSES CHANNELS SIDE EXAMPLES BATCH TRAINABLE CACHE
//   TRAINABLE  as training.trainable
//   CACHE      off, fp16 or fp32: of the activations of what is not trained, in memory
// Trains an epoch for each line that is read, and answers with its wall and CPU seconds and the
// digest of the parameters after it.

#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <memory>
#include <numeric>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "common/base/digest.h"
#include "common/base/env.h"
#include "common/base/status.h"
#include "common/learn/activation_cache.h"
#include "common/learn/learner.h"
#include "common/model/architectures.h"
#include "common/model/trainable.h"

namespace quantfl::learn {
namespace {

double Seconds(clockid_t clock) {
  timespec now{};
  clock_gettime(clock, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}
uint32_t Number(const char* text) { return static_cast<uint32_t>(std::strtoul(text, nullptr, 10)); }

absl::Status Run(char** argv) {
  const uint32_t classes = Number(argv[2]);
  data::Dataset data;
  data.channels = Number(argv[3]);
  data.height = data.width = Number(argv[4]);
  const uint32_t count = Number(argv[5]);
  base::Prng prng({.run_seed = 1, .purpose = base::PrngPurpose::kSynthetic});
  data.pixels.resize(count * data.example_bytes());
  for (uint8_t& pixel : data.pixels) pixel = static_cast<uint8_t>(prng.Below(256));
  for (uint32_t i = 0; i < count; ++i) {
    data.labels.push_back(static_cast<uint16_t>(prng.Below(classes)));
  }
  std::vector<uint32_t> all(count);
  std::iota(all.begin(), all.end(), 0u);

  QFL_ASSIGN_OR_RETURN(const model::Schema whole, model::ArchitectureSchema(argv[1], classes));
  QFL_ASSIGN_OR_RETURN(const model::Schema schema, model::ApplyTrainable(whole, argv[7]));
  QFL_ASSIGN_OR_RETURN(const std::unique_ptr<Learner> learner, Learner::Create(schema, classes));
  federation::TrainingSpec training = {.learning_rate = 1e-3, .batch_size = Number(argv[6])};
  const absl::string_view mode = argv[8];
  training.cache_dtype =
      mode == "fp32" ? federation::CacheDtype::kFp32 : federation::CacheDtype::kFp16;
  QFL_ASSIGN_OR_RETURN(const auto cache,
                       ActivationCache::Create({.bytes_max = uint64_t{1} << 32}, base::PosixEnv(),
                                               base::NullLogger()));
  if (mode != "off") learner->UseCache(cache.get(), base::Sha256("made-up images"));
  std::vector<float> flat = learner->Initialise({.run_seed = 1});
  base::PrngKey key = {.purpose = base::PrngPurpose::kBatchOrder};
  for (int c = std::getchar(); c != EOF; c = std::getchar()) {
    if (c != '\n') continue;
    ++key.round;
    const double wall = Seconds(CLOCK_MONOTONIC), cpu = Seconds(CLOCK_PROCESS_CPUTIME_ID);
    QFL_RETURN_IF_ERROR(
        learner->Train(flat, data, all, {0.5, 0.25}, training, key, nullptr).status());
    std::printf("%.6f %.6f ", Seconds(CLOCK_MONOTONIC) - wall,
                Seconds(CLOCK_PROCESS_CPUTIME_ID) - cpu);
    const base::Digest digest =
        base::Sha256({reinterpret_cast<const char*>(flat.data()), flat.size() * sizeof(flat[0])});
    std::printf("%s\n", digest.Hex().c_str());
    std::fflush(stdout);
  }
  return absl::OkStatus();
}

}  // namespace
}  // namespace quantfl::learn

int main(int argc, char** argv) {
  if (argc != 9) return 64;
  quantfl::learn::ConfigureProcess();
  const absl::Status status = quantfl::learn::Run(argv);
  if (status.ok()) return 0;
  std::fprintf(stderr, "training_speed: %s\n", std::string(status.message()).c_str());
  return 1;
}
