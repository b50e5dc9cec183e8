// Writes SmallTorchScript for tests of the real programs. argv: OUT CHANNELS CLASSES [eval]

#include <cstdio>
#include <cstdlib>
#include <string>

#include "common/base/env.h"
#include "tests/support/torchscript_files.h"

int main(int argc, char** argv) {
  if (argc < 4) return 64;
  const int64_t channels = std::atoll(argv[2]), classes = std::atoll(argv[3]);
  const std::string file = argc > 4 ? quantfl::testing::SmallTraceInEvalMode(channels, classes)
                                    : quantfl::testing::SmallTorchScript(channels, classes);
  const absl::Status written = quantfl::base::PosixEnv().WriteFileAtomically(argv[1], file);
  if (!written.ok()) std::fprintf(stderr, "%s\n", std::string(written.message()).c_str());
  return written.ok() ? 0 : 1;
}
