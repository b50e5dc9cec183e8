#include "client/model/import.h"

#include <utility>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "client/model/name_map.h"
#include "common/base/digest.h"
#include "common/base/status.h"
#include "common/learn/script.h"
#include "common/model/near_misses.h"
#include "common/model/safetensors.h"
#include "common/model/torchscript.h"

namespace quantfl::model_tool {
namespace {

constexpr uint64_t kNameMapBytesMax = 16u << 20;
constexpr uint64_t kWeightsBytesMax = uint64_t{4} << 30;
constexpr uint32_t kChannelsDefault = 3;
constexpr size_t kNearMissesShown = 4;

absl::StatusOr<federation::InputSpec> Input(const ImportOptions& options) {
  if (!options.input.height) {
    return absl::InvalidArgumentError(
        "--input-height is missing: the size of the images that the module was made for, in pixels "
        "(224 for torchvision's networks of ImageNet)");
  }
  federation::InputSpec input;
  input.channels = options.channels.value_or(kChannelsDefault);
  if (input.channels == 3) {  // torchvision's
    input.mean = {0.485, 0.456, 0.406};
    input.stddev = {0.229, 0.224, 0.225};
  }
  QFL_RETURN_IF_ERROR(ApplyInput(options.input, input));
  return input;
}

absl::Status CheckMode(const learn::ScriptSummary& summary, bool accept_eval_mode) {
  using learn::ScriptMode;
  if (summary.mode == ScriptMode::kFree) return absl::OkStatus();
  constexpr char kWayOut[] =
      "save torch.jit.script(module), which follows module.train() and module.eval()";
  if (summary.mode == ScriptMode::kEval) {
    if (accept_eval_mode) return absl::OkStatus();
    return absl::InvalidArgumentError(absl::StrCat(
        "the module was traced in eval mode, which is fixed in it (", summary.fixed,
        "): it would train with batch normalisation as it was and without dropout. Way out: ",
        kWayOut,
        ". Or --accept-eval-mode takes it as it is: running statistics then stay those "
        "of the file"));
  }
  return absl::InvalidArgumentError(absl::StrCat(
      "the module was traced in training mode, which is fixed in it (", summary.fixed,
      "): it would be evaluated with the statistics of each batch, and with dropout. Way out: ",
      kWayOut));
}

// "classifier.1" of "classifier.1.weight".
std::string ModuleOf(const std::string& tensor) {
  return tensor.substr(0, tensor.rfind('.') == std::string::npos ? 0 : tensor.rfind('.'));
}

// The module of the last layer, by the names of `schema`; empty where none is found by itself.
absl::StatusOr<std::string> Head(const std::string& asked, const model::Schema& schema,
                                 uint32_t classes) {
  std::string found;
  for (const model::TensorInfo& tensor : schema.tensors()) {
    const std::string module = ModuleOf(tensor.name);
    if (asked.empty()) {
      if (tensor.shape.size() >= 2 && tensor.shape[0] == classes) found = module;
    } else if (module == asked || absl::StartsWith(module, absl::StrCat(asked, "."))) {
      return asked;
    }
  }
  if (asked.empty()) return found;
  const std::vector<std::string> near = model::NearMisses(asked, schema, kNearMissesShown);
  return absl::InvalidArgumentError(absl::StrCat(
      "--head ", absl::CHexEscape(asked.substr(0, 100)), ": no trainable tensor is in that module",
      near.empty() ? "" : absl::StrCat("; near: ", absl::StrJoin(near, ", "))));
}

absl::StatusOr<model::Schema> Renamed(const model::Schema& own, const std::string& path,
                                      base::Env& env, std::string& changed) {
  QFL_ASSIGN_OR_RETURN(const std::string text, env.ReadFile(path, kNameMapBytesMax));
  const absl::StatusOr<std::vector<std::string>> names = ApplyNameMap(text, own);
  if (!names.ok()) return base::Annotate(names.status(), path);
  std::vector<model::TensorInfo> tensors = own.tensors();
  for (size_t i = 0; i < tensors.size(); ++i) {
    if ((*names)[i] == tensors[i].name) continue;
    absl::StrAppend(&changed, changed.empty() ? "" : ",", (*names)[i], "=", tensors[i].name);
    tensors[i].name = (*names)[i];
  }
  absl::StatusOr<model::Schema> schema =
      model::Schema::Create(own.architecture(), std::move(tensors));
  if (!schema.ok()) return base::Annotate(schema.status(), path);
  return schema;
}

}  // namespace

absl::Status RunImport(const ImportOptions& options, base::Env& env,
                       terminal::ProgressLine& progress) {
  QFL_RETURN_IF_ERROR(PrepareOut(env, options.out));
  QFL_ASSIGN_OR_RETURN(federation::InputSpec input, Input(options));
  QFL_ASSIGN_OR_RETURN(const std::string file,
                       env.ReadFile(options.torchscript, kTorchScriptBytesMax));
  const base::Digest digest = base::Sha256(file);
  std::string renamed;
  std::string head;
  const auto make = [&]() -> absl::StatusOr<Checkpoint> {
    QFL_ASSIGN_OR_RETURN(learn::ScriptSummary summary,
                         learn::InspectScript(file, {input.channels, input.height, input.width}));
    QFL_RETURN_IF_ERROR(CheckMode(summary, options.accept_eval_mode));
    if (options.classes && *options.classes != summary.classes) {
      return absl::InvalidArgumentError(absl::StrCat(
          "the module has ", summary.classes, " classes, --classes is ", *options.classes,
          ": give it a last layer with ", *options.classes, " outputs before it is scripted"));
    }
    QFL_ASSIGN_OR_RETURN(
        model::Schema schema,
        model::Schema::Create(model::TorchScriptArchitecture(digest), std::move(summary.tensors)));
    if (!options.name_map.empty()) {
      QFL_ASSIGN_OR_RETURN(schema, Renamed(schema, options.name_map, env, renamed));
    }
    QFL_ASSIGN_OR_RETURN(head, Head(options.head, schema, summary.classes));
    Checkpoint checkpoint = {std::move(schema), summary.classes, std::move(input),
                             std::move(summary.flat)};
    if (!head.empty()) checkpoint.torchscript[model::kMetadataTorchScriptHead] = head;
    if (!renamed.empty()) checkpoint.torchscript[model::kMetadataTorchScriptNames] = renamed;
    if (summary.mode == learn::ScriptMode::kEval) {
      checkpoint.torchscript[model::kMetadataTorchScriptMode] = "eval";
    }
    return checkpoint;
  };
  absl::StatusOr<Checkpoint> checkpoint = make();
  if (!checkpoint.ok()) return base::Annotate(checkpoint.status(), options.torchscript);
  if (!options.weights.empty()) {
    QFL_ASSIGN_OR_RETURN(const std::string weights,
                         env.ReadFile(options.weights, kWeightsBytesMax));
    absl::StatusOr<std::vector<float>> flat = model::LoadFlat(weights, checkpoint->schema);
    if (!flat.ok()) return base::Annotate(flat.status(), options.weights);
    checkpoint->flat = *std::move(flat);
  }
  QFL_RETURN_IF_ERROR(Save(env, options.out, *checkpoint, progress));
  progress.Print(absl::StrCat("examples of ", checkpoint->input.channels, " x ",
                              checkpoint->input.height, " x ", checkpoint->input.width, "  head ",
                              head.empty() ? "unknown, see --head" : head));
  progress.Print(absl::StrCat(options.torchscript,
                              " is a program; clients run it where their client.toml says "
                              "torchscript.allow = [\"",
                              digest.Hex(), "\"] and torchscript.files names their copy"));
  return absl::OkStatus();
}

}  // namespace quantfl::model_tool
