// What the launcher does while a world runs and when it has ended, as a state machine: events in,
// actions out. It has no processes, signals or clock of its own; supervisor.cc has them.
//
//            asked to finish (drains)
//   kRunning ------------------------> kDraining
//       |                                 |  asked again, drain timeout
//       |  asked to finish (else),        |
//       |  output failed, rank died       v
//       +--------------------------> kTerminating --(grace, asked again)--> kKilling
//
// and from every phase to kEnded when the world's process has ended.
#pragma once

#include <chrono>
#include <optional>
#include <string>
#include <vector>

#include "launcher/world/notice_filter.h"
#include "launcher/world/world_options.h"

namespace tandem::launcher {

struct WorldEvent {
  enum class Kind {
    kAsked,         // a signal asks the launcher to finish
    kOutputFailed,  // the answers of the ranks cannot be written to stdout
    kLooked,        // the ranks of this host were looked up (local_ranks.h)
    kWaited,        // nothing happened: a deadline may have passed
    kEnded,         // the world's process has ended
  };
  Kind kind = Kind::kWaited;
  int signal = 0;           // kAsked
  bool ranks_seen = false;  // kAsked, kLooked: a rank of this host has been seen
  std::chrono::steady_clock::duration missing_for{};  // kLooked: how long a rank has been missing
};

struct WorldAction {
  enum class Kind {
    kSignal,  // send `signal` to the world's process
    kReport,  // print `message`, one line
  };
  Kind kind = Kind::kSignal;
  int signal = 0;
  std::string message;
  bool operator==(const WorldAction&) const = default;
};

// What is left of a world.
struct WorldRemains {
  int status = 0;                // of its process, as waitpid gives it
  bool all_gone = true;          // no process of it is left
  bool output_failed = false;    // stdout could not be written
  std::optional<RankEnd> first;  // the first rank that ended, where mpirun names it
  std::string program;           // argv[0]
};

struct WorldEnd {
  int code = 0;         // for the shell, unless a new world is started
  bool failed = false;  // a new world may do better
  std::string
      message;  // to print, one line; empty: a rank has printed the reason, or there is none
};

class Supervision {
 public:
  using Clock = std::chrono::steady_clock;
  enum class Phase { kRunning, kDraining, kTerminating, kKilling, kEnded };

  explicit Supervision(const WorldOptions& options) : options_(options) {}

  // The actions to take, in this order. `now` never goes back.
  std::vector<WorldAction> On(const WorldEvent& event, Clock::time_point now);

  // When to send kWaited at the latest.
  std::optional<Clock::time_point> deadline() const { return deadline_; }
  Phase phase() const { return phase_; }
  int asked_by() const { return asked_by_; }  // the first signal that asked to finish, or 0

  // The end of the world, after kEnded.
  WorldEnd Conclude(const WorldRemains& remains) const;

 private:
  void Ask(const WorldEvent& event, Clock::time_point now, std::vector<WorldAction>* actions);
  void Look(const WorldEvent& event, Clock::time_point now, std::vector<WorldAction>* actions);
  // SIGTERM, and the next time SIGKILL.
  void Force(Clock::time_point now, std::vector<WorldAction>* actions);

  const WorldOptions& options_;
  Phase phase_ = Phase::kRunning;
  std::optional<Clock::time_point> deadline_;
  int asked_by_ = 0;
  bool asked_again_ = false;
  bool ask_ranks_ = false;  // they did not exist yet when mpirun was asked to finish
  bool rank_died_ = false;  // and mpirun did not end the world
  bool forced_ = false;
};

}  // namespace tandem::launcher
