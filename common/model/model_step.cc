#include "common/model/model_step.h"

#include <cmath>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "common/codec/update.h"
#include "common/model/safetensors.h"

namespace quantfl::model {
namespace {

constexpr char kArchitecture[] = "architecture";

}  // namespace

std::map<std::string, std::string> MetadataOfRound(std::map<std::string, std::string> metadata,
                                                   const Schema& schema, uint32_t round) {
  metadata[kArchitecture] = schema.architecture();
  metadata[kMetadataRound] = absl::StrCat(round);
  return metadata;
}

absl::StatusOr<std::string> ApplyStep(absl::string_view base, absl::string_view update,
                                      const Schema& schema, uint32_t round, bool replaces) {
  std::vector<float> values;
  {
    QFL_ASSIGN_OR_RETURN(const codec::UpdateFile file, codec::ParseUpdateFile(update));
    QFL_ASSIGN_OR_RETURN(values, codec::Decode(file.header, file.chunks, schema.update_layout()));
  }
  QFL_ASSIGN_OR_RETURN(std::vector<float> flat, LoadFlat(base, schema));
  if (!replaces) {
    const std::vector<float> before = schema.Gather(flat);
    for (size_t i = 0; i < values.size(); ++i) {
      values[i] = before[i] + values[i];
      if (std::isfinite(values[i])) continue;
      return absl::DataLossError(
          absl::StrCat("parameter ", i, " of an update is not finite after round ", round));
    }
  }
  schema.Scatter(values, absl::MakeSpan(flat));
  std::vector<float>().swap(values);
  QFL_ASSIGN_OR_RETURN(const SafetensorsView view, ParseSafetensors(base));
  return SerializeSafetensors(schema, flat, MetadataOfRound(view.metadata, schema, round));
}

}  // namespace quantfl::model
