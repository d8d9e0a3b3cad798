// What a batch job is to do, as plain values.
#pragma once

#include <string>

#include "runtime/engine/load_guard.h"
#include "runtime/engine/sampling_request.h"
#include "runtime/rank/rank_runtime.h"

namespace tandem::batch {

struct JobOptions {
  rank::RankOptions rank;       // of every replica's ranks
  int tp = 0;                   // ranks of a replica; 0: the given world's size, or the host's
  std::string hosts;            // to start ranks on (rank/host_list.h); empty: this one
  double start_timeout = 1800;  // seconds to wait for another rank at the start
  engine::LoadGuardOptions watch;
  std::string input;                 // JSONL, plain or gzip; "-": standard input
  std::string output;                // the journal lies beside it
  std::string errors;                // empty: OUTPUT.errors
  std::string on_error = "stop";     // or skip
  int replicas = 0;                  // worlds of tp ranks each; 0: 1, or as many as hosts have room
  double progress_interval = 30;     // seconds between lines where there is no terminal
  bool ordered = false;              // results in the order of the input
  double time_limit = 0;             // seconds; 0: none, or Slurm's
  engine::SamplingRequest sampling;  // defaults of rows
};

}  // namespace tandem::batch
