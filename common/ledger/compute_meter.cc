#include "common/ledger/compute_meter.h"

#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

namespace quantfl::ledger {
namespace {

constexpr uint64_t kCounterFileBytesMax = 64 << 10;
constexpr uint64_t kStatBytesMax = 4 << 20;  // grows with cores and interrupts
constexpr double kMicro = 1e-6;

std::optional<uint64_t> ReadCounter(base::Env& env, const std::string& file) {
  const auto text = env.ReadFile(file, kCounterFileBytesMax);
  uint64_t value = 0;
  if (!text.ok() || !absl::SimpleAtoi(absl::StripAsciiWhitespace(*text), &value)) {
    return std::nullopt;
  }
  return value;
}

// The first line of /proc/stat: "cpu user nice system idle iowait irq softirq steal ...", in ticks.
std::optional<double> MachineCpuSeconds(base::Env& env, double ticks_per_s) {
  const auto text = env.ReadFile("/proc/stat", kStatBytesMax);
  if (!text.ok() || !absl::StartsWith(*text, "cpu ")) return std::nullopt;
  const std::vector<std::string> fields =
      absl::StrSplit(text->substr(0, text->find('\n')), ' ', absl::SkipEmpty());
  uint64_t busy = 0;
  for (size_t i = 1; i < fields.size() && i <= 8; ++i) {
    uint64_t ticks = 0;
    if (!absl::SimpleAtoi(fields[i], &ticks)) return std::nullopt;
    if (i != 4 && i != 5) busy += ticks;  // idle, iowait
  }
  return static_cast<double>(busy) / ticks_per_s;
}

}  // namespace

std::optional<RaplReader> RaplReader::Create(base::Env& env, const std::string& folder) {
  const auto names = env.List(folder);
  if (!names.ok()) return std::nullopt;
  RaplReader reader(env);
  for (const std::string& name : *names) {
    // "intel-rapl:0" is a package; "intel-rapl:0:1" a part of it, and the mmio twin counts the same
    // joules.
    if (!absl::StartsWith(name, "intel-rapl:") || name.find(':') != name.rfind(':')) continue;
    const std::string path = absl::StrCat(folder, "/", name, "/");
    const auto kind = env.ReadFile(path + "name", kCounterFileBytesMax);
    if (!kind.ok() || !absl::StartsWith(*kind, "package")) continue;
    const auto range = ReadCounter(env, path + "max_energy_range_uj");
    const auto now = ReadCounter(env, path + "energy_uj");
    // With one package of two the sum would be wrong.
    if (!range || !now || *now > *range) return std::nullopt;
    reader.packages_.push_back({path + "energy_uj", *range, *now});
  }
  if (reader.packages_.empty()) return std::nullopt;
  return reader;
}

std::optional<double> RaplReader::Joules() {
  for (Package& package : packages_) {
    const auto now = ReadCounter(*env_, package.file);
    if (broken_ || !now || *now > package.range_uj) {
      broken_ = true;
      return std::nullopt;
    }
    const uint64_t used = *now >= package.last_uj ? *now - package.last_uj
                                                  : package.range_uj - package.last_uj + *now + 1;
    joules_ += kMicro * static_cast<double>(used);
    package.last_uj = *now;
  }
  return joules_;
}

ComputeMeterDeps SystemComputeMeter(base::Env& env) {
  ComputeMeterDeps deps;
  deps.process_cpu_s = [] {
    timespec now{};
    if (clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now) != 0) return 0.0;
    return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
  };
  const double ticks_per_s = static_cast<double>(std::max<long>(1, sysconf(_SC_CLK_TCK)));
  deps.machine_cpu_s = [&env, ticks_per_s] { return MachineCpuSeconds(env, ticks_per_s); };
  if (const auto rapl = RaplReader::Create(env)) {
    deps.package_j = [reader = std::make_shared<RaplReader>(*rapl)] { return reader->Joules(); };
  }
  return deps;
}

ComputeMeter::ComputeMeter(ComputeMeterDeps deps) : deps_(std::move(deps)) {
  base::MutexLock lock(mutex_);
  Account();
}

void ComputeMeter::Account() {
  const double process_s = deps_.process_cpu_s();
  const std::optional<double> joules = deps_.package_j ? deps_.package_j() : std::nullopt;
  const std::optional<double> machine_s = joules ? deps_.machine_cpu_s() : std::nullopt;
  const double used_s = std::max(0.0, process_s - process_s_);
  std::optional<double> used_j;
  if (joules && joules_ && machine_s && machine_s_) {
    // Ticks of the kernel are coarser than the process's clock: a share is at most all of it.
    const double all_s = std::max(*machine_s - *machine_s_, used_s);
    used_j = all_s > 0 ? (*joules - *joules_) * used_s / all_s : 0;
  }
  for (auto& [work, use] : active_) {
    const double share = 1.0 / static_cast<double>(active_.size());
    use.cpu_s += share * used_s;
    if (use.package_j && used_j) {
      *use.package_j += share * *used_j;
    } else {
      use.package_j.reset();
    }
  }
  process_s_ = process_s;
  machine_s_ = machine_s;
  joules_ = joules;
}

ComputeMeter::Work ComputeMeter::Begin() {
  base::MutexLock lock(mutex_);
  Account();
  federation::ComputeUse use;
  if (joules_ && machine_s_) use.package_j = 0;
  active_[++last_] = use;
  return last_;
}

federation::ComputeUse ComputeMeter::End(Work work) {
  base::MutexLock lock(mutex_);
  const auto found = active_.find(work);
  if (found == active_.end()) return {};
  Account();
  const federation::ComputeUse use = found->second;
  active_.erase(found);
  return use;
}

}  // namespace quantfl::ledger
