// RunWorld with shell scripts for worlds. Each runs in a process of its own, because it changes
// signal masks and reaps all children.
#include "launcher/world/supervisor.h"

#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <thread>

#include "gtest/gtest.h"
#include "launcher/world/local_ranks.h"
#include "launcher/world/output_relay.h"

namespace tandem::launcher {
namespace {

using std::chrono::milliseconds;

class SupervisorTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string path = ::testing::TempDir() + "supervisorXXXXXX";
    folder_ = mkdtemp(path.data());
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  // The launcher: RunWorld of `sh -c script`. Its pid.
  pid_t Launch(const std::string& script, const WorldOptions& options) {
    const pid_t pid = fork();
    if (pid == 0) {
      if (chdir(folder_.c_str()) != 0) _exit(99);
      _exit(RunWorld({"/bin/sh", "-c", script}, options));
    }
    return pid;
  }

  static int ExitOf(pid_t pid) {
    int status = 0;
    waitpid(pid, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
  }

  // The number in a file that a script writes; waits for it.
  pid_t ReadPid(const std::string& name) {
    for (int i = 0; i < 1000; ++i) {
      std::ifstream file(folder_ + "/" + name);
      pid_t pid = 0;
      if (file >> pid) return pid;
      std::this_thread::sleep_for(milliseconds(5));
    }
    return 0;
  }

  // Gone or a zombie that nobody has reaped yet; waits up to 5 s.
  static bool IsGone(pid_t pid) {
    for (int i = 0; i < 1000; ++i) {
      std::ifstream file("/proc/" + std::to_string(pid) + "/stat");
      std::string id, name, state;
      if (!(file >> id >> name >> state) || state == "Z") return true;
      std::this_thread::sleep_for(milliseconds(5));
    }
    return false;
  }

  static WorldOptions Draining(milliseconds timeout, milliseconds grace) {
    WorldOptions options;
    options.drains = true;
    options.drain_timeout = timeout;
    options.grace = grace;
    return options;
  }

  std::string folder_;
};

TEST_F(SupervisorTest, ExitCodesComeThrough) {
  EXPECT_EQ(ExitOf(Launch("exit 0", {})), 0);
  EXPECT_EQ(ExitOf(Launch("exit 65", {})), 65);
  EXPECT_EQ(ExitOf(Launch("exit 78", {})), 78);
  EXPECT_EQ(ExitOf(Launch("exit 1", {})), 70);
  EXPECT_EQ(ExitOf(Launch("exit 137", {})), 137);
  EXPECT_EQ(ExitOf(Launch("kill -9 $$", {})), 137);
}

TEST_F(SupervisorTest, ADrainIsSigusr1AndEndsWithZero) {
  const pid_t launcher =
      Launch("trap 'echo 1 > drained; exit 0' USR1; echo $$ > ready; while :; do sleep 0.01; done",
             Draining(milliseconds(5000), milliseconds(1000)));
  ASSERT_NE(ReadPid("ready"), 0);
  kill(launcher, SIGTERM);
  EXPECT_EQ(ExitOf(launcher), 0);
  EXPECT_EQ(ReadPid("drained"), 1);
}

TEST_F(SupervisorTest, ADrainThatComesTooEarlyIsADrain) {
  const pid_t launcher =
      Launch("echo $$ > ready; exec sleep 20", Draining(milliseconds(5000), milliseconds(1000)));
  ASSERT_NE(ReadPid("ready"), 0);
  kill(launcher, SIGINT);
  EXPECT_EQ(ExitOf(launcher), 0);
}

TEST_F(SupervisorTest, ADrainThatDoesNotEndIsForced) {
  const pid_t launcher = Launch("trap '' USR1 TERM; echo $$ > ready; while :; do sleep 0.01; done",
                                Draining(milliseconds(50), milliseconds(50)));
  const pid_t world = ReadPid("ready");
  ASSERT_NE(world, 0);
  kill(launcher, SIGTERM);
  EXPECT_EQ(ExitOf(launcher), 70);
  EXPECT_TRUE(IsGone(world));
}

TEST_F(SupervisorTest, ADrainThatOnlyMpirunHasHeardIsToldToTheRanks) {
  // Passes signals on to its rank, as mpirun does: when there is one.
  const pid_t launcher = Launch(
      "trap 'echo 1 > heard; [ -e rank ] && kill -USR1 $(cat rank)' USR1; echo $$ > ready; "
      "while [ ! -e go ]; do sleep 0.01; done; "
      "OMPI_COMM_WORLD_LOCAL_SIZE=1 sleep 100 & echo $! > new; mv new rank; wait $!; exit 138",
      Draining(milliseconds(60'000), milliseconds(1000)));
  ASSERT_NE(ReadPid("ready"), 0);
  kill(launcher, SIGTERM);
  ASSERT_EQ(ReadPid("heard"), 1);
  std::ofstream(folder_ + "/go").close();
  EXPECT_EQ(ExitOf(launcher), 0);
}

TEST_F(SupervisorTest, WhatAResumableJobEndsWith) {
  WorldOptions options = Draining(milliseconds(50), milliseconds(50));
  options.resumable = true;
  EXPECT_EQ(ExitOf(Launch("exit 65", options)), 65);
  EXPECT_EQ(ExitOf(Launch("exit 137", options)), 70);
  EXPECT_EQ(ExitOf(Launch("kill -9 $$", options)), 70);
  for (const char* script : {"trap '' USR1 TERM; echo $$ > ready; while :; do sleep 0.01; done",
                             "echo $$ > ready; exec sleep 20"}) {
    const pid_t launcher = Launch(script, options);
    ASSERT_NE(ReadPid("ready"), 0);
    kill(launcher, SIGTERM);
    EXPECT_EQ(ExitOf(launcher), 75) << script;
    std::filesystem::remove(folder_ + "/ready");
  }
}

TEST_F(SupervisorTest, AnMpirunThatHangsAfterALossIsEndedAndStartedAgain) {
  WorldOptions options;
  options.max_restarts = 1;
  options.first_pause = milliseconds(1);
  options.lost_grace = milliseconds(200);
  options.grace = milliseconds(50);
  const pid_t launcher = Launch(
      "[ -e world ] && exit 65; trap '' TERM; echo $$ > world; "
      "OMPI_COMM_WORLD_LOCAL_SIZE=2 sleep 100 & echo $! > rank; "
      "OMPI_COMM_WORLD_LOCAL_SIZE=2 sleep 0.3 & while :; do sleep 0.05; done",
      options);
  const pid_t world = ReadPid("world"), rank = ReadPid("rank");
  ASSERT_NE(rank, 0);
  EXPECT_EQ(ExitOf(launcher), 65);
  EXPECT_TRUE(IsGone(world));
  EXPECT_TRUE(IsGone(rank));
}

TEST_F(SupervisorTest, RanksAreSeenAndMissed) {
  LocalRanks ranks(getpid());
  ranks.Look();
  EXPECT_FALSE(ranks.any_seen());
  const pid_t other = fork();  // such as ssh
  if (other == 0) execlp("sleep", "sleep", "100", nullptr);
  const pid_t rank = fork();
  if (rank == 0) {
    execlp("env", "env", "OMPI_COMM_WORLD_LOCAL_SIZE=1", "sleep", "100", nullptr);
  }
  while (!ranks.any_seen()) ranks.Look();
  kill(other, SIGKILL);
  waitpid(other, nullptr, 0);
  ranks.Look();
  EXPECT_EQ(ranks.missing_for().count(), 0);
  kill(rank, SIGKILL);
  siginfo_t info;
  waitid(P_PID, rank, &info, WEXITED | WNOWAIT);  // a zombie, as a hung mpirun leaves them
  ranks.Look();
  std::this_thread::sleep_for(milliseconds(1));
  EXPECT_GT(ranks.missing_for().count(), 0);
  waitpid(rank, nullptr, 0);
}

TEST_F(SupervisorTest, ARelayThatIsAbandonedDoesNotWaitForWhoeverHoldsThePipe) {
  OutputRelay relay(STDERR_FILENO);
  ASSERT_TRUE(relay.Open().ok());
  const pid_t holder = fork();
  if (holder == 0) {
    relay.Become();
    pause();
  }
  relay.Start();
  relay.Abandon();
  relay.Finish();
  kill(holder, SIGKILL);
  waitpid(holder, nullptr, 0);
}

TEST_F(SupervisorTest, ASecondSignalForces) {
  const pid_t launcher = Launch("trap '' USR1; echo $$ > ready; while :; do sleep 0.01; done",
                                Draining(milliseconds(60'000), milliseconds(1000)));
  ASSERT_NE(ReadPid("ready"), 0);
  kill(launcher, SIGTERM);
  std::this_thread::sleep_for(milliseconds(50));
  kill(launcher, SIGTERM);
  EXPECT_EQ(ExitOf(launcher), 70);
}

TEST_F(SupervisorTest, AWorldThatDoesNotDrainEndsWithTheSignalsCode) {
  const pid_t launcher = Launch("echo $$ > ready; exec sleep 20", {});
  ASSERT_NE(ReadPid("ready"), 0);
  kill(launcher, SIGINT);
  EXPECT_EQ(ExitOf(launcher), 128 + SIGINT);
}

TEST_F(SupervisorTest, KillingTheLauncherLeavesNothing) {
  const pid_t launcher = Launch("echo $$ > ready; exec sleep 20", {});
  const pid_t world = ReadPid("ready");
  ASSERT_NE(world, 0);
  kill(launcher, SIGKILL);
  EXPECT_EQ(ExitOf(launcher), 1000 + SIGKILL);
  EXPECT_TRUE(IsGone(world));
}

TEST_F(SupervisorTest, WhatTheWorldLeavesBehindIsEnded) {
  const pid_t launcher = Launch("setsid sleep 20 & echo $! > ready; exit 65", {});
  const pid_t orphan = ReadPid("ready");
  ASSERT_NE(orphan, 0);
  EXPECT_EQ(ExitOf(launcher), 65);
  EXPECT_TRUE(IsGone(orphan));
}

TEST_F(SupervisorTest, AWorldThatLosesARankIsStartedAgain) {
  WorldOptions options;
  options.max_restarts = 3;
  options.first_pause = milliseconds(10);
  // Fails twice, then ends well.
  const std::string twice = "echo x >> starts; [ $(wc -l < starts) -ge 3 ] && exit 0; ";
  EXPECT_EQ(ExitOf(Launch(twice + "exit 137", options)), 0);
  std::filesystem::remove(folder_ + "/starts");
  EXPECT_EQ(ExitOf(Launch(twice + "exit 70", options)), 0);
}

TEST_F(SupervisorTest, AWorldKnowsHowManyWereBefore) {
  WorldOptions options;
  options.max_restarts = 1;  // in a row; all of them count
  options.first_pause = milliseconds(1);
  options.stable_after = milliseconds(0);
  EXPECT_EQ(ExitOf(Launch("echo $TANDEM_RESTARTS >> starts; [ $(wc -l < starts) -ge 4 ] && exit 0; "
                          "exit 70",
                          options)),
            0);
  std::ifstream file(folder_ + "/starts");
  EXPECT_EQ(std::string(std::istreambuf_iterator<char>(file), {}), "0\n1\n2\n3\n");
}

TEST_F(SupervisorTest, ACrashLoopGivesUp) {
  WorldOptions options;
  options.max_restarts = 2;
  options.first_pause = milliseconds(10);
  EXPECT_EQ(ExitOf(Launch("echo x >> starts; kill -9 $$", options)), 70);
  std::ifstream file(folder_ + "/starts");
  EXPECT_EQ(std::string(std::istreambuf_iterator<char>(file), {}), "x\nx\nx\n");
}

TEST_F(SupervisorTest, WorldsThatLivedLongAreNotACrashLoop) {
  WorldOptions options;
  options.max_restarts = 1;
  options.first_pause = milliseconds(1);
  options.stable_after = milliseconds(20);
  EXPECT_EQ(ExitOf(Launch("echo x >> starts; [ $(wc -l < starts) -ge 5 ] && exit 0; sleep 0.03; "
                          "exit 70",
                          options)),
            0);
}

TEST_F(SupervisorTest, WhatANewWorldWouldMeetTooIsFinal) {
  WorldOptions options;
  options.max_restarts = 3;
  options.first_pause = milliseconds(10);
  for (const int code : {64, 65, 69, 74, 78}) {
    EXPECT_EQ(ExitOf(Launch("echo x >> starts; exit " + std::to_string(code), options)), code);
    std::ifstream file(folder_ + "/starts");
    EXPECT_EQ(std::string(std::istreambuf_iterator<char>(file), {}), "x\n");
    std::filesystem::remove(folder_ + "/starts");
  }
}

TEST_F(SupervisorTest, ASignalBetweenTwoWorldsEndsWithZero) {
  WorldOptions options;
  options.drains = true;
  options.max_restarts = 3;
  options.first_pause = milliseconds(60'000);
  const pid_t launcher = Launch("echo $$ > ready; exit 70", options);
  const pid_t world = ReadPid("ready");
  ASSERT_NE(world, 0);
  EXPECT_TRUE(IsGone(world));
  std::this_thread::sleep_for(milliseconds(50));
  kill(launcher, SIGTERM);
  EXPECT_EQ(ExitOf(launcher), 0);
}

TEST_F(SupervisorTest, TheWorldHasAGroupAndKnowsItsParent) {
  WorldOptions direct;
  direct.through_mpirun = false;
  EXPECT_EQ(ExitOf(Launch("[ $TANDEM_PARENT_PID = $PPID ] && exit 64; exit 65", direct)), 64);
  EXPECT_EQ(ExitOf(Launch("[ $TANDEM_PARENT_PID = $$ ] && exit 64; exit 65", {})), 64);
  EXPECT_EQ(ExitOf(Launch("[ \"$(ps -o pgid= -p $$ | tr -d ' ')\" = $$ ] && exit 64; exit 65", {})),
            64);
}

}  // namespace
}  // namespace tandem::launcher
