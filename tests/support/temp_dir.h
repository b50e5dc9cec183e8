#ifndef QUANTFL_TESTS_SUPPORT_TEMP_DIR_H_
#define QUANTFL_TESTS_SUPPORT_TEMP_DIR_H_

#include <string>

namespace quantfl::testing {

// A new folder below $TEST_TMPDIR, $TMPDIR or /tmp, removed with all that is in it.
class TempDir {
 public:
  TempDir();
  ~TempDir();
  TempDir(const TempDir&) = delete;
  TempDir& operator=(const TempDir&) = delete;
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

}  // namespace quantfl::testing

#endif  // QUANTFL_TESTS_SUPPORT_TEMP_DIR_H_
