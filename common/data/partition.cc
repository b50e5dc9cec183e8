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

// Streams of one seed: `round` 0 orders the examples, 1 + label cuts that label, kShardRound deals
// shards.
constexpr uint32_t kShardRound = 1u << 17;
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

// McMahan et al. 2017, "Communication-efficient learning of deep networks from decentralized data",
// section 3.
absl::StatusOr<std::vector<Indices>> CutIntoShards(Indices order, absl::Span<const uint16_t> labels,
                                                   const PartitionSpec& spec) {
  const uint64_t shards = uint64_t{spec.partitions} * spec.shards_per_client;
  if (shards == 0 || shards > order.size()) {
    return absl::InvalidArgumentError(
        absl::StrCat("partitions = ", spec.partitions,
                     " with shards_per_client = ", spec.shards_per_client, " make ", shards,
                     " shards of ", order.size(), " examples; there must be 1 to ", order.size()));
  }
  // Stable, so that examples of one label stay shuffled.
  std::stable_sort(order.begin(), order.end(),
                   [&](uint32_t a, uint32_t b) { return labels[a] < labels[b]; });
  const std::vector<Indices> cut = CutEvenly(order, static_cast<uint32_t>(shards));
  Indices dealt(shards);
  std::iota(dealt.begin(), dealt.end(), 0u);
  Stream(spec, kShardRound).Shuffle(dealt);
  std::vector<Indices> result(spec.partitions);
  for (size_t i = 0; i < dealt.size(); ++i) {
    const Indices& shard = cut[dealt[i]];
    Indices& client = result[i / spec.shards_per_client];
    client.insert(client.end(), shard.begin(), shard.end());
  }
  return result;
}

absl::StatusOr<std::vector<Indices>> CutBySubject(const Indices& order,
                                                  absl::Span<const uint16_t> subjects,
                                                  const PartitionSpec& spec) {
  if (subjects.empty()) {
    return absl::InvalidArgumentError(
        "the natural partition needs data that names its subjects, as safetensors files do with "
        "the tensor subject; choose iid, dirichlet or shards for other data");
  }
  std::vector<Indices> by_subject(size_t{1} << 16);
  for (const uint32_t i : order) by_subject[subjects[i]].push_back(i);
  by_subject.erase(std::remove_if(by_subject.begin(), by_subject.end(),
                                  [](const Indices& examples) { return examples.empty(); }),
                   by_subject.end());
  if (spec.partitions > by_subject.size()) {
    return absl::InvalidArgumentError(
        absl::StrCat("partitions = ", spec.partitions, " of the natural partition for ",
                     by_subject.size(), " subjects; it must be 1 to ", by_subject.size()));
  }
  std::vector<Indices> result(spec.partitions);
  for (size_t rank = 0; rank < by_subject.size(); ++rank) {
    Indices& client = result[rank % spec.partitions];
    client.insert(client.end(), by_subject[rank].begin(), by_subject[rank].end());
  }
  return result;
}

absl::StatusOr<std::vector<Indices>> Cut(absl::Span<const uint16_t> labels,
                                         absl::Span<const uint16_t> subjects,
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
    absl::StatusOr<std::vector<Indices>> cut;
    if (spec.kind == PartitionKind::kDirichlet) {
      if (!(spec.alpha > 0) || !std::isfinite(spec.alpha)) {
        return absl::InvalidArgumentError(absl::StrCat(
            "alpha = ", spec.alpha, " of the Dirichlet partition must be above 0 and finite"));
      }
      cut = CutByLabel(order, labels, spec);
    } else if (spec.kind == PartitionKind::kShards) {
      cut = CutIntoShards(std::move(order), labels, spec);
    } else if (spec.kind == PartitionKind::kNatural) {
      cut = CutBySubject(order, subjects, spec);
    } else {
      cut = CutEvenly(order, spec.partitions);
    }
    if (!cut.ok()) return cut.status();
    result = *std::move(cut);
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

}  // namespace

std::vector<uint32_t> AllExamples(const Dataset& dataset) {
  Indices all(dataset.count());
  std::iota(all.begin(), all.end(), 0u);
  return all;
}

absl::StatusOr<std::vector<Indices>> Partition(const Dataset& dataset, const PartitionSpec& spec) {
  return Cut(dataset.labels, dataset.subjects, spec);
}

absl::StatusOr<std::vector<Indices>> Partition(absl::Span<const uint16_t> labels,
                                               const PartitionSpec& spec) {
  return Cut(labels, {}, spec);
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
