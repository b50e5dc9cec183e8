#include "server/ctl/schema_of.h"

#include <string>
#include <utility>

#include "absl/strings/match.h"
#include "common/base/status.h"
#include "common/model/architectures.h"
#include "common/model/safetensors.h"
#include "common/model/schema_from_file.h"

namespace quantfl::ctl {
namespace {

constexpr char kSchemaMagic[] = "QFLS";
constexpr uint32_t kGuessedClassesMax = 1000;

}  // namespace

absl::StatusOr<model::Schema> SchemaOf(absl::string_view bytes) {
  if (absl::StartsWith(bytes, kSchemaMagic)) return model::Schema::Parse(bytes);
  QFL_ASSIGN_OR_RETURN(const model::SafetensorsView file, model::ParseSafetensors(bytes));
  const auto named = file.metadata.find(model::kMetadataArchitecture);
  return model::SchemaFromSafetensors(
      named == file.metadata.end() ? absl::string_view("custom") : named->second, bytes);
}

std::optional<model::Schema> Recognise(absl::string_view digest) {
  for (const std::string& architecture : model::ArchitectureNames()) {
    for (uint32_t classes = model::kClassesMin; classes <= kGuessedClassesMax; ++classes) {
      absl::StatusOr<model::Schema> schema = model::ArchitectureSchema(architecture, classes);
      if (schema.ok() && schema->digest().AsBytes() == digest) return *std::move(schema);
    }
  }
  return std::nullopt;
}

}  // namespace quantfl::ctl
