#include "common/ledger/compute_meter.h"

#include <gtest/gtest.h>

#include <optional>
#include <string>

#include "absl/strings/str_cat.h"

namespace quantfl::ledger {
namespace {

constexpr char kFolder[] = "/sys/class/powercap";

// /sys/class/powercap as a machine with two packages shows it.
class RaplTest : public ::testing::Test {
 protected:
  RaplTest() {
    Write("intel-rapl:0/name", "package-0\n");
    Write("intel-rapl:0/max_energy_range_uj", "1000000\n");
    Set(0, 900'000);
    Write("intel-rapl:1/name", "package-1\n");
    Write("intel-rapl:1/max_energy_range_uj", "5000000\n");
    Set(1, 100'000);
    // Parts of package 0, and what is no package.
    Write("intel-rapl:0:0/name", "core\n");
    Write("intel-rapl:0:0/energy_uj", "700000\n");
    Write("intel-rapl:2/name", "psys\n");
    Write("intel-rapl:2/energy_uj", "123\n");
  }
  void Write(const std::string& name, const std::string& text) {
    const std::string path = absl::StrCat(kFolder, "/", name);
    ASSERT_TRUE(env.CreateDirs(path.substr(0, path.rfind('/'))).ok());
    ASSERT_TRUE(env.WriteFileAtomically(path, text).ok());
  }
  void Set(int package, uint64_t microjoules) {
    Write(absl::StrCat("intel-rapl:", package, "/energy_uj"), absl::StrCat(microjoules, "\n"));
  }

  base::MemoryEnv env;
};

TEST_F(RaplTest, PackagesAreAddedUp_FromTheFirstReadingOn) {
  auto rapl = RaplReader::Create(env);
  ASSERT_TRUE(rapl.has_value());
  EXPECT_EQ(rapl->Joules(), 0.0);
  Set(0, 950'000);
  Set(1, 400'000);
  EXPECT_DOUBLE_EQ(*rapl->Joules(), 0.35);
}

TEST_F(RaplTest, ACounterThatBeganAnew_GoesOn) {
  auto rapl = RaplReader::Create(env);
  Set(0, 99'999);  // 900,000 to 1,000,000, then 0 to 99,999
  EXPECT_DOUBLE_EQ(*rapl->Joules(), 0.2);
}

TEST_F(RaplTest, NoFolder_NoPackage_NoPermission_AreAbsent) {
  base::MemoryEnv bare;
  EXPECT_FALSE(RaplReader::Create(bare).has_value());
  ASSERT_TRUE(bare.CreateDirs(absl::StrCat(kFolder, "/intel-rapl:0")).ok());
  EXPECT_FALSE(RaplReader::Create(bare).has_value());
  // One package of two would be a wrong sum.
  ASSERT_TRUE(env.RemoveFile(absl::StrCat(kFolder, "/intel-rapl:1/energy_uj")).ok());
  EXPECT_FALSE(RaplReader::Create(env).has_value());
}

TEST_F(RaplTest, NonsenseLater_IsAbsentFromThenOn) {
  auto rapl = RaplReader::Create(env);
  Write("intel-rapl:1/energy_uj", "many\n");
  EXPECT_FALSE(rapl->Joules().has_value());
  Set(1, 200'000);
  EXPECT_FALSE(rapl->Joules().has_value());
}

class ComputeMeterTest : public ::testing::Test {
 protected:
  ComputeMeterDeps Deps() {
    return {[this] { return process_s; }, [this] { return machine_s; }, [this] { return joules; }};
  }
  double process_s = 5;
  std::optional<double> machine_s = 100, joules = 1000;
};

TEST_F(ComputeMeterTest, Joules_AreTheProcessesShareByCpuTime) {
  ComputeMeter meter(Deps());
  const auto work = meter.Begin();
  process_s += 3;
  *machine_s += 4;
  *joules += 80;
  const federation::ComputeUse use = meter.End(work);
  EXPECT_DOUBLE_EQ(use.cpu_s, 3);
  EXPECT_DOUBLE_EQ(*use.package_j, 60);
  EXPECT_EQ(meter.End(work), federation::ComputeUse());
}

TEST_F(ComputeMeterTest, TasksAtTheSameTime_ShareEqually) {
  ComputeMeter meter(Deps());
  const auto first = meter.Begin();
  process_s += 1, *machine_s += 1, *joules += 10;
  const auto second = meter.Begin();
  process_s += 4, *machine_s += 4, *joules += 40;
  const federation::ComputeUse one = meter.End(first);
  process_s += 2, *machine_s += 2, *joules += 20;
  const federation::ComputeUse two = meter.End(second);
  EXPECT_DOUBLE_EQ(one.cpu_s, 3);
  EXPECT_DOUBLE_EQ(two.cpu_s, 4);
  EXPECT_DOUBLE_EQ(*one.package_j, 30);
  EXPECT_DOUBLE_EQ(*two.package_j, 40);
}

TEST_F(ComputeMeterTest, WhatIsUsedBetweenTasks_IsNobodys) {
  ComputeMeter meter(Deps());
  process_s += 50, *machine_s += 50, *joules += 500;
  const auto work = meter.Begin();
  EXPECT_DOUBLE_EQ(meter.End(work).cpu_s, 0);
}

TEST_F(ComputeMeterTest, ShareIsNeverMoreThanAll) {
  ComputeMeter meter(Deps());
  const auto work = meter.Begin();
  process_s += 0.009;  // below a tick of /proc/stat
  *joules += 2;
  EXPECT_DOUBLE_EQ(*meter.End(work).package_j, 2);
}

TEST_F(ComputeMeterTest, WithoutCounters_OnlyCpuTimeIsMeasured) {
  joules.reset();
  ComputeMeter meter(Deps());
  const auto work = meter.Begin();
  process_s += 2;
  joules = 5;  // readable half-way: no figure for the whole task
  const auto other = meter.Begin();
  process_s += 2;
  EXPECT_FALSE(meter.End(work).package_j.has_value());
  EXPECT_DOUBLE_EQ(meter.End(other).cpu_s, 1);
}

TEST_F(ComputeMeterTest, ThisMachine_CpuTimeOfThisProcessGrows) {
  ComputeMeter meter(SystemComputeMeter(base::PosixEnv()));
  const auto work = meter.Begin();
  volatile double sink = 0;
  for (int i = 0; i < 2'000'000; ++i) sink = sink + 1;
  EXPECT_GT(meter.End(work).cpu_s, 0);
}

}  // namespace
}  // namespace quantfl::ledger
