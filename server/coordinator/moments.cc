#include "server/coordinator/moments.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/check.h"
#include "common/base/status.h"
#include "common/model/architectures.h"
#include "common/model/safetensors.h"

namespace quantfl::coordinator {
namespace {

constexpr const char* kNames[] = {"m", "v"};

}  // namespace

absl::StatusOr<Moments> Moments::Begin(const aggregation::ServerOptimiserSpec& spec,
                                       const model::Schema& schema) {
  Moments moments;
  const int count = aggregation::MomentCount(spec.kind);
  if (count == 0) return moments;
  const uint64_t n = schema.update_layout().n();
  std::vector<model::TensorInfo> tensors;
  tensors.reserve(static_cast<size_t>(count));
  for (int i = 0; i < count; ++i) tensors.push_back({kNames[i], {n}});
  QFL_ASSIGN_OR_RETURN(const model::Schema described,
                       model::Schema::Create("moments", std::move(tensors)));
  std::vector<float> values(described.size());
  for (int i = 0; i < count; ++i) {
    std::fill_n(values.begin() + static_cast<ptrdiff_t>(i * n), n,
                aggregation::InitialMoment(spec, i));
  }
  const std::string bytes =
      model::SerializeSafetensors(described, values,
                                  {{"quantfl.schema", schema.digest().Hex()},
                                   {"quantfl.server_optimiser", aggregation::ToString(spec.kind)}});
  QFL_CHECK(bytes.size() % sizeof(float) == 0);
  moments.file_.resize(bytes.size() / sizeof(float));
  std::memcpy(moments.file_.data(), bytes.data(), bytes.size());
  moments.header_ = moments.file_.size() - values.size();
  return moments;
}

absl::StatusOr<Moments> Moments::Parse(const aggregation::ServerOptimiserSpec& spec,
                                       const model::Schema& schema, absl::string_view bytes) {
  QFL_ASSIGN_OR_RETURN(Moments moments, Begin(spec, schema));
  const size_t header_bytes = moments.header_ * sizeof(float);
  // Nothing in the header depends on the values.
  if (bytes.size() != moments.file().size() ||
      bytes.substr(0, header_bytes) != moments.file().substr(0, header_bytes)) {
    return absl::DataLossError(absl::StrCat("the kept moments are ", bytes.size(),
                                            " bytes, or of another model or optimiser; ",
                                            aggregation::ToString(spec.kind), " keeps ",
                                            moments.file().size(), " bytes for this model"));
  }
  std::memcpy(moments.file_.data(), bytes.data(), bytes.size());
  const absl::Span<float> values = moments.values();
  const auto wrong =
      std::find_if(values.begin(), values.end(), [](float v) { return !std::isfinite(v); });
  if (wrong == values.end()) return moments;
  return absl::DataLossError(
      absl::StrCat("the kept moments: value ", wrong - values.begin(), " is not finite"));
}

std::vector<aggregation::ParameterRange> StatisticsOf(const model::Schema& schema) {
  std::vector<aggregation::ParameterRange> ranges;
  uint64_t position = 0;
  for (const model::TensorInfo& tensor : schema.tensors()) {
    if (tensor.policy == model::Policy::kSkip) continue;
    if (model::IsStatistic(tensor.name)) ranges.push_back({position, tensor.size()});
    position += tensor.size();
  }
  return ranges;
}

}  // namespace quantfl::coordinator
