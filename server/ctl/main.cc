#include <cstdio>
#include <exception>

#include "common/app/exit_codes.h"
#include "common/base/clock.h"
#include "common/base/env.h"
#include "server/ctl/tool.h"

int main(int argc, char** argv) {
  try {
    return quantfl::ctl::RunTool(argc, argv, quantfl::base::PosixEnv(),
                                 quantfl::base::SystemClock(), stdout, stderr);
  } catch (const std::exception& e) {
    std::fprintf(stderr, "quantflctl: %s\n", e.what());
    return quantfl::app::kExitInternal;
  }
}
