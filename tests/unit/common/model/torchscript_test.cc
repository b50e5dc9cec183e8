#include "common/model/torchscript.h"

#include "absl/strings/str_cat.h"
#include "common/model/schema.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace quantfl::model {
namespace {

using ::testing::HasSubstr;

TEST(TorchScriptTest, Architecture_IsTheDigestAndBack) {
  const base::Digest digest = base::Sha256("module");
  const std::string name = TorchScriptArchitecture(digest);
  EXPECT_EQ(name, "torchscript:" + digest.Hex());
  EXPECT_TRUE(IsTorchScript(name));
  EXPECT_EQ(*TorchScriptDigest(name), digest);
  // It names a schema.
  EXPECT_TRUE(Schema::Create(name, {{"w", {1}}}).ok());
}

TEST(TorchScriptTest, OtherNames_AreNone) {
  EXPECT_FALSE(IsTorchScript("lenet5"));
  const std::string hex = base::Sha256("").Hex();
  for (const std::string& name :
       {std::string(), std::string("torchscript"), std::string("torchscript:"), hex,
        "torchscript:" + hex.substr(1), "torchscript:" + hex + "0", "TorchScript:" + hex}) {
    const absl::Status status = TorchScriptDigest(name).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << name;
    EXPECT_THAT(std::string(status.message()), HasSubstr(absl::StrCat("\"", name, "\"")));
  }
}

}  // namespace
}  // namespace quantfl::model
