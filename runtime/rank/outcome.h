// How a rank ends. A command's work on a rank returns a RankOutcome; the functions below make one.
//
// Three kinds of errors end a rank:
//   agreed error   every rank has the same status (AgreeOnStatus): rank 0 prints it, all exit alike
//   own error      only this rank has it, others may be waiting: the world is aborted
//   rank failure   another rank died or does not answer: the world is aborted with the exit code
//                  that makes the launcher start a new one
#pragma once

#include "absl/status/status.h"
#include "parallel/mpi_world.h"

namespace tandem::rank {

// Whoever has an outcome need not print anything: its error, if any, has been reported.
struct [[nodiscard]] RankOutcome {
  enum class Ending { kDone, kAgreedError, kOwnError, kRankFailure };

  Ending ending = Ending::kDone;
  int exit_code = 0;  // of kDone too: a batch job that was stopped has kExitRequeue

  bool done() const { return ending == Ending::kDone; }
};

RankOutcome Done(int exit_code = 0);

// `world` is null in a world of one without MPI, here and below. Every rank calls this with the
// same error. A timeout of the exchange itself (ExchangeTimedOut) counts as a rank failure.
RankOutcome ReportAgreedError(parallel::MpiWorld* world, const absl::Status& error);

// Reports an error of this rank, with the rank's number, and aborts the world. Returns only in a
// world of one rank. A timeout of an exchange counts as a rank failure.
RankOutcome AbortWorld(parallel::MpiWorld* world, const absl::Status& error);

// Another rank died or does not answer. Reports it and aborts the world with kExitInternal. Returns
// only in a world of one rank.
RankOutcome AbortAfterRankFailure(parallel::MpiWorld* world, const absl::Status& error);

// After the last exchange, when no other rank waits for this one: reports, and ends alone.
RankOutcome ReportOwnError(const absl::Status& error);

// Whether a step of a world of several ranks failed because a rank died or does not answer.
bool IsRankFailure(const parallel::MpiWorld* world, const absl::Status& step);

// Whether an exchange outside of steps (ControlGroup::AllGatherBytes) ended because a rank did not
// come to it in time.
bool ExchangeTimedOut(const absl::Status& exchange);

}  // namespace tandem::rank
