#ifndef QUANTFL_COMMON_BASE_IDS_H_
#define QUANTFL_COMMON_BASE_IDS_H_

#include <compare>
#include <cstdint>
#include <functional>
#include <utility>

namespace quantfl::base {

// An integer that is not to be confused with another one: StrongId<struct RoundTag, uint32_t>.
template <typename Tag, typename T>
class StrongId {
 public:
  using ValueType = T;
  constexpr StrongId() = default;
  explicit constexpr StrongId(T value) : value_(value) {}
  constexpr T value() const { return value_; }
  friend constexpr auto operator<=>(StrongId, StrongId) = default;
  template <typename H>
  friend H AbslHashValue(H h, StrongId id) {
    return H::combine(std::move(h), id.value_);
  }

 private:
  T value_ = 0;
};

// Rounds count from 1; 0 is the model before the first round.
using RoundId = StrongId<struct RoundIdTag, uint32_t>;
// Issued once a run, never reused; 0 is no task.
using TaskId = StrongId<struct TaskIdTag, uint64_t>;
// A trainer's dense number in the run: randomness, selection and data partition use it alone.
using ClientIndex = StrongId<struct ClientIndexTag, uint32_t>;
// A row of the coordinator's member table (trainers and evaluators), in order of first Join.
using MemberId = StrongId<struct MemberIdTag, uint32_t>;

}  // namespace quantfl::base

#endif  // QUANTFL_COMMON_BASE_IDS_H_
