#include "runtime/rank/host_list.h"

#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace tandem::rank {
namespace {

using ::testing::HasSubstr;

TEST(ParseHostsTest, NamesAndSlots) {
  const auto hosts = ParseHosts("node1:4,node-2.example,10.0.0.3:1");
  ASSERT_TRUE(hosts.ok()) << hosts.status();
  EXPECT_EQ(FormatHosts(*hosts), "node1:4,node-2.example:1,10.0.0.3:1");
}

TEST(ParseHostsTest, RefusesWhatMpirunWouldTakeForAnother) {
  for (const char* text : {"", "a,,b", "a:0", "a:x", "a:2:3", ":2", "-np", "a:99999", "a,b,a"}) {
    const auto hosts = ParseHosts(text);
    EXPECT_FALSE(hosts.ok()) << text;
    EXPECT_THAT(std::string(hosts.status().message()), HasSubstr("--hosts: found")) << text;
  }
}

}  // namespace
}  // namespace tandem::rank
