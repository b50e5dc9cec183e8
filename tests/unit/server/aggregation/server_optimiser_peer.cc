// server_optimiser_peer KIND LEARNING_RATE MOMENTUM BETA1 BETA2 TAU N FIRST COUNT IN OUT
// IN holds float32[N], a model, then float32[N] for each round, mean deltas; parameters FIRST to
// FIRST + COUNT - 1 are statistics. OUT gets the model and the moments after all rounds. Driven by
// server_optimiser_python_test.py.

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "common/base/env.h"
#include "server/aggregation/server_optimiser.h"

int main(int argc, char** argv) {
  using namespace quantfl;
  if (argc != 12) return 64;
  const auto kind = aggregation::ParseServerOptimiser(argv[1]);
  if (!kind.ok()) return 64;
  const aggregation::ServerOptimiserSpec spec = {*kind,
                                                 std::atof(argv[2]),
                                                 std::atof(argv[3]),
                                                 std::atof(argv[4]),
                                                 std::atof(argv[5]),
                                                 std::atof(argv[6])};
  const size_t n = std::strtoul(argv[7], nullptr, 10);
  const aggregation::ParameterRange statistics = {std::strtoul(argv[8], nullptr, 10),
                                                  std::strtoul(argv[9], nullptr, 10)};
  const absl::StatusOr<std::string> bytes = base::PosixEnv().ReadFile(argv[10], 1 << 24);
  if (!bytes.ok() || n == 0 || bytes->size() % (n * sizeof(float)) != 0) return 66;
  std::vector<float> values(bytes->size() / sizeof(float));
  std::memcpy(values.data(), bytes->data(), bytes->size());

  std::vector<float> model(values.begin(), values.begin() + static_cast<ptrdiff_t>(n)), moments;
  for (int i = 0; i < aggregation::MomentCount(spec.kind); ++i) {
    moments.insert(moments.end(), n, aggregation::InitialMoment(spec, i));
  }
  for (size_t from = n; from < values.size(); from += n) {
    const absl::Status status = aggregation::ApplyServerOptimiser(
        spec, absl::MakeConstSpan(values).subspan(from, n), {&statistics, 1},
        absl::MakeSpan(moments), absl::MakeSpan(model));
    if (status.ok()) continue;
    std::fprintf(stderr, "%s\n", std::string(status.message()).c_str());
    return 1;
  }
  std::string out(reinterpret_cast<const char*>(model.data()), n * sizeof(float));
  out.append(reinterpret_cast<const char*>(moments.data()), moments.size() * sizeof(float));
  return base::PosixEnv().WriteFileAtomically(argv[11], out).ok() ? 0 : 73;
}
