#ifndef QUANTFL_COMMON_CODEC_CONTEXT_CLASSES_H_
#define QUANTFL_COMMON_CODEC_CONTEXT_CLASSES_H_

// The choice of classes: which tensors share them, and how many each has.

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "absl/types/span.h"
#include "common/codec/context.h"
#include "common/codec/context_numbers.h"
#include "common/codec/context_tensor.h"
#include "common/codec/rans_table.h"

namespace quantfl::codec::context_fit {

// False if there are more tensors than classes.
bool AssignClasses(std::vector<Tensor>& tensors, bool shares, size_t& class_count);

// Counts the codes of one tensor after the other, by class.
class ClassCounter {
 public:
  ClassCounter(absl::Span<const uint8_t> codes, const Layout& layout, int levels);
  // Of tensor `index` of the layout, from its first class on.
  std::vector<RansHistogram> Count(const ContextModel& model, uint32_t index);

 private:
  static constexpr uint64_t kPart = 1u << 16;
  static constexpr uint64_t kJoined = 1u << 12;
  // Four counters a code: equal ones in a row would wait for each other.
  static constexpr size_t kCounters = 4;

  const absl::Span<const uint8_t> codes_;
  const Layout& layout_;
  const size_t levels_;
  // Rows of a class are no longer than they must be: at a distance of a page's part they would fall
  // into few of the cache's sets.
  const int row_log2_;
  std::array<std::vector<uint32_t>, kCounters> counters_;
  std::vector<uint8_t> classes_ = std::vector<uint8_t>(kPart);
  std::array<uint16_t, kJoined> joined_;
};

Histogram Widened(const RansHistogram& histogram);
RansHistogram Together(const RansHistogram& a, const RansHistogram& b);

// About what a class costs with its table, in 2^-16 bit.
uint64_t ClassCost(const RansHistogram& histogram);

// Gives each tensor classes of its own instead of those that all share, if that is smaller: how
// well exponents tell the spread differs by tensor. False if they go on sharing.
//   by_tensor   the codes in the shared classes; not looked at where there are more than classes
//   histograms  of all classes, one tensor's after the other's
bool GiveOwnClasses(const std::vector<std::vector<RansHistogram>>& by_tensor,
                    const std::vector<RansHistogram>& shared, std::vector<ContextTensor>& tensors,
                    std::vector<RansHistogram>& histograms);

}  // namespace quantfl::codec::context_fit

#endif  // QUANTFL_COMMON_CODEC_CONTEXT_CLASSES_H_
