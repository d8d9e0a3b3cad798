#include "launcher/command/doctor.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "kernels/base/status_macros.h"
#include "kernels/cuda/cuda_backend.h"
#include "launcher/world/start.h"
#include "parallel/all_reduce_trial.h"
#include "parallel/collectives.h"
#include "parallel/device_communicator.h"
#include "runtime/rank/exit_code.h"
#include "runtime/rank/start.h"

namespace tandem::launcher {
namespace {

using parallel::AllReduceTrial;

// Seconds to wait for the other ranks at the start.
constexpr double kStartTimeout = 1800;
// How long a trial waits for another rank.
constexpr std::chrono::milliseconds kTimeout{5000};
// Floats of an all-reduce in an 8B model: one token, two batches of decoding, a chunk of prefill.
constexpr int64_t kCounts[] = {4 << 10, 64 << 10, 512 << 10, 2 << 20};
constexpr int kRepeats = 20;

// The transports between ranks on CPUs, one after the other, since they would slow each other down.
absl::StatusOr<std::vector<AllReduceTrial>> TryHost(const parallel::MpiWorld& world,
                                                    parallel::ControlGroup& start) {
  std::vector<AllReduceTrial> trials;
  for (const auto& [name, choice] : {std::pair("shm", parallel::CollectivesChoice::kShm),
                                     std::pair("mpi", parallel::CollectivesChoice::kMpi)}) {
    const auto made = parallel::MakeCollectives(
        world, start, world.host_of(),
        {.choice = choice, .timeouts = {.step = kTimeout, .silence = kTimeout}});
    if (!made.ok()) {
      trials.push_back({.way = name, .status = made.status()});
      continue;
    }
    for (const int64_t count : kCounts) {
      TANDEM_ASSIGN_OR_RETURN(
          AllReduceTrial trial,
          parallel::TryCommunicator(start, name, count, kRepeats, *made->communicator));
      trials.push_back(std::move(trial));
      if (!trials.back().status.ok()) break;  // its remains would disturb the next trial
    }
    TANDEM_RETURN_IF_ERROR(start.Barrier());
  }
  return trials;
}

absl::StatusOr<std::vector<AllReduceTrial>> TryGpus(const parallel::MpiWorld& world,
                                                    parallel::ControlGroup& start) {
  int gpu = 0;  // the number of lower ranks on this host
  for (int r = 0; r < start.rank(); ++r) {
    gpu += world.host_of()[r] == world.host_of()[start.rank()] ? 1 : 0;
  }
  auto backend = kernels::MakeCudaBackend({.device = gpu});
  TANDEM_RETURN_IF_ERROR(parallel::AgreeOnStatus(start, backend.status()));
  TANDEM_ASSIGN_OR_RETURN(
      const parallel::Collectives collectives,
      parallel::MakeCollectives(world, start, world.host_of(),
                                {.timeouts = {.step = kTimeout, .silence = kTimeout}}));
  std::vector<AllReduceTrial> trials;
  const auto communicator =
      parallel::MakeDeviceCommunicator(*collectives.communicator,
                                       {.stream = (*backend)->stream(),
                                        .max_floats = kCounts[std::size(kCounts) - 1],
                                        .step_timeout = kTimeout},
                                       &trials);
  // If no transport works, the trials have the errors.
  if (!communicator.ok() && trials.empty()) return communicator.status();
  return trials;
}

const AllReduceTrial* FastestOf(const std::vector<AllReduceTrial>& trials, int64_t count) {
  const AllReduceTrial* fastest = nullptr;
  for (const AllReduceTrial& trial : trials) {
    if (trial.count != count || !trial.status.ok()) continue;
    if (fastest == nullptr || trial.microseconds < fastest->microseconds) fastest = &trial;
  }
  return fastest;
}

void PrintTable(const std::vector<AllReduceTrial>& trials, int ranks) {
  std::printf("all-reduce of %d ranks\n%-10s %10s %12s  %s\n", ranks, "way", "KiB", "us a call",
              "sums");
  for (const AllReduceTrial& trial : trials) {
    const std::string size =
        trial.count == 0 ? "-" : absl::StrCat(trial.count * sizeof(float) / 1024);
    if (!trial.status.ok()) {
      std::printf("%-10s %10s %12s  FAILED: %s\n", trial.way.c_str(), size.c_str(), "-",
                  std::string(trial.status.message()).c_str());
      continue;
    }
    std::printf("%-10s %10s %12s  right%s\n", trial.way.c_str(), size.c_str(),
                absl::StrFormat("%.1f", trial.microseconds).c_str(),
                FastestOf(trials, trial.count) == &trial ? ", fastest" : "");
  }
}

void PrintJson(const std::vector<AllReduceTrial>& trials, int ranks) {
  nlohmann::ordered_json rows = nlohmann::ordered_json::array();
  for (const AllReduceTrial& trial : trials) {
    nlohmann::ordered_json row = {{"way", trial.way}, {"bytes", trial.count * sizeof(float)}};
    if (trial.status.ok()) {
      row["microseconds"] = trial.microseconds;
      row["fastest"] = FastestOf(trials, trial.count) == &trial;
    } else {
      row["error"] = std::string(trial.status.message());
    }
    rows.push_back(std::move(row));
  }
  std::cout << nlohmann::ordered_json({{"ranks", ranks}, {"all_reduce", rows}}).dump() << '\n';
}

rank::RankOutcome Diagnose(rank::JoinedWorld& joined, const DoctorOptions& options) {
  parallel::MpiWorld* const world = joined.world.get();
  parallel::ControlGroup& start = *joined.communicator;
  if (start.size() == 1) {
    return rank::ReportOwnError(absl::FailedPreconditionError(
        "doctor: found a world of one rank, which adds nothing up; expected --tp 2 or more"));
  }
  const auto trials = options.device == "cuda" ? TryGpus(*world, start) : TryHost(*world, start);
  if (!trials.ok()) return rank::ReportAgreedError(world, trials.status());
  if (start.rank() == 0) {
    if (options.json) {
      PrintJson(*trials, start.size());
    } else {
      PrintTable(*trials, start.size());
    }
    std::cout.flush();
    std::fflush(stdout);
    if (!std::cout || std::ferror(stdout) != 0) {
      return rank::AbortWorld(world, rank::OutputError("stdout: cannot be written"));
    }
  }
  // A transport that the machine cannot have (count 0) is no failure: one that needs a GPU per
  // rank, or shared memory.
  const bool failed = std::any_of(trials->begin(), trials->end(), [](const AllReduceTrial& trial) {
    return trial.count > 0 && !trial.status.ok();
  });
  return rank::Done(failed ? rank::kExitUnavailable : 0);
}

int RunDoctorRank(const DoctorOptions& options) {
  return rank::RunRank({spdlog::level::warn, kStartTimeout},
                       [&](rank::JoinedWorld& joined) { return Diagnose(joined, options); });
}

}  // namespace

CLI::App* AddDoctor(CLI::App& parent, DoctorOptions* options) {
  CLI::App* app =
      parent.add_subcommand("doctor", "Test and benchmark each transport between ranks");
  app->add_option("--tp", options->tp, "Number of ranks")->check(CLI::Range(1, 4096));
  app->add_option("--device", options->device, "Where the data to sum up is: cpu or cuda")
      ->check(CLI::IsMember({"cpu", "cuda"}))
      ->capture_default_str();
  app->add_flag("--json", options->json, "Print one JSON object");
  return app;
}

absl::StatusOr<int> RunDoctor(const DoctorOptions& options, char** argv) {
  WorldOptions world;
  world.relay_stdout = true;
  return RunRankOrWorld({.tp = options.tp, .world = world}, argv,
                        [&] { return RunDoctorRank(options); });
}

}  // namespace tandem::launcher
