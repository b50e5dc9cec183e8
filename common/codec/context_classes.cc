#include "common/codec/context_classes.h"

#include <algorithm>
#include <bit>
#include <limits>
#include <utility>

#include "common/codec/kernels.h"

namespace quantfl::codec::context_fit {
namespace {

// Classes are octaves of variance. With one zero code for all tensors they share one interval of
// classes, from variance 2^kLeastLevel on; one code in so many deviates there.
constexpr int kLeastLevel = -10;
constexpr int kSharedClassesMax = 32;
// Else each tensor has classes of its own, around its own variance.
constexpr struct {
  uint64_t size;
  int classes;
} kOwnClasses[] = {{1u << 14, 7}, {1u << 11, 5}, {1u << 8, 3}, {0, 1}};
// Of so many codes of a class a table takes a few bytes.
constexpr uint64_t kFewCodes = 8192;

// A tensor's own classes, of which the first and the last ones can be joined with their neighbours:
// limits of a sum do just that.
class OwnClasses {
 public:
  // Of a tensor's classes, the first of which are those of the lowest levels.
  //   base  ContextTensor::base: a class that is not to be below the first one
  OwnClasses(const std::vector<RansHistogram>& histograms, size_t base) : base_(base) {
    size_t begin = 0;
    size_t end = histograms.size();
    const auto is_empty = [](const RansHistogram& histogram) {
      return std::all_of(histogram.begin(), histogram.end(), [](uint32_t n) { return n == 0; });
    };
    while (begin + 1 < end && begin < base && is_empty(histograms[begin])) ++begin;
    while (end - 1 > begin && is_empty(histograms[end - 1])) --end;
    highest_of_first_ = begin;
    for (size_t c = begin; c < end; ++c)
      groups_.push_back({histograms[c], ClassCost(histograms[c])});
    FindJoins();
  }

  size_t size() const { return groups_.size(); }
  uint64_t cost() const {
    uint64_t sum = 0;
    for (const Group& group : groups_) sum += group.cost;
    return sum;
  }
  // Of those that the tensor came with, the last one that is in the first class now.
  size_t highest_of_first() const { return highest_of_first_; }
  // What the better join costs; there are two classes or more.
  int64_t join_cost() const { return std::min(low_.cost, high_.cost); }
  void Join() {
    const bool is_low = low_.cost <= high_.cost;
    const size_t at = is_low ? 0 : groups_.size() - 2;
    groups_[at] = is_low ? low_.joined : high_.joined;
    groups_.erase(groups_.begin() + static_cast<ptrdiff_t>(at) + 1);
    if (is_low) ++highest_of_first_;
    FindJoins();
  }
  void Append(std::vector<RansHistogram>& histograms) const {
    for (const Group& group : groups_) histograms.push_back(group.histogram);
  }

 private:
  struct Group {
    RansHistogram histogram;
    uint64_t cost;
  };
  struct Joined {
    Group joined;
    int64_t cost;
  };

  Joined JoinOf(size_t at) const {
    Joined join;
    join.joined.histogram = Together(groups_[at].histogram, groups_[at + 1].histogram);
    join.joined.cost = ClassCost(join.joined.histogram);
    join.cost = static_cast<int64_t>(join.joined.cost) -
                static_cast<int64_t>(groups_[at].cost + groups_[at + 1].cost);
    return join;
  }
  void FindJoins() {
    if (groups_.size() < 2) return;
    low_ = JoinOf(0);
    if (highest_of_first_ == base_) low_.cost = std::numeric_limits<int64_t>::max();
    high_ = JoinOf(groups_.size() - 2);
  }

  const size_t base_;
  std::vector<Group> groups_;
  size_t highest_of_first_ = 0;
  Joined low_{};
  Joined high_{};
};

}  // namespace

bool AssignClasses(std::vector<Tensor>& tensors, bool shares, size_t& class_count) {
  if (shares) {
    int most = kLeastLevel;
    for (const Tensor& tensor : tensors) {
      int highest = 0;
      for (const std::vector<int>& levels : tensor.levels) {
        highest += *std::max_element(levels.begin(), levels.end());
      }
      most = std::max(most, highest);
    }
    const int classes = std::min(most - kLeastLevel + 1, kSharedClassesMax);
    for (Tensor& tensor : tensors) {
      tensor.least = kLeastLevel;
      tensor.classes = classes;
    }
    class_count = static_cast<size_t>(classes);
    return true;
  }
  for (int fewer = 0;; fewer += 2) {
    int first = 0;
    for (Tensor& tensor : tensors) {
      int classes = 1;
      for (const auto& row : kOwnClasses) {
        if (tensor.size >= row.size) {
          classes = row.classes;
          break;
        }
      }
      tensor.classes = tensor.has_exponents ? std::max(1, classes - fewer) : 1;
      tensor.first = first;
      tensor.least = VarianceLevel(tensor.squares, tensor.size) - tensor.classes / 2;
      first += tensor.classes;
    }
    class_count = static_cast<size_t>(first);
    if (class_count <= kRansClassesMax) return true;
    if (fewer > 6) return false;
  }
}

ClassCounter::ClassCounter(absl::Span<const uint8_t> codes, const Layout& layout, int levels)
    : codes_(codes),
      layout_(layout),
      levels_(static_cast<size_t>(levels)),
      row_log2_(static_cast<int>(std::bit_width(levels_ - 1))) {}

std::vector<RansHistogram> ClassCounter::Count(const ContextModel& model, uint32_t index) {
  const Layout::Tensor& tensor = layout_.tensors()[index];
  const ContextTensor& context = model.tensors[tensor.quantised_index];
  const size_t class_count = context.last + size_t{1} - context.first;
  for (auto& one : counters_) one.assign((context.last + size_t{1}) << row_log2_, 0);
  std::array<uint32_t*, kCounters> counts;
  for (size_t j = 0; j < kCounters; ++j) counts[j] = counters_[j].data();
  for (uint64_t done = 0; done < tensor.size; done += kPart) {
    Extent extent{};
    extent.tensor = index;
    extent.first = tensor.offset + done;
    extent.count = std::min(kPart, tensor.size - done);
    FillClasses(model, layout_, extent, classes_.data());
    for (uint64_t at = 0; at < extent.count; at += kJoined) {
      const uint64_t here = std::min(kJoined, extent.count - at);
      kernels::JoinCodes(&classes_[at], codes_.data() + extent.first + at, here, row_log2_,
                         joined_.data());
      uint64_t i = 0;
      for (; i + kCounters <= here; i += kCounters) {
        for (size_t j = 0; j < kCounters; ++j) ++counts[j][joined_[i + j]];
      }
      for (; i < here; ++i) ++counts[0][joined_[i]];
    }
  }
  std::vector<RansHistogram> histograms(class_count);
  for (const uint32_t* const one : counts) {
    for (size_t c = 0; c < class_count; ++c) {
      const uint32_t* const row = one + ((context.first + c) << row_log2_);
      for (size_t code = 0; code < levels_; ++code) histograms[c][code] += row[code];
    }
  }
  return histograms;
}

Histogram Widened(const RansHistogram& histogram) {
  Histogram wide;
  std::copy(histogram.begin(), histogram.end(), wide.begin());
  return wide;
}

RansHistogram Together(const RansHistogram& a, const RansHistogram& b) {
  RansHistogram sum;
  for (size_t c = 0; c < sum.size(); ++c) sum[c] = a[c] + b[c];
  return sum;
}

uint64_t ClassCost(const RansHistogram& histogram) {
  uint64_t total = 0;
  uint64_t used = 0;
  for (const uint32_t count : histogram) {
    total += count;
    used += count != 0 ? 1 : 0;
  }
  const uint64_t table_bytes = total == 0          ? 1
                               : total > kFewCodes ? 3 + 3 * used / 2
                                                   : std::min<uint64_t>(3 + used, 4);
  return Entropy(Widened(histogram)) + (8 * table_bytes << 16);
}

bool GiveOwnClasses(const std::vector<std::vector<RansHistogram>>& by_tensor,
                    const std::vector<RansHistogram>& shared, std::vector<ContextTensor>& tensors,
                    std::vector<RansHistogram>& histograms) {
  if (tensors.size() < 2 || tensors.size() > kRansClassesMax) return false;
  std::vector<OwnClasses> own;
  own.reserve(tensors.size());
  size_t class_count = 0;
  for (size_t t = 0; t < tensors.size(); ++t) {
    own.emplace_back(by_tensor[t], tensors[t].base);
    class_count += own.back().size();
  }
  while (true) {
    OwnClasses* best = nullptr;
    for (OwnClasses& of_tensor : own) {
      if (of_tensor.size() < 2) continue;
      if (best == nullptr || of_tensor.join_cost() < best->join_cost()) best = &of_tensor;
    }
    if (best == nullptr || (class_count <= kRansClassesMax && best->join_cost() > 0)) break;
    best->Join();
    --class_count;
  }
  uint64_t shared_cost = 0;
  for (const RansHistogram& histogram : shared) shared_cost += ClassCost(histogram);
  uint64_t own_cost = 0;
  for (const OwnClasses& of_tensor : own) own_cost += of_tensor.cost() + (8u << 16);
  if (own_cost >= shared_cost) return false;
  size_t first = 0;
  for (size_t t = 0; t < tensors.size(); ++t) {
    tensors[t].base = static_cast<uint8_t>(tensors[t].base - own[t].highest_of_first());
    tensors[t].first = static_cast<uint8_t>(first);
    first += own[t].size();
    tensors[t].last = static_cast<uint8_t>(first - 1);
  }
  histograms.clear();
  for (const OwnClasses& of_tensor : own) of_tensor.Append(histograms);
  return true;
}

}  // namespace quantfl::codec::context_fit
