#include "common/model/near_misses.h"

#include "common/model/architectures.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace quantfl::model {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

TEST(NearMissesTest, BestFirst_AndNothingThatIsUnlike) {
  const Schema schema = *ArchitectureSchema("lenet5", 10);
  EXPECT_THAT(NearMisses("conv1.weigth", schema, 2), ElementsAre("conv1.weight", "conv2.weight"));
  EXPECT_THAT(NearMisses("module.fc2.bias", schema, 1), ElementsAre("fc2.bias"));
  EXPECT_THAT(NearMisses("fc2", schema, 2), ElementsAre("fc2.weight", "fc2.bias"));
  EXPECT_THAT(NearMisses("quite another thing", schema, 9), IsEmpty());
  EXPECT_THAT(NearMisses("***", schema, 9), IsEmpty());
  EXPECT_THAT(NearMisses(std::string(100000, 'c'), schema, 9), IsEmpty());
}

}  // namespace
}  // namespace quantfl::model
