#ifndef QUANTFL_TESTS_UNIT_COMMON_FETCH_TAR_FILE_H_
#define QUANTFL_TESTS_UNIT_COMMON_FETCH_TAR_FILE_H_

// Tar files for tests, byte by byte, so that they can be hostile.

#include <cstdint>
#include <cstdio>
#include <string>

#include "absl/strings/str_format.h"

namespace quantfl::fetch {

// One entry of a POSIX tar file. `type`: '0' file, '1' hard link, '2' symbolic link, '5' folder.
// `announced` is the size in its header, by default that of `content`.
inline std::string TarEntry(const std::string& path, const std::string& content, char type = '0',
                            int64_t announced = -1, const std::string& link = "") {
  std::string header(512, '\0');
  const auto put = [&](size_t offset, const std::string& text) {
    header.replace(offset, text.size(), text);
  };
  put(0, path);
  put(100, "0000644");
  put(108, "0000000");
  put(116, "0000000");
  put(124,
      absl::StrFormat("%011o", announced < 0 ? static_cast<int64_t>(content.size()) : announced));
  put(136, "00000000000");
  put(148, "        ");
  header[156] = type;
  put(157, link);
  put(257, "ustar");
  put(263, "00");
  unsigned sum = 0;
  for (const char c : header) sum += static_cast<unsigned char>(c);
  put(148, absl::StrFormat("%06o", sum));
  header[154] = '\0';
  std::string body = content;
  body.resize((body.size() + 511) / 512 * 512);
  return header + body;
}

inline std::string TarEnd() { return std::string(1024, '\0'); }

}  // namespace quantfl::fetch

#endif  // QUANTFL_TESTS_UNIT_COMMON_FETCH_TAR_FILE_H_
