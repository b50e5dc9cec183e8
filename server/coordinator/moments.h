#ifndef QUANTFL_SERVER_COORDINATOR_MOMENTS_H_
#define QUANTFL_SERVER_COORDINATOR_MOMENTS_H_

#include <cstddef>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "common/model/schema.h"
#include "server/aggregation/server_optimiser.h"

namespace quantfl::coordinator {

// What the server optimiser keeps from round to round, in the very bytes that the store keeps: a
// safetensors file of one or two vectors, "m" and "v", each float32[n] in the order of an update.
// So memory is one model for each moment, and not another for writing it. Not thread-safe.
class Moments {
 public:
  // As before the first round. `schema` is valid for as long as the run.
  static absl::StatusOr<Moments> Begin(const aggregation::ServerOptimiserSpec& spec,
                                       const model::Schema& schema);
  // As they were when file() was `bytes`. DATA_LOSS: anything but such a file of the same optimiser
  // and schema, or a value that is not finite.
  static absl::StatusOr<Moments> Parse(const aggregation::ServerOptimiserSpec& spec,
                                       const model::Schema& schema, absl::string_view bytes);

  // float32[MomentCount * n]
  absl::Span<float> values() { return absl::MakeSpan(file_).subspan(header_); }
  // Empty if the optimiser keeps nothing. Valid until *this goes; it changes with values().
  absl::string_view file() const {
    return {reinterpret_cast<const char*>(file_.data()), file_.size() * sizeof(float)};
  }

 private:
  std::vector<float> file_;  // its header first, a multiple of 8 bytes
  size_t header_ = 0;        // in floats
};

// Where an update holds statistics of the data, which no optimiser may adapt.
std::vector<aggregation::ParameterRange> StatisticsOf(const model::Schema& schema);

}  // namespace quantfl::coordinator

#endif  // QUANTFL_SERVER_COORDINATOR_MOMENTS_H_
