#include "server/start_model.h"

#include <cstdint>
#include <map>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "common/model/architectures.h"
#include "common/model/safetensors.h"
#include "common/model/schema_from_file.h"
#include "common/model/torchscript.h"
#include "common/model/trainable.h"

namespace quantfl {
namespace {

constexpr uint64_t kCheckpointBytesMax = uint64_t{1} << 38;

using Metadata = std::map<std::string, std::string>;

std::string At(const Metadata& metadata, const char* key) {
  const auto found = metadata.find(key);
  return found == metadata.end() ? "" : found->second;
}

std::string Shown(const std::string& text) {
  return absl::StrCat("\"", absl::CHexEscape(text.substr(0, 100)), "\"");
}

// The checkpoint's own word for the architecture, in the place of the configuration's.
absl::Status ResolveTorchScript(const Metadata& metadata, RunConfig& c) {
  const std::string architecture = At(metadata, model::kMetadataArchitecture);
  if (!model::TorchScriptDigest(architecture).ok()) {
    return absl::InvalidArgumentError(absl::StrCat(
        "model.architecture is ", kTorchScriptArchitecture, ", but the checkpoint says ",
        architecture.empty() ? "nothing" : Shown(architecture),
        ": `quantfl-model import` makes one that names its TorchScript file"));
  }
  const std::string classes = At(metadata, model::kMetadataClasses);
  uint32_t count = 0;
  if (!absl::SimpleAtoi(classes, &count)) {
    return absl::InvalidArgumentError(
        absl::StrCat("metadata ", model::kMetadataClasses, " is ", Shown(classes), ", no number"));
  }
  if (count != c.classes) {
    return absl::InvalidArgumentError(
        absl::StrCat("the checkpoint has ", count, " classes, model.classes is ", c.classes));
  }
  if (c.trainable == "head") {
    const std::string head = At(metadata, model::kMetadataTorchScriptHead);
    if (head.empty()) {
      return absl::InvalidArgumentError(
          "training.trainable is head, but the checkpoint does not say which layer that is: "
          "quantfl-model import --head NAME, or a pattern of tensor names");
    }
    c.trainable = absl::StrCat(head, ".*");
  }
  // Nothing changes them, so nothing need travel.
  if (At(metadata, model::kMetadataTorchScriptMode) == "eval") c.freeze_bn = true;
  c.architecture = architecture;
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<StartModel> LoadStartModel(RunConfig& c, base::Env& env) {
  QFL_ASSIGN_OR_RETURN(std::string bytes, env.ReadFile(c.model_file, kCheckpointBytesMax));
  const auto read = [&]() -> absl::StatusOr<model::Schema> {
    QFL_ASSIGN_OR_RETURN(const model::SafetensorsView file, model::ParseSafetensors(bytes));
    if (c.architecture == kTorchScriptArchitecture) {
      QFL_RETURN_IF_ERROR(ResolveTorchScript(file.metadata, c));
    }
    QFL_RETURN_IF_ERROR(c.ResolveInput(file.metadata));
    const bool by_file =
        c.architecture == kCustomArchitecture || model::IsTorchScript(c.architecture);
    QFL_ASSIGN_OR_RETURN(const model::Schema all,
                         by_file ? model::SchemaFromSafetensors(c.architecture, bytes)
                                 : model::ArchitectureSchema(c.architecture, c.classes));
    QFL_ASSIGN_OR_RETURN(model::Schema schema, model::ApplyTrainable(all, c.trainable));
    return c.freeze_bn ? model::FreezeStatistics(schema) : schema;
  };
  absl::StatusOr<model::Schema> schema = read();
  if (!schema.ok()) return base::Annotate(schema.status(), c.model_file);
  return StartModel{std::move(bytes), *std::move(schema)};
}

}  // namespace quantfl
