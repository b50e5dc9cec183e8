#include "client/model/steps.h"

#include <filesystem>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/status.h"

namespace quantfl::model_tool {

absl::Status ApplyInput(const InputOptions& options, federation::InputSpec& input) {
  if (!options.mean.empty()) {
    absl::StatusOr<federation::PerChannel> mean = federation::ParsePerChannel(options.mean);
    if (!mean.ok()) return base::Annotate(mean.status(), "--input-mean");
    input.mean = *std::move(mean);
  }
  if (!options.stddev.empty()) {
    absl::StatusOr<federation::PerChannel> stddev = federation::ParsePerChannel(options.stddev);
    if (!stddev.ok()) return base::Annotate(stddev.status(), "--input-stddev");
    input.stddev = *std::move(stddev);
  }
  if (options.height) input.height = input.width = *options.height;
  if (options.width) input.width = *options.width;
  return federation::ValidateInput(input);
}

absl::Status PrepareOut(base::Env& env, const std::string& out) {
  if (out.empty()) return absl::InvalidArgumentError("--out is empty; it must name a file");
  const std::string folder = std::filesystem::path(out).parent_path().string();
  return folder.empty() ? absl::OkStatus() : env.CreateDirs(folder);
}

absl::Status Save(base::Env& env, const std::string& out, const Checkpoint& checkpoint,
                  terminal::ProgressLine& progress) {
  QFL_ASSIGN_OR_RETURN(const base::Digest digest, SaveCheckpoint(env, out, checkpoint));
  progress.Print(absl::StrCat("wrote ", out, "  ", checkpoint.schema.architecture(), "  ",
                              terminal::WithCommas(checkpoint.schema.size()), " parameters  ",
                              checkpoint.classes, " classes  sha256 ", digest.Hex()));
  return absl::OkStatus();
}

}  // namespace quantfl::model_tool
