#ifndef QUANTFL_TESTS_SUPPORT_INSTRUCTION_SETS_H_
#define QUANTFL_TESTS_SUPPORT_INSTRUCTION_SETS_H_

#include <hwy/targets.h>

#include <cstdint>
#include <vector>

namespace quantfl::codec {

// Those that this machine has and the kernels are built for, as Highway's bits.
inline std::vector<int64_t> InstructionSets() {
  std::vector<int64_t> sets;
  for (int64_t rest = hwy::SupportedTargets(); rest != 0; rest &= rest - 1) {
    sets.push_back(rest & ~(rest - 1));
  }
  return sets;
}

// The kernels' instruction set while it lives. No kernel may run in another thread as it comes and
// goes.
class UseInstructionSet {
 public:
  explicit UseInstructionSet(int64_t set) : before_(hwy::SupportedTargets()) { Choose(set); }
  ~UseInstructionSet() { Choose(before_); }
  UseInstructionSet(const UseInstructionSet&) = delete;
  UseInstructionSet& operator=(const UseInstructionSet&) = delete;

 private:
  static void Choose(int64_t sets) {
    hwy::SetSupportedTargetsForTest(sets);
    hwy::GetChosenTarget().Update(hwy::SupportedTargets());
  }

  const int64_t before_;
};

}  // namespace quantfl::codec

#endif  // QUANTFL_TESTS_SUPPORT_INSTRUCTION_SETS_H_
