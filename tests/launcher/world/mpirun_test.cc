#include "launcher/world/mpirun.h"

#include <map>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace tandem::launcher {
namespace {

using ::testing::Contains;
using ::testing::HasSubstr;
using ::testing::Not;

rank::GetEnv Env(const std::map<std::string, std::string>& variables) {
  return [variables](const char* name) -> const char* {
    const auto found = variables.find(name);
    return found == variables.end() ? nullptr : found->second.c_str();
  };
}

std::optional<int> World(const std::map<std::string, std::string>& variables) {
  const auto world = rank::FindWorld(Env(variables));
  EXPECT_TRUE(world.ok()) << world.status();
  return world.value_or(std::nullopt);
}

TEST(FindWorldTest, NoneMpirunAndSrun) {
  EXPECT_EQ(World({}), std::nullopt);
  EXPECT_EQ(World({{"OMPI_COMM_WORLD_SIZE", "3"}, {"PMIX_RANK", "0"}}), 3);
  EXPECT_EQ(World({{"OMPI_COMM_WORLD_SIZE", "1"}}), 1);
  EXPECT_EQ(World({{"PMIX_RANK", "1"},
                   {"SLURM_PROCID", "1"},
                   {"SLURM_STEP_ID", "0"},
                   {"SLURM_STEP_NUM_TASKS", "4"},
                   {"SLURM_NTASKS", "8"}}),
            4);
}

TEST(FindWorldTest, ABatchScriptIsInNoWorld) {
  EXPECT_EQ(World({{"SLURM_PROCID", "0"}, {"SLURM_NTASKS", "4"}}), std::nullopt);
}

TEST(FindWorldTest, SrunWithoutPmixIsRefused) {
  const auto world = rank::FindWorld(
      Env({{"SLURM_PROCID", "0"}, {"SLURM_STEP_ID", "0"}, {"SLURM_STEP_NUM_TASKS", "4"}}));
  EXPECT_EQ(world.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(world.status().message()), HasSubstr("--mpi=pmix"));
}

std::string Joined(bool root, int ranks, const std::vector<rank::HostSlots>& hosts = {},
                   const std::map<std::string, std::string>& variables = {}) {
  std::string line;
  for (const std::string& word : MpirunCommand("/usr/bin/mpirun", root, ranks, hosts, {"A", "B"},
                                               {"/bin/tandem", "serve"}, Env(variables))) {
    line += word + " ";
  }
  return line;
}

TEST(MpirunCommandTest, LeavesBindingToTheRanks) {
  const std::string line = Joined(/*root=*/false, /*ranks=*/2);
  EXPECT_THAT(line, HasSubstr("/usr/bin/mpirun -np 2 "));
  EXPECT_THAT(line, HasSubstr("--bind-to none "));
  EXPECT_THAT(line, HasSubstr("--oversubscribe "));
  EXPECT_THAT(line, Not(HasSubstr("--allow-run-as-root")));
  EXPECT_THAT(line, HasSubstr("-x A -x B /bin/tandem serve "));
}

TEST(MpirunCommandTest, AsRoot) { EXPECT_THAT(Joined(true, 3), HasSubstr("--allow-run-as-root")); }

TEST(MpirunCommandTest, OnOtherHosts) {
  const std::string line = Joined(false, 3, {{"node1", 2}, {"node2", 1}});
  EXPECT_THAT(line, HasSubstr("-np 3 --host node1:2,node2:1 --map-by slot --oversubscribe "));
}

TEST(MpirunCommandTest, SshDoesNotAsk) {
  const std::vector<rank::HostSlots> hosts = {{"node1", 1}};
  EXPECT_THAT(Joined(false, 1, hosts),
              HasSubstr("--mca plm_rsh_args -o BatchMode=yes -o ConnectTimeout=10 "));
  EXPECT_THAT(Joined(false, 1), Not(HasSubstr("plm_rsh_args")));
  for (const char* own :
       {"OMPI_MCA_plm_rsh_args", "OMPI_MCA_plm_rsh_agent", "OMPI_MCA_orte_rsh_agent"}) {
    EXPECT_THAT(Joined(false, 1, hosts, {{own, "x"}}), Not(HasSubstr("plm_rsh_args")));
  }
}

TEST(MpirunCommandTest, ExportsOurVariablesOnly) {
  const char* environment[] = {
      "TANDEM_X=1", "TANDEM_RESTARTS=1", "HF_TOKEN=secret", "NCCL_DEBUG=INFO", "HOME=/", nullptr};
  const auto names = ExportedVariables(environment);
  EXPECT_THAT(names, Contains("TANDEM_X"));
  EXPECT_THAT(names, Contains("TANDEM_PARENT_PID"));
  EXPECT_THAT(names, Contains("TANDEM_RESTARTS").Times(1));
  EXPECT_THAT(names, Contains("PMIX_MCA_gds"));
  EXPECT_THAT(names, Contains("NCCL_DEBUG"));
  EXPECT_THAT(names, Not(Contains("HF_TOKEN")));
  EXPECT_THAT(names, Not(Contains("HOME")));
}

TEST(FindProgramTest, SearchesThePath) {
  EXPECT_EQ(*FindProgram("sh", Env({{"PATH", "/nonexistent:/bin"}})), "/bin/sh");
  EXPECT_EQ(FindProgram("sh", Env({{"PATH", "/nonexistent"}})).status().code(),
            absl::StatusCode::kUnavailable);
}

}  // namespace
}  // namespace tandem::launcher
