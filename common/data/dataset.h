#ifndef QUANTFL_COMMON_DATA_DATASET_H_
#define QUANTFL_COMMON_DATA_DATASET_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "common/base/env.h"
#include "common/federation/types.h"

namespace quantfl::data {

// Labelled images in memory, as bytes, or labelled signals, as numbers: count x channels x height x
// width, row-major.
struct Dataset {
  uint32_t channels = 1;
  uint32_t height = 0;
  uint32_t width = 0;
  // One of the two holds the examples, the other is empty.
  std::vector<uint8_t> pixels;
  std::vector<float> features;
  std::vector<uint16_t> labels;
  // Whom or what each example comes from, any numbers; empty where the data does not say.
  std::vector<uint16_t> subjects;

  uint64_t count() const { return labels.size(); }
  bool is_signals() const { return !features.empty(); }
  uint64_t example_values() const { return uint64_t{channels} * height * width; }
  uint64_t example_bytes() const { return example_values(); }  // of images
  absl::Span<const uint8_t> example(uint64_t i) const {
    return absl::MakeConstSpan(pixels).subspan(i * example_bytes(), example_bytes());
  }
  uint32_t classes() const;  // largest label + 1
};

// The indices of all examples, ascending.
std::vector<uint32_t> AllExamples(const Dataset& dataset);

enum class Split { kTrain, kTest };

// idx files as MNIST publishes them, plain or .gz, found by their usual names in `folder`
// (train-images-idx3-ubyte[.gz] ...). NOT_FOUND names the files looked for and how to get them;
// DATA_LOSS: wrong magic, sizes that disagree, truncated or trailing bytes, images and labels of
// different counts. Sizes are checked before allocation.
absl::StatusOr<Dataset> LoadIdxFolder(base::Env& env, const std::string& folder, Split split);

// The two files' bytes (already decompressed).
absl::StatusOr<Dataset> ParseIdx(absl::string_view images, absl::string_view labels);
// gzip to bytes, at most `max_bytes`.
absl::StatusOr<std::string> Gunzip(absl::string_view compressed, uint64_t max_bytes);

// The example indices of each of spec.partitions clients, each ascending; of kind kOwn one entry,
// which is everybody's. Every example belongs to exactly one client (of the first examples_max
// after a seeded shuffle, where that is set).
//   kShards   the examples, in the order of that shuffle but sorted by label, are cut into
//             partitions x shards_per_client pieces whose sizes differ by one at most; a second
//             shuffle deals them out
//   kNatural  subjects in ascending order are dealt out in turn: with as many partitions as
//             subjects, client k is the k-th; with fewer, nobody's examples are torn apart
// INVALID_ARGUMENT: values out of range; more partitions, shards or (of kNatural) subjects wanted
// than there are; a client left without any example by a small alpha, which is named; kNatural of
// data that names no subjects. A pure function of (dataset, spec) on one machine; Dirichlet draws
// use libm, so between machines they may differ in the last place (clients that must agree exactly
// run the same build).
absl::StatusOr<std::vector<std::vector<uint32_t>>> Partition(const Dataset& dataset,
                                                             const federation::PartitionSpec& spec);
// The same of data that names no subjects.
absl::StatusOr<std::vector<std::vector<uint32_t>>> Partition(absl::Span<const uint16_t> labels,
                                                             const federation::PartitionSpec& spec);

// Rows: clients, columns: labels, and a row of totals; for people.
std::string PartitionTable(absl::Span<const uint16_t> labels,
                           const std::vector<std::vector<uint32_t>>& partitions);

}  // namespace quantfl::data

#endif  // QUANTFL_COMMON_DATA_DATASET_H_
