// codec_size FILE SPEC...: what the tensors of a safetensors file take as an update in each of the
// codecs, headers included, checked by decoding. One line of JSON a codec. FILE is a delta that
// `quantfl-client --dump_deltas` wrote; statistics of normalisation, which travel in full
// precision, are left out. compare_nncodec.py and real_runs.py read the lines.

#include <cstdio>
#include <ctime>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "common/base/env.h"
#include "common/codec/update.h"
#include "common/model/safetensors.h"

namespace quantfl {
namespace {

constexpr uint64_t kFileBytesMax = uint64_t{4} << 30;

// Of this process's one thread: what else the machine does counts less.
double CpuSeconds() { return static_cast<double>(std::clock()) / CLOCKS_PER_SEC; }

absl::Status Run(const std::string& path, const std::vector<std::string>& specs) {
  const absl::StatusOr<std::string> bytes = base::PosixEnv().ReadFile(path, kFileBytesMax);
  if (!bytes.ok()) return bytes.status();
  const absl::StatusOr<model::SafetensorsView> view = model::ParseSafetensors(*bytes);
  if (!view.ok()) return view.status();
  std::vector<codec::TensorLayout> tensors;
  std::vector<float> delta;
  for (const auto& [name, tensor] : view->tensors) {
    if (absl::StrContains(name, ".running_")) continue;  // statistics, which travel as fp32
    if (tensor.dtype != model::DType::kF32) {
      return absl::InvalidArgumentError(name + " is not F32: a delta is");
    }
    tensors.push_back({tensor.shape, codec::TensorPolicy::kQuantise});
    const float* const values = reinterpret_cast<const float*>(tensor.data.data());
    delta.insert(delta.end(), values, values + tensor.data.size() / sizeof(float));
  }
  const absl::StatusOr<codec::Layout> layout =
      codec::Layout::Create(std::move(tensors), std::string(32, '\0'));
  if (!layout.ok()) return layout.status();
  for (const std::string& text : specs) {
    const absl::StatusOr<codec::Spec> spec = codec::ParseSpec(text);
    if (!spec.ok()) return spec.status();
    const double from = CpuSeconds();
    const absl::StatusOr<codec::EncodedUpdate> update = codec::Encode(delta, *layout, *spec, {});
    const double encode_s = CpuSeconds() - from;
    if (!update.ok()) return update.status();
    const double decode_from = CpuSeconds();
    const auto values = codec::Decode(update->header, update->chunks, *layout);
    const double decode_s = CpuSeconds() - decode_from;
    if (!values.ok()) return values.status();
    double error = 0;
    double norm = 0;
    for (size_t i = 0; i < delta.size(); ++i) {
      const double x = static_cast<double>(delta[i]);
      const double e = static_cast<double>((*values)[i]) - x;
      error += e * e;
      norm += x * x;
    }
    const auto header = codec::ParseHeader(update->header, *layout);
    if (!header.ok()) return header.status();
    const codec::PayloadBytes& p = update->payload;
    std::printf(
        "{\"asked\": \"%s\", \"spec\": \"%s\", \"parameters\": %zu, \"bytes\": %llu, \"codes\": "
        "%llu, "
        "\"tables\": %llu, \"side_information\": %llu, \"headers\": %llu, \"nmse\": %.9g, "
        "\"encode_s\": %.6f, \"decode_s\": %.6f}\n",
        text.c_str(), codec::ToString(header->spec).c_str(), delta.size(),
        static_cast<unsigned long long>(p.total()), static_cast<unsigned long long>(p.codes),
        static_cast<unsigned long long>(p.tables),
        static_cast<unsigned long long>(p.side_information),
        static_cast<unsigned long long>(p.headers), norm > 0 ? error / norm : 0, encode_s,
        decode_s);
  }
  return absl::OkStatus();
}

}  // namespace
}  // namespace quantfl

int main(int argc, char** argv) {
  if (argc < 3) {
    std::fprintf(stderr, "usage: codec_size FILE.safetensors SPEC...\n");
    return 64;
  }
  const absl::Status status = quantfl::Run(argv[1], {argv + 2, argv + argc});
  if (status.ok()) return 0;
  std::fprintf(stderr, "codec_size: %s\n", std::string(status.message()).c_str());
  return 1;
}
