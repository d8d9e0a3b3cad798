// Limits of control groups, read from folders made like those of /proc and /sys.
#include "runtime/plan/host_limits.h"

#include <cstdint>
#include <vector>

#include "gtest/gtest.h"
#include "tests/runtime/loader/temp_dir.h"

namespace tandem::plan {
namespace {

using loader::TempDir;

constexpr uint64_t kGiB = uint64_t{1} << 30;

// A host with 24 GiB available.
class HostLimits : public testing::Test {
 protected:
  HostLimits() {
    root_.Write("proc/meminfo", "MemTotal: 33554432 kB\nMemAvailable: 25165824 kB\n");
  }

  void Group(std::string_view lines) { root_.Write("proc/self/cgroup", lines); }
  void File(const std::string& name, std::string_view text) {
    root_.Write("sys/fs/cgroup/" + name, text);
  }
  uint64_t Memory() { return AvailableMemory(root_.path()); }

  TempDir root_;
};

TEST_F(HostLimits, WithoutGroupsTheHostCounts) { EXPECT_EQ(Memory(), 24 * kGiB); }

TEST_F(HostLimits, Version2InAContainersNamespace) {
  Group("0::/\n");
  File("memory.max", "8589934592\n");
  File("memory.current", "3221225472\n");
  File("memory.stat", "anon 2147483648\ninactive_file 1073741824\nactive_file 0\n");
  // Of the 3 GiB used one is cache that gives way.
  EXPECT_EQ(Memory(), 6 * kGiB);
}

TEST_F(HostLimits, TheTightestGroupOnTheWayCounts) {
  Group("0::/user.slice/job.scope\n");
  File("user.slice/memory.max", "4294967296\n");
  File("user.slice/memory.current", "1073741824\n");
  File("user.slice/job.scope/memory.max", "max\n");
  File("user.slice/job.scope/memory.current", "1073741824\n");
  EXPECT_EQ(Memory(), 3 * kGiB);
  File("user.slice/job.scope/memory.max", "2147483648\n");
  EXPECT_EQ(Memory(), 1 * kGiB);
}

TEST_F(HostLimits, AGroupThatIsFullLeavesNothing) {
  Group("0::/\n");
  File("memory.max", "1073741824\n");
  File("memory.current", "2147483648\n");
  EXPECT_EQ(Memory(), 0u);
}

TEST_F(HostLimits, ALimitBeyondTheHostIsNone) {
  Group("0::/\n");
  File("memory.max", "1099511627776\n");
  File("memory.current", "0\n");
  EXPECT_EQ(Memory(), 24 * kGiB);
}

TEST_F(HostLimits, Version1HasAFolderForEachController) {
  // In a container the path may be the host's, and the folder the container's own.
  Group("5:cpu,cpuacct:/docker/abc\n4:memory:/docker/abc\n0::/\n");
  File("memory/memory.limit_in_bytes", "6442450944\n");
  File("memory/memory.usage_in_bytes", "1073741824\n");
  EXPECT_EQ(Memory(), 5 * kGiB);
  File("cpu/docker/abc/cpu.cfs_period_us", "100000\n");
  File("cpu/docker/abc/cpu.cfs_quota_us", "-1\n");
  const int all = AvailableCpus();
  EXPECT_EQ(AvailableCpus(root_.path()), all);
  File("cpu/docker/abc/cpu.cfs_quota_us", "150000\n");
  EXPECT_EQ(AvailableCpus(root_.path()), 1);
}

TEST_F(HostLimits, Version2CpuQuota) {
  Group("0::/job\n");
  const int all = AvailableCpus();
  File("job/cpu.max", "max 100000\n");
  EXPECT_EQ(AvailableCpus(root_.path()), all);
  File("job/cpu.max", "50000 100000\n");
  EXPECT_EQ(AvailableCpus(root_.path()), 1);  // never none
  File("job/cpu.max", "102400000 100000\n");
  EXPECT_EQ(AvailableCpus(root_.path()), all);  // no more than there are
}

TEST(Memory, IsMeasured) {
  EXPECT_GE(AvailableCpus(), 1);
  EXPECT_GT(AvailableMemory(), uint64_t{1} << 20);
  PeakMemory peak;
  peak.Sample();
  const uint64_t before = peak.bytes();
  std::vector<char> touched(64 << 20, 1);
  peak.Sample();
  EXPECT_GE(peak.bytes(), before + (60 << 20)) << touched[17];
}

}  // namespace
}  // namespace tandem::plan
