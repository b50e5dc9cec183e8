#ifndef QUANTFL_COMMON_APP_EXIT_CODES_H_
#define QUANTFL_COMMON_APP_EXIT_CODES_H_

// What the programs tell who started them; the numbers are those of sysexits.h where it has one.

#include "absl/status/status.h"

namespace quantfl::app {

enum ExitCode : int {
  kExitOk = 0,             // done, or stopped by SIGTERM or SIGINT after the write in flight
  kExitRunFailed = 1,      // the service worked, the run did not: see its reason
  kExitUsage = 64,         // a flag, an environment variable, the configuration
  kExitDataError = 65,     // a file is corrupt, or of another model
  kExitNoInput = 66,       // a file or folder that should be there is not
  kExitUnavailable = 69,   // nobody answers, an address is in use
  kExitInternal = 70,      // a defect of this software
  kExitCannotCreate = 73,  // a file or folder that should be written cannot be
  kExitTemporary = 75,     // a limit was hit; trying again later may work
  kExitNoPermission = 77,  // a token or a role was refused, a file cannot be read
  kExitKilled = 130,       // the second SIGINT: left at once
};

// INVALID_ARGUMENT and OUT_OF_RANGE are usage; DATA_LOSS data error; NOT_FOUND no input;
// UNAVAILABLE, DEADLINE_EXCEEDED and FAILED_PRECONDITION unavailable; RESOURCE_EXHAUSTED and
// ABORTED temporary; PERMISSION_DENIED and UNAUTHENTICATED no permission; the rest internal.
ExitCode ExitCodeFor(const absl::Status& status);

}  // namespace quantfl::app

#endif  // QUANTFL_COMMON_APP_EXIT_CODES_H_
