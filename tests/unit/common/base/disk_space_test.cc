#include "common/base/disk_space.h"

#include <filesystem>

#include "gtest/gtest.h"

namespace quantfl::base {
namespace {

TEST(DiskSpace, FreeBytes_AreThoseOfTheFoldersDisk) {
  const std::string folder = std::filesystem::temp_directory_path();
  const auto bytes = FreeBytes(folder);
  ASSERT_TRUE(bytes.ok()) << bytes.status();
  EXPECT_LE(*bytes, std::filesystem::space(folder).capacity);
  EXPECT_EQ(*FreeBytes("/proc"), 0u);
}

TEST(DiskSpace, MissingFolder_IsNamed) {
  const auto bytes = FreeBytes("/none/of/this");
  EXPECT_EQ(bytes.status().code(), absl::StatusCode::kNotFound);
  EXPECT_NE(std::string(bytes.status().message()).find("/none/of/this"), std::string::npos);
}

}  // namespace
}  // namespace quantfl::base
