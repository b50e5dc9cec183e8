#ifndef QUANTFL_TESTS_UNIT_COMMON_FETCH_ZIP_FILE_H_
#define QUANTFL_TESTS_UNIT_COMMON_FETCH_ZIP_FILE_H_

// Zip files for tests, byte by byte: stored members and a central directory (PKWARE's APPNOTE).

#include <zlib.h>

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace quantfl::fetch {

inline std::string LittleEndian(uint64_t value, int bytes) {
  std::string out;
  for (int b = 0; b < bytes; ++b) out.push_back(static_cast<char>(value >> (8 * b)));
  return out;
}

inline std::string ZipFile(const std::vector<std::pair<std::string, std::string>>& members) {
  std::string file, directory;
  for (const auto& [path, content] : members) {
    const uint64_t crc =
        crc32(0, reinterpret_cast<const Bytef*>(content.data()), static_cast<uInt>(content.size()));
    // Version needed, flags, method 0, time, date, checksum, both sizes, lengths of name and extra.
    const std::string common = LittleEndian(20, 2) + LittleEndian(0, 8) + LittleEndian(crc, 4) +
                               LittleEndian(content.size(), 4) + LittleEndian(content.size(), 4) +
                               LittleEndian(path.size(), 2) + LittleEndian(0, 2);
    // Made by Unix; comment, disk, inner and outer attributes (a regular file), place.
    directory += "PK\1\2" + LittleEndian(3 << 8 | 20, 2) + common + LittleEndian(0, 6) +
                 LittleEndian(uint64_t{0100644} << 16, 4) + LittleEndian(file.size(), 4) + path;
    file += "PK\3\4" + common + path + content;
  }
  return file + directory + "PK\5\6" + LittleEndian(0, 4) + LittleEndian(members.size(), 2) +
         LittleEndian(members.size(), 2) + LittleEndian(directory.size(), 4) +
         LittleEndian(file.size(), 4) + LittleEndian(0, 2);
}

}  // namespace quantfl::fetch

#endif  // QUANTFL_TESTS_UNIT_COMMON_FETCH_ZIP_FILE_H_
