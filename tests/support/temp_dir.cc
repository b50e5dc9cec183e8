#include "tests/support/temp_dir.h"

#include <cstdlib>
#include <filesystem>
#include <system_error>

#include "absl/strings/str_cat.h"
#include "common/base/check.h"

namespace quantfl::testing {

TempDir::TempDir() {
  std::string parent = "/tmp";
  for (const char* name : {"TMPDIR", "TEST_TMPDIR"}) {
    if (const char* value = std::getenv(name); value != nullptr && *value != '\0') parent = value;
  }
  path_ = absl::StrCat(parent, "/quantfl-test-XXXXXX");
  QFL_CHECK(mkdtemp(path_.data()) != nullptr);
}

TempDir::~TempDir() {
  std::error_code ignored;  // a folder that stays is no test's failure
  std::filesystem::remove_all(path_, ignored);
}

}  // namespace quantfl::testing
