// The state machine of a world's supervision, without processes.
#include "launcher/world/supervision.h"

#include <sys/wait.h>

#include <csignal>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace tandem::launcher {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using ::testing::ElementsAre;
using ::testing::IsEmpty;
using Kind = WorldEvent::Kind;
using Phase = Supervision::Phase;

const Supervision::Clock::time_point kStart{};

WorldAction Send(int signal) { return {.signal = signal}; }

WorldEvent Asked(int signal, bool ranks_seen = true) {
  return {.kind = Kind::kAsked, .signal = signal, .ranks_seen = ranks_seen};
}

WorldOptions Draining() {
  WorldOptions options;
  options.drains = true;
  options.drain_timeout = seconds(30);
  options.grace = seconds(5);
  return options;
}

int Exited(int code) { return code << 8; }
int Killed(int signal) { return signal; }

class SupervisionTest : public ::testing::Test {
 protected:
  std::vector<WorldAction> On(const WorldEvent& event, seconds at) {
    return supervision().On(event, kStart + at);
  }
  // The end of a world whose process ended with `status`.
  WorldEnd End(int status, WorldRemains remains = {}) {
    EXPECT_THAT(On({.kind = Kind::kEnded}, seconds(1000)), IsEmpty());
    EXPECT_EQ(supervision().phase(), Phase::kEnded);
    remains.status = status;
    remains.program = "/bin/tandem";
    return supervision().Conclude(remains);
  }
  Supervision& supervision() {
    if (!supervision_.has_value()) supervision_.emplace(options_);
    return *supervision_;
  }

  WorldOptions options_;

 private:
  std::optional<Supervision> supervision_;
};

TEST_F(SupervisionTest, AQuietWorldNeedsNoActions) {
  EXPECT_THAT(On({.kind = Kind::kWaited}, seconds(1)), IsEmpty());
  EXPECT_THAT(On({.kind = Kind::kLooked, .ranks_seen = true}, seconds(2)), IsEmpty());
  EXPECT_EQ(supervision().phase(), Phase::kRunning);
  EXPECT_FALSE(supervision().deadline().has_value());
  const WorldEnd end = End(Exited(0));
  EXPECT_EQ(end.code, 0);
  EXPECT_FALSE(end.failed);
  EXPECT_EQ(end.message, "");
}

TEST_F(SupervisionTest, ADrainThatEndsInTimeIsOneSignal) {
  options_ = Draining();
  EXPECT_THAT(On(Asked(SIGTERM), seconds(1)), ElementsAre(Send(SIGUSR1)));
  EXPECT_EQ(supervision().phase(), Phase::kDraining);
  EXPECT_EQ(supervision().deadline(), kStart + seconds(36));
  EXPECT_THAT(On({.kind = Kind::kWaited}, seconds(35)), IsEmpty());
  EXPECT_EQ(End(Exited(0)).code, 0);
}

TEST_F(SupervisionTest, ADrainThatTakesTooLongIsForcedInTwoSteps) {
  options_ = Draining();
  On(Asked(SIGTERM), seconds(0));
  EXPECT_THAT(On({.kind = Kind::kWaited}, seconds(35)), ElementsAre(Send(SIGTERM)));
  EXPECT_EQ(supervision().phase(), Phase::kTerminating);
  EXPECT_THAT(On({.kind = Kind::kWaited}, seconds(39)), IsEmpty());
  EXPECT_THAT(On({.kind = Kind::kWaited}, seconds(40)), ElementsAre(Send(SIGKILL)));
  EXPECT_EQ(supervision().phase(), Phase::kKilling);
  const WorldEnd end = End(Killed(SIGKILL));
  EXPECT_EQ(end.code, 70);
  EXPECT_FALSE(end.failed);
  EXPECT_EQ(end.message, "the world did not end within the drain timeout");
}

TEST_F(SupervisionTest, EverySignalAfterTheFirstForces) {
  options_ = Draining();
  options_.resumable = true;
  On(Asked(SIGINT), seconds(0));
  EXPECT_THAT(On(Asked(SIGINT), seconds(1)), ElementsAre(Send(SIGTERM)));
  EXPECT_THAT(On(Asked(SIGTERM), seconds(2)), ElementsAre(Send(SIGKILL)));
  EXPECT_THAT(On(Asked(SIGTERM), seconds(3)), ElementsAre(Send(SIGKILL)));
  EXPECT_EQ(supervision().asked_by(), SIGINT);
  const WorldEnd end = End(Killed(SIGKILL));
  EXPECT_EQ(end.code, 75);
  EXPECT_EQ(end.message, "a second signal ended the world before it had drained");
}

TEST_F(SupervisionTest, AWorldThatDoesNotDrainIsForcedAtOnce) {
  EXPECT_THAT(On(Asked(SIGINT), seconds(0)), ElementsAre(Send(SIGTERM)));
  EXPECT_EQ(supervision().phase(), Phase::kTerminating);
  const WorldEnd end = End(Killed(SIGTERM));
  EXPECT_EQ(end.code, 128 + SIGINT);
  EXPECT_EQ(end.message, "");
}

TEST_F(SupervisionTest, RanksThatComeAfterTheRequestGetItToo) {
  options_ = Draining();
  EXPECT_THAT(On(Asked(SIGTERM, /*ranks_seen=*/false), seconds(0)), ElementsAre(Send(SIGUSR1)));
  EXPECT_THAT(On({.kind = Kind::kLooked}, seconds(1)), IsEmpty());
  EXPECT_THAT(On({.kind = Kind::kLooked, .ranks_seen = true}, seconds(2)),
              ElementsAre(Send(SIGUSR1)));
  EXPECT_THAT(On({.kind = Kind::kLooked, .ranks_seen = true}, seconds(3)), IsEmpty());
  // They die of it before they can take it.
  EXPECT_EQ(End(Exited(128 + SIGUSR1)).code, 0);
}

TEST_F(SupervisionTest, ADrainBeforeTheRanksLeavesAResumableJobToBeResumed) {
  options_ = Draining();
  options_.resumable = true;
  On(Asked(SIGTERM), seconds(0));
  EXPECT_EQ(End(Killed(SIGUSR1)).code, 75);
}

TEST_F(SupervisionTest, AWorldThatOutlivesARankIsEndedAndFailed) {
  options_.lost_grace = seconds(20);
  EXPECT_THAT(
      On({.kind = Kind::kLooked, .ranks_seen = true, .missing_for = seconds(19)}, seconds(100)),
      IsEmpty());
  EXPECT_THAT(
      On({.kind = Kind::kLooked, .ranks_seen = true, .missing_for = seconds(20)}, seconds(101)),
      ElementsAre(WorldAction{.kind = WorldAction::Kind::kReport,
                              .message = "a rank has gone and mpirun has not ended the world "
                                         "within 20 s: ending it by force"},
                  Send(SIGTERM)));
  // Reported once.
  EXPECT_THAT(
      On({.kind = Kind::kLooked, .ranks_seen = true, .missing_for = seconds(21)}, seconds(102)),
      IsEmpty());
  EXPECT_THAT(On({.kind = Kind::kWaited}, seconds(106)), ElementsAre(Send(SIGKILL)));
  const WorldEnd end = End(Killed(SIGKILL));
  EXPECT_EQ(end.code, 70);
  EXPECT_TRUE(end.failed);
  EXPECT_EQ(end.message, "");
}

TEST_F(SupervisionTest, ARequestDuringForceKeepsThePhase) {
  options_ = Draining();
  On({.kind = Kind::kLooked, .ranks_seen = true, .missing_for = seconds(20)}, seconds(0));
  EXPECT_THAT(On(Asked(SIGTERM), seconds(1)), ElementsAre(Send(SIGUSR1)));
  EXPECT_EQ(supervision().phase(), Phase::kTerminating);
  EXPECT_EQ(supervision().deadline(), kStart + seconds(36));
  const WorldEnd end = End(Killed(SIGTERM));
  EXPECT_EQ(end.code, 70);
  EXPECT_FALSE(end.failed);  // no new world: a signal asked to finish
  EXPECT_EQ(end.message, "");
}

TEST_F(SupervisionTest, OutputThatCannotBeWrittenEndsTheWorldOnce) {
  EXPECT_THAT(On({.kind = Kind::kOutputFailed}, seconds(0)), ElementsAre(Send(SIGTERM)));
  EXPECT_THAT(On({.kind = Kind::kOutputFailed}, seconds(1)), IsEmpty());
  const WorldEnd end = End(Killed(SIGTERM), {.output_failed = true});
  EXPECT_EQ(end.code, 74);
  EXPECT_EQ(end.message, "stdout: cannot be written");
}

TEST_F(SupervisionTest, OutputThatFailsAtTheEndCounts) {
  EXPECT_EQ(End(Exited(0), {.output_failed = true}).code, 74);
  EXPECT_EQ(supervision().Conclude({.status = Exited(65), .output_failed = true}).code, 65);
}

TEST_F(SupervisionTest, EndsThatRanksHaveExplainedNeedNoMessage) {
  for (const int code : {64, 65, 69, 70, 74, 75, 78}) {
    const WorldEnd end = supervision().Conclude({.status = Exited(code)});
    EXPECT_EQ(end.code, code);
    EXPECT_EQ(end.failed, code == 70);
    EXPECT_EQ(end.message, "");
  }
}

TEST_F(SupervisionTest, OtherEndsAreExplained) {
  struct Case {
    WorldRemains remains;
    int code;
    const char* message;
  };
  const Case cases[] = {
      {{.status = Killed(SIGKILL)}, 137, "mpirun was killed by SIGKILL"},
      {{.status = Exited(137), .first = RankEnd{2, "node1", 9}},
       137,
       "rank 2 on node1 was killed by SIGKILL"},
      {{.status = Exited(139)}, 139, "a rank was killed by SIGSEGV"},
      {{.status = Exited(1), .first = RankEnd{3, "", 0}, .program = "/usr/bin/mpirun"},
       70,
       "/usr/bin/mpirun ended with status 1"},
  };
  for (const Case& test : cases) {
    const WorldEnd end = supervision().Conclude(test.remains);
    EXPECT_EQ(end.code, test.code);
    EXPECT_TRUE(end.failed);
    EXPECT_EQ(end.message, test.message);
  }
}

TEST_F(SupervisionTest, ARankWithoutMpirunIsNamedAsSuch) {
  options_.through_mpirun = false;
  EXPECT_EQ(supervision().Conclude({.status = Killed(SIGABRT)}).message,
            "the rank was killed by SIGABRT");
}

TEST_F(SupervisionTest, ProcessesThatStayForbidANewWorld) {
  const WorldEnd end = End(Killed(SIGKILL), {.all_gone = false});
  EXPECT_EQ(end.code, 70);
  EXPECT_FALSE(end.failed);
}

}  // namespace
}  // namespace tandem::launcher
