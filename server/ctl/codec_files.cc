#include "server/ctl/codec_files.h"

#include <optional>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "common/base/prng.h"
#include "common/base/status.h"
#include "common/codec/update.h"
#include "common/codec/wire.h"
#include "common/model/safetensors.h"
#include "common/model/schema.h"
#include "common/terminal/progress_line.h"
#include "server/ctl/schema_of.h"

namespace quantfl::ctl {

absl::StatusOr<EncodedFile> EncodeFile(absl::string_view safetensors,
                                       const EncodeOptions& options) {
  using terminal::WithCommas;
  QFL_ASSIGN_OR_RETURN(const codec::Spec spec, codec::ParseSpec(options.codec));
  QFL_ASSIGN_OR_RETURN(
      const model::Schema schema,
      SchemaOf(options.schema.empty() ? safetensors : absl::string_view(options.schema)));
  QFL_ASSIGN_OR_RETURN(const std::vector<float> flat, model::LoadFlat(safetensors, schema));
  const codec::Layout& layout = schema.update_layout();
  QFL_ASSIGN_OR_RETURN(
      const codec::EncodedUpdate update,
      codec::Encode(schema.Gather(flat), layout, spec,
                    base::PrngKey{options.seed, 0, 0, base::PrngPurpose::kRounding}));
  QFL_ASSIGN_OR_RETURN(const codec::UpdateHeader header, codec::ParseHeader(update.header, layout));
  EncodedFile encoded;
  encoded.bytes = codec::SerializeUpdate(update);
  const codec::PayloadBytes& payload = update.payload;
  encoded.summary = absl::StrFormat(
      "%s parameters as %s: %s bytes, %.4f bits a parameter\n"
      "  codes %s, tables %s, side information %s, headers %s bytes\n"
      "  squared error / squared norm = %.4g\n",
      WithCommas(layout.n()), codec::ToString(header.spec), WithCommas(payload.total()),
      8.0 * static_cast<double>(payload.total()) / static_cast<double>(layout.n()),
      WithCommas(payload.codes), WithCommas(payload.tables), WithCommas(payload.side_information),
      WithCommas(payload.headers),
      update.squared_norm > 0 ? update.squared_error / update.squared_norm : 0.0);
  return encoded;
}

absl::StatusOr<std::string> DecodeFile(absl::string_view update, absl::string_view schema_bytes) {
  namespace wire = codec::wire;
  QFL_ASSIGN_OR_RETURN(const codec::UpdateFile file, codec::ParseUpdateFile(update));
  std::optional<model::Schema> schema;
  if (!schema_bytes.empty()) {
    QFL_ASSIGN_OR_RETURN(schema, SchemaOf(schema_bytes));
  } else if (file.header.size() >= wire::kHeaderFixedBytes) {
    schema =
        Recognise(absl::string_view(file.header).substr(wire::kSchemaDigest, wire::kDigestBytes));
  }
  if (!schema.has_value()) {
    return absl::InvalidArgumentError(
        "the update names a schema that is of no built-in architecture: give it with --schema, or "
        "a checkpoint with its tensors");
  }
  QFL_ASSIGN_OR_RETURN(const std::vector<float> values,
                       codec::Decode(file.header, file.chunks, schema->update_layout()));
  std::vector<model::TensorInfo> travelled;
  for (const model::TensorInfo& tensor : schema->tensors()) {
    if (tensor.policy != model::Policy::kSkip) travelled.push_back(tensor);
  }
  QFL_ASSIGN_OR_RETURN(const model::Schema part,
                       model::Schema::Create(schema->architecture(), std::move(travelled)));
  QFL_ASSIGN_OR_RETURN(const codec::UpdateHeader header,
                       codec::ParseHeader(file.header, schema->update_layout()));
  return model::SerializeSafetensors(part, values,
                                     {{"quantfl.codec", codec::ToString(header.spec)}});
}

}  // namespace quantfl::ctl
