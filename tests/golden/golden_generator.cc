// golden_generator FOLDER: writes every golden file. Run it only when the format changes on
// purpose: the files of a released version must decode for ever.

#include <cstdio>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/env.h"
#include "tests/golden/golden_cases.h"

int main(int argc, char** argv) {
  if (argc != 2) {
    std::fprintf(stderr, "usage: golden_generator FOLDER\n");
    return 2;
  }
  quantfl::base::Env& env = quantfl::base::PosixEnv();
  for (const quantfl::golden::Case& golden : quantfl::golden::Cases()) {
    const std::string path = absl::StrCat(argv[1], "/", golden.name);
    for (const auto& [suffix, bytes] : {std::pair(".qflf", quantfl::golden::UpdateFileOf(golden)),
                                        std::pair(".json", quantfl::golden::JsonOf(golden))}) {
      if (absl::Status written = env.WriteFileAtomically(path + suffix, bytes); !written.ok()) {
        std::fprintf(stderr, "%s\n", written.ToString().c_str());
        return 1;
      }
    }
  }
  return 0;
}
