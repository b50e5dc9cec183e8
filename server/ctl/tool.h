#ifndef QUANTFL_SERVER_CTL_TOOL_H_
#define QUANTFL_SERVER_CTL_TOOL_H_

#include <cstdio>

#include "common/base/clock.h"
#include "common/base/env.h"

namespace quantfl::ctl {

// The program quantflctl: reads its arguments, does it, returns the exit code
// (common/app/exit_codes.h). Results go to `out`, an error as one line to `error`.
int RunTool(int argc, const char* const* argv, base::Env& env, base::Clock& clock, std::FILE* out,
            std::FILE* error);

}  // namespace quantfl::ctl

#endif  // QUANTFL_SERVER_CTL_TOOL_H_
