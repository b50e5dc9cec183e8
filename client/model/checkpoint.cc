#include "client/model/checkpoint.h"

#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "common/data/input_metadata.h"
#include "common/model/architectures.h"
#include "common/model/safetensors.h"
#include "common/model/schema_from_file.h"
#include "common/model/torchscript.h"

namespace quantfl::model_tool {
namespace {

constexpr uint64_t kCheckpointBytesMax = uint64_t{4} << 30;

absl::StatusOr<Checkpoint> ParseTorchScript(absl::string_view bytes,
                                            const model::SafetensorsView& view,
                                            const std::string& architecture) {
  QFL_RETURN_IF_ERROR(model::TorchScriptDigest(architecture).status());
  uint32_t classes = 0;
  if (const auto it = view.metadata.find(model::kMetadataClasses);
      it == view.metadata.end() || !absl::SimpleAtoi(it->second, &classes)) {
    return absl::DataLossError(
        absl::StrCat("metadata ", model::kMetadataClasses, " is missing or no number"));
  }
  federation::InputSpec input;
  QFL_RETURN_IF_ERROR(data::ReadInputMetadata(view.metadata, input));
  QFL_ASSIGN_OR_RETURN(model::Schema schema, model::SchemaFromSafetensors(architecture, bytes));
  QFL_ASSIGN_OR_RETURN(std::vector<float> flat, model::LoadFlat(bytes, schema));
  Checkpoint checkpoint = {std::move(schema), classes, std::move(input), std::move(flat)};
  for (const char* key : {model::kMetadataTorchScriptHead, model::kMetadataTorchScriptMode,
                          model::kMetadataTorchScriptNames}) {
    const auto it = view.metadata.find(key);
    if (it != view.metadata.end()) checkpoint.torchscript.insert(*it);
  }
  return checkpoint;
}

absl::StatusOr<Checkpoint> Parse(absl::string_view bytes, const std::string& default_architecture,
                                 const federation::InputSpec& default_input) {
  QFL_ASSIGN_OR_RETURN(const model::SafetensorsView view, model::ParseSafetensors(bytes));
  std::string architecture = default_architecture;
  if (const auto it = view.metadata.find(model::kMetadataArchitecture); it != view.metadata.end()) {
    architecture = it->second.substr(0, 256);
    if (model::IsTorchScript(architecture)) return ParseTorchScript(bytes, view, architecture);
    if (!model::ArchitectureInputShape(architecture).ok())
      architecture = absl::CHexEscape(architecture);
  }
  federation::InputSpec input = default_input;
  QFL_RETURN_IF_ERROR(data::ReadInputMetadata(view.metadata, input));
  // A file without a usable head is compared with a common one, so that the error says what is
  // missing.
  uint64_t classes = 10;
  QFL_ASSIGN_OR_RETURN(const std::vector<std::string> head, HeadTensors(architecture));
  if (const auto it = view.tensors.find(head.front());
      it != view.tensors.end() && !it->second.shape.empty() &&
      it->second.shape[0] >= model::kClassesMin && it->second.shape[0] <= model::kClassesMax) {
    classes = it->second.shape[0];
  }
  QFL_ASSIGN_OR_RETURN(model::Schema schema,
                       model::ArchitectureSchema(architecture, static_cast<uint32_t>(classes)));
  QFL_ASSIGN_OR_RETURN(std::vector<float> flat, model::LoadFlat(bytes, schema));
  return Checkpoint{std::move(schema), static_cast<uint32_t>(classes), input, std::move(flat)};
}

}  // namespace

absl::StatusOr<std::vector<std::string>> HeadTensors(const std::string& architecture) {
  QFL_ASSIGN_OR_RETURN(const model::Schema two, model::ArchitectureSchema(architecture, 2));
  QFL_ASSIGN_OR_RETURN(const model::Schema three, model::ArchitectureSchema(architecture, 3));
  std::vector<std::string> names;
  for (size_t i = 0; i < two.tensors().size(); ++i) {
    if (two.tensors()[i].shape != three.tensors()[i].shape) names.push_back(two.tensors()[i].name);
  }
  return names;
}

absl::StatusOr<Checkpoint> LoadCheckpoint(base::Env& env, const std::string& path,
                                          const std::string& default_architecture,
                                          const federation::InputSpec& default_input) {
  QFL_ASSIGN_OR_RETURN(const std::string bytes, env.ReadFile(path, kCheckpointBytesMax));
  absl::StatusOr<Checkpoint> checkpoint = Parse(bytes, default_architecture, default_input);
  if (!checkpoint.ok()) return base::Annotate(checkpoint.status(), path);
  return checkpoint;
}

absl::Status LoadBody(base::Env& env, const std::string& path, Checkpoint& fresh) {
  QFL_ASSIGN_OR_RETURN(const std::string bytes, env.ReadFile(path, kCheckpointBytesMax));
  const auto read = [&]() -> absl::Status {
    QFL_ASSIGN_OR_RETURN(const model::SafetensorsView view, model::ParseSafetensors(bytes));
    const std::string& architecture = fresh.schema.architecture();
    if (const auto it = view.metadata.find(model::kMetadataArchitecture);
        it != view.metadata.end() && it->second != architecture) {
      return absl::InvalidArgumentError(absl::StrCat("this is a ",
                                                     absl::CHexEscape(it->second.substr(0, 256)),
                                                     ", --architecture is ", architecture));
    }
    QFL_RETURN_IF_ERROR(data::ReadInputMetadata(view.metadata, fresh.input));
    QFL_ASSIGN_OR_RETURN(const std::vector<std::string> head, HeadTensors(architecture));
    return model::LoadAllBut(bytes, fresh.schema, head, absl::MakeSpan(fresh.flat));
  };
  return base::Annotate(read(), path);
}

absl::StatusOr<base::Digest> SaveCheckpoint(base::Env& env, const std::string& path,
                                            const Checkpoint& checkpoint) {
  std::map<std::string, std::string> metadata = data::InputMetadata(checkpoint.input);
  metadata[model::kMetadataArchitecture] = checkpoint.schema.architecture();
  metadata[model::kMetadataClasses] = absl::StrCat(checkpoint.classes);
  if (model::IsTorchScript(checkpoint.schema.architecture())) {
    // Of a built-in network everybody knows them.
    metadata[model::kMetadataInputChannels] = absl::StrCat(checkpoint.input.channels);
    metadata.insert(checkpoint.torchscript.begin(), checkpoint.torchscript.end());
  }
  const std::string bytes =
      model::SerializeSafetensors(checkpoint.schema, checkpoint.flat, metadata);
  QFL_RETURN_IF_ERROR(env.WriteFileAtomically(path, bytes));
  return base::Sha256(bytes);
}

}  // namespace quantfl::model_tool
