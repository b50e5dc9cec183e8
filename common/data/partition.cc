#include <algorithm>
#include <cmath>
#include <cstdio>
#include <numeric>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "common/base/prng.h"
#include "common/data/dataset.h"

namespace quantfl::data {
namespace {

using federation::PartitionKind;
using federation::PartitionSpec;
using Indices = std::vector<uint32_t>;

// Streams of one seed: `round` 0 orders the examples, 1 + label cuts that label.
base::Prng Stream(const PartitionSpec& spec, uint32_t round) {
  return base::Prng(
      {.run_seed = spec.seed, .round = round, .purpose = base::PrngPurpose::kPartition});
}

// Sizes that differ by at most one, the larger ones first.
std::vector<Indices> CutEvenly(const Indices& order, uint32_t partitions) {
  std::vector<Indices> result(partitions);
  size_t begin = 0;
  for (uint32_t k = 0; k < partitions; ++k) {
    const size_t size = order.size() / partitions + (k < order.size() % partitions ? 1 : 0);
    result[k].assign(order.begin() + begin, order.begin() + begin + size);
    begin += size;
  }
  return result;
}

// Each label's examples are shared out in proportions drawn from Dirichlet(alpha, ..., alpha)
// (Hsu, Qi, Brown 2019: "Measuring the effects of non-identical data distribution").
absl::StatusOr<std::vector<Indices>> CutByLabel(const Indices& order,
                                                absl::Span<const uint16_t> labels,
                                                const PartitionSpec& spec) {
  std::vector<Indices> by_label(size_t{1} << 16);
  for (uint32_t i : order) by_label[labels[i]].push_back(i);
  std::vector<Indices> result(spec.partitions);
  std::vector<double> cumulative(spec.partitions);
  for (uint32_t label = 0; label < by_label.size(); ++label) {
    const Indices& examples = by_label[label];
    if (examples.empty()) continue;
    base::Prng prng = Stream(spec, 1 + label);
    double total = 0;
    for (double& c : cumulative) c = total += prng.Gamma(spec.alpha);
    if (!(total > 0) || !std::isfinite(total)) {
      return absl::InvalidArgumentError(
          absl::StrCat("alpha = ", spec.alpha, " of the Dirichlet partition ",
                       "gives no usable proportions for label ", label,
                       "; choose an alpha between 0.01 and 1e6"));
    }
    size_t begin = 0;
    for (uint32_t k = 0; k < spec.partitions; ++k) {
      const size_t end =
          k + 1 == spec.partitions
              ? examples.size()
              : static_cast<size_t>(cumulative[k] / total * static_cast<double>(examples.size()));
      result[k].insert(result[k].end(), examples.begin() + begin, examples.begin() + end);
      begin = end;
    }
  }
  return result;
}

}  // namespace

absl::StatusOr<std::vector<Indices>> Partition(absl::Span<const uint16_t> labels,
                                               const PartitionSpec& spec) {
  if (labels.empty() || labels.size() > UINT32_MAX) {
    return absl::InvalidArgumentError(
        absl::StrCat("a data set of ", labels.size(), " examples; it must have 1 to ", UINT32_MAX));
  }
  Indices order(labels.size());
  std::iota(order.begin(), order.end(), 0u);
  if (spec.kind != PartitionKind::kOwn || spec.examples_max != 0) Stream(spec, 0).Shuffle(order);
  if (spec.examples_max != 0 && spec.examples_max < order.size()) order.resize(spec.examples_max);

  std::vector<Indices> result;
  if (spec.kind == PartitionKind::kOwn) {
    result.push_back(std::move(order));
  } else {
    if (spec.partitions == 0 || spec.partitions > order.size()) {
      return absl::InvalidArgumentError(absl::StrCat("partitions = ", spec.partitions, " for ",
                                                     order.size(), " examples; it must be 1 to ",
                                                     order.size()));
    }
    if (spec.kind == PartitionKind::kDirichlet) {
      if (!(spec.alpha > 0) || !std::isfinite(spec.alpha)) {
        return absl::InvalidArgumentError(absl::StrCat(
            "alpha = ", spec.alpha, " of the Dirichlet partition must be above 0 and finite"));
      }
      absl::StatusOr<std::vector<Indices>> cut = CutByLabel(order, labels, spec);
      if (!cut.ok()) return cut.status();
      result = *std::move(cut);
    } else {
      result = CutEvenly(order, spec.partitions);
    }
  }
  for (size_t k = 0; k < result.size(); ++k) {
    if (result[k].empty()) {
      return absl::InvalidArgumentError(absl::StrCat(
          "the Dirichlet partition with alpha = ", spec.alpha, " and seed ", spec.seed,
          " leaves client ", k, " of ", spec.partitions,
          " without an example; choose a larger alpha, fewer partitions or another seed"));
    }
    std::sort(result[k].begin(), result[k].end());
  }
  return result;
}

std::string PartitionTable(absl::Span<const uint16_t> labels,
                           const std::vector<Indices>& partitions) {
  uint32_t classes = 0;
  for (const Indices& partition : partitions) {
    for (uint32_t i : partition) classes = std::max(classes, uint32_t{labels[i]} + 1);
  }
  std::vector<uint64_t> totals(classes);
  std::vector<std::vector<uint64_t>> counts(partitions.size(), std::vector<uint64_t>(classes));
  for (size_t k = 0; k < partitions.size(); ++k) {
    for (uint32_t i : partitions[k]) {
      ++counts[k][labels[i]];
      ++totals[labels[i]];
    }
  }
  const int width = static_cast<int>(std::max<size_t>(
      {3, absl::StrCat(classes).size(),
       totals.empty() ? 0 : absl::StrCat(*std::max_element(totals.begin(), totals.end())).size()}));
  std::string table = absl::StrFormat("%-8s %8s", "client", "examples");
  for (uint32_t label = 0; label < classes; ++label)
    absl::StrAppendFormat(&table, " %*d", width, label);
  absl::StrAppend(&table, "\n");
  const auto row = [&](const std::string& name, const std::vector<uint64_t>& values) {
    absl::StrAppendFormat(&table, "%-8s %8d", name,
                          std::accumulate(values.begin(), values.end(), uint64_t{0}));
    for (uint64_t value : values) absl::StrAppendFormat(&table, " %*d", width, value);
    absl::StrAppend(&table, "\n");
  };
  for (size_t k = 0; k < partitions.size(); ++k) row(absl::StrCat(k), counts[k]);
  row("all", totals);
  return table;
}

}  // namespace quantfl::data
