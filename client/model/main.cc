#include <cstdio>
#include <exception>

#include "client/model/tool.h"
#include "common/base/clock.h"
#include "common/base/env.h"
#include "common/learn/learner.h"

int main(int argc, char** argv) {
  try {
    quantfl::learn::ConfigureProcess();
    return quantfl::model_tool::RunTool(argc, argv, quantfl::base::PosixEnv(),
                                        quantfl::base::SystemClock(), stdout, stderr);
  } catch (const std::exception& e) {
    std::fprintf(stderr, "quantfl-model: %s\n", e.what());
    return 70;
  }
}
