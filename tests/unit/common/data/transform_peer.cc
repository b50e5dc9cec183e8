// What Transform::Apply writes, for transform_python_test.py.
// argv: PIXELS CHANNELS HEIGHT WIDTH COUNT INPUT_CHANNELS INPUT_HEIGHT INPUT_WIDTH MEAN STDDEV OUT
//   PIXELS  uint8[COUNT x CHANNELS x HEIGHT x WIDTH], read
//   OUT     float32[COUNT x INPUT_CHANNELS x INPUT_HEIGHT x INPUT_WIDTH], written

#include <cstdio>
#include <cstdlib>
#include <string>

#include "common/base/env.h"
#include "common/base/status.h"
#include "common/data/transform.h"

namespace quantfl::data {
namespace {

absl::Status Run(char** argv) {
  base::Env& env = base::PosixEnv();
  const auto number = [argv](int i) {
    return static_cast<uint32_t>(std::strtoul(argv[i], nullptr, 10));
  };
  QFL_ASSIGN_OR_RETURN(const std::string pixels, env.ReadFile(argv[1], uint64_t{1} << 30));
  Dataset data;
  data.channels = number(2);
  data.height = number(3);
  data.width = number(4);
  data.labels.resize(number(5));
  data.pixels.assign(pixels.begin(), pixels.end());
  federation::InputSpec input = {.channels = number(6), .height = number(7), .width = number(8)};
  QFL_ASSIGN_OR_RETURN(input.mean, federation::ParsePerChannel(argv[9]));
  QFL_ASSIGN_OR_RETURN(input.stddev, federation::ParsePerChannel(argv[10]));
  QFL_ASSIGN_OR_RETURN(const Transform transform, Transform::Create(input, data));
  std::string out(data.count() * transform.values() * sizeof(float), '\0');
  for (uint64_t i = 0; i < data.count(); ++i) {
    transform.Apply(data, i, reinterpret_cast<float*>(out.data()) + i * transform.values());
  }
  return env.WriteFileAtomically(argv[11], out);
}

}  // namespace
}  // namespace quantfl::data

int main(int argc, char** argv) {
  if (argc != 12) return 64;
  const absl::Status status = quantfl::data::Run(argv);
  if (status.ok()) return 0;
  std::fprintf(stderr, "transform_peer: %s\n", std::string(status.message()).c_str());
  return 1;
}
