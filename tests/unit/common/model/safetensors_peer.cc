// safetensors_peer write FILE: writes a known model. safetensors_peer read FILE: exit status 0 if
// FILE holds that model. Driven by safetensors_python_test.py, which knows the same model.

#include <cstdio>
#include <cstring>
#include <string>
#include <vector>

#include "common/base/env.h"
#include "common/model/safetensors.h"
#include "common/model/schema.h"

int main(int argc, char** argv) {
  using namespace quantfl;
  if (argc != 3) return 64;
  const absl::StatusOr<model::Schema> schema =
      model::Schema::Create("peer", {{"b.weight", {2, 3}, model::Policy::kQuantise},
                                     {"a.scale", {}, model::Policy::kFp32},
                                     {"a \"quoted\" name", {5}, model::Policy::kSkip}});
  if (!schema.ok()) return 70;
  std::vector<float> flat;
  for (uint64_t i = 0; i < schema->size(); ++i)
    flat.push_back(static_cast<float>(i) * 0.25f - 1.0f);

  if (std::strcmp(argv[1], "write") == 0) {
    const absl::Status status = base::PosixEnv().WriteFileAtomically(
        argv[2],
        model::SerializeSafetensors(*schema, flat, {{"key", "value"}, {"umlaut", "\xc3\xa4"}}));
    return status.ok() ? 0 : 73;
  }
  const absl::StatusOr<std::string> bytes = base::PosixEnv().ReadFile(argv[2], 1 << 20);
  if (!bytes.ok()) return 66;
  const absl::StatusOr<std::vector<float>> read = model::LoadFlat(*bytes, *schema);
  if (!read.ok()) std::fprintf(stderr, "%s\n", std::string(read.status().message()).c_str());
  return read.ok() && *read == flat ? 0 : 1;
}
