#include "launcher/world/notice_filter.h"

#include <fstream>
#include <iterator>
#include <optional>
#include <string>

#include "gtest/gtest.h"

namespace tandem::launcher {
namespace {

const std::string kFrame = std::string(74, '-') + "\n";
const std::string kKilled =
    kFrame +
    "mpirun noticed that process rank 2 with PID 0 on node left exited on signal 9 (Killed).\n" +
    kFrame;

TEST(NoticeFilter, ReadsWhoEndedAndKeepsRanksLines) {
  NoticeFilter filter;
  std::string out = filter.Feed("rank 0: a line\n" + kFrame +
                                "Primary job  terminated normally, but 1 process returned\n"
                                "a non-zero exit code. Per user-direction, the job has been "
                                "aborted.\n" +
                                kFrame + kKilled + "another\n");
  out += filter.Finish();
  EXPECT_EQ(out, "rank 0: a line\nanother\n");
  ASSERT_TRUE(filter.rank_end().has_value());
  EXPECT_EQ(filter.rank_end()->rank, 2);
  EXPECT_EQ(filter.rank_end()->host, "left");
  EXPECT_EQ(filter.rank_end()->signal, 9);
}

struct Recording {
  const char* name;
  std::optional<RankEnd> end;
  bool shown = false;  // the recording passes unchanged; otherwise nothing of it
};

std::string Read(const std::string& path) {
  std::ifstream file(path);
  EXPECT_TRUE(file.is_open()) << path;
  return {std::istreambuf_iterator<char>(file), {}};
}

// What mpirun wrote, recorded by notices/record.sh.
TEST(NoticeFilter, ReadsWhatOpenMpi414Writes) {
  const Recording recordings[] = {
      {.name = "rank_sigkill", .end = RankEnd{1, "node1", 9}},
      {.name = "rank_exit", .end = RankEnd{1, "", 0}},
      {.name = "rank_abort"},                                      // the rank has said why
      {.name = "mpirun_sigterm"},                                  // mpirun says nothing
      {.name = "mpirun_sigusr1", .end = RankEnd{0, "node1", 10}},  // both ranks got it
      {.name = "unknown_host", .shown = true},
      {.name = "unknown_program", .shown = true},
      {.name = "no_slots", .shown = true},
  };
  for (const Recording& recording : recordings) {
    SCOPED_TRACE(recording.name);
    const std::string text =
        Read(std::string(TANDEM_NOTICES "/openmpi-4.1.4/") + recording.name + ".txt");
    NoticeFilter filter;
    std::string out = filter.Feed(text);
    out += filter.Finish();
    EXPECT_EQ(out, recording.shown ? text : "");
    EXPECT_EQ(filter.rank_end(), recording.end);
  }
}

// Open MPI prints a trace for a fault in the rank; it is the rank's own line, and passes.
TEST(NoticeFilter, TheTraceOfAFaultPasses) {
  const std::string text = Read(TANDEM_NOTICES "/openmpi-4.1.4/rank_sigsegv.txt");
  NoticeFilter filter;
  std::string out = filter.Feed(text);
  out += filter.Finish();
  EXPECT_EQ(out, text.substr(0, text.find(kFrame)));
  EXPECT_NE(out.find("Signal: Segmentation fault (11)"), std::string::npos);
  EXPECT_EQ(filter.rank_end(), (RankEnd{1, "node1", 11}));
}

TEST(NoticeFilter, TheSameFromSingleBytes) {
  NoticeFilter filter;
  std::string out;
  for (const char c : "x\n" + kKilled + "y") out += filter.Feed({&c, 1});
  EXPECT_EQ(out, "x\n");
  EXPECT_EQ(filter.Finish(), "y");
  EXPECT_EQ(filter.rank_end()->rank, 2);
}

TEST(NoticeFilter, AnExitNamesTheRank) {
  NoticeFilter filter;
  EXPECT_EQ(filter.Feed(kFrame +
                        "mpirun detected that one or more processes exited with non-zero "
                        "status, thus causing\nthe job to be terminated. The first process "
                        "to do so was:\n\n  Process name: [[20950,1],3]\n  Exit code:    "
                        "70\n" +
                        kFrame),
            "");
  EXPECT_EQ(filter.rank_end()->rank, 3);
  EXPECT_EQ(filter.rank_end()->signal, 0);
}

TEST(NoticeFilter, ForwardedSignalsAreNoNews) {
  NoticeFilter filter;
  EXPECT_EQ(filter.Feed("a\nmpirun: Forwarding signal 10 to job\nb\n"), "a\nb\n");
}

TEST(NoticeFilter, OtherNoticesAndWhatIsCutShortPass) {
  NoticeFilter filter;
  const std::string slots = kFrame + "There are not enough slots available\n" + kFrame;
  EXPECT_EQ(filter.Feed(slots), slots);
  EXPECT_EQ(filter.Feed(kFrame + "half"), "");
  EXPECT_EQ(filter.Finish(), kFrame + "half");
  EXPECT_FALSE(filter.rank_end().has_value());
}

}  // namespace
}  // namespace tandem::launcher
