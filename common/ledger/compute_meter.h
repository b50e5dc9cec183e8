#ifndef QUANTFL_COMMON_LEDGER_COMPUTE_METER_H_
#define QUANTFL_COMMON_LEDGER_COMPUTE_METER_H_

// What a client's work costs: the CPU time of its process and, where the kernel shows them, joules
// of the processor packages (RAPL: /sys/class/powercap/intel-rapl:N/energy_uj, readable by root
// alone unless an administrator says otherwise). RAPL counts the whole machine: a process's share
// of a span's joules is its CPU time over that of all processes (/proc/stat) in that span.

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "common/base/env.h"
#include "common/base/mutex.h"
#include "common/federation/types.h"

namespace quantfl::ledger {

// Joules of all packages since it was made. Not thread-safe.
class RaplReader {
 public:
  // Absent: no package whose counter can be read. `env` outlives it.
  static std::optional<RaplReader> Create(base::Env& env,
                                          const std::string& folder = "/sys/class/powercap");
  // Absent once a counter could not be read any more. A counter that began anew at its stated
  // range is taken to have done so once since the last call: at 100 W that range lasts 40 minutes.
  std::optional<double> Joules();

 private:
  struct Package {
    std::string file;
    uint64_t range_uj = 0, last_uj = 0;
  };
  explicit RaplReader(base::Env& env) : env_(&env) {}
  base::Env* env_;
  std::vector<Package> packages_;
  double joules_ = 0;
  bool broken_ = false;
};

struct ComputeMeterDeps {
  std::function<double()> process_cpu_s;                 // of this process, never decreasing
  std::function<std::optional<double>()> machine_cpu_s;  // of all processes, summed over cores
  std::function<std::optional<double>()> package_j;      // never decreasing; may be null
};
// clock_gettime, /proc/stat through `env`, RAPL under its usual folder.
ComputeMeterDeps SystemComputeMeter(base::Env& env);

// Divides what the process uses among the tasks that it works on, equally at each moment.
// Thread-safe.
class ComputeMeter {
 public:
  explicit ComputeMeter(ComputeMeterDeps deps);

  using Work = uint64_t;
  Work Begin();
  // What came to `work`'s share; package_j only if it was readable all the time. Once.
  federation::ComputeUse End(Work work);

 private:
  void Account() QFL_REQUIRES(mutex_);

  base::Mutex mutex_;
  const ComputeMeterDeps deps_;
  Work last_ QFL_GUARDED_BY(mutex_) = 0;
  std::map<Work, federation::ComputeUse> active_ QFL_GUARDED_BY(mutex_);
  double process_s_ QFL_GUARDED_BY(mutex_) = 0;
  std::optional<double> machine_s_ QFL_GUARDED_BY(mutex_), joules_ QFL_GUARDED_BY(mutex_);
};

}  // namespace quantfl::ledger

#endif  // QUANTFL_COMMON_LEDGER_COMPUTE_METER_H_
