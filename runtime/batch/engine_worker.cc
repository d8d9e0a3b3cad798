#include "runtime/batch/engine_worker.h"

#include <algorithm>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "kernels/base/status_macros.h"
#include "runtime/batch/timing.h"
#include "runtime/engine/sampling_fields.h"
#include "runtime/loader/model_folder.h"
#include "runtime/rank/engine_setup.h"

namespace tandem::batch {
namespace {

engine::EngineConfig ConfigOf(const EngineWorker::Setup& setup) {
  engine::EngineConfig config = rank::EngineConfigOf(setup.runtime);
  config.max_num_seqs = static_cast<int32_t>(setup.options.rank.max_num_seqs);
  config.speculation = setup.options.rank.speculation;
  config.load_guard = setup.options.watch;
  // Nobody waits for a single row: its latency is no reason for an alarm.
  config.load_guard.latency_warning = config.load_guard.latency_alarm =
      std::numeric_limits<double>::infinity();
  config.max_queue = static_cast<int32_t>(setup.window + engine::kMaxChoices);
  return config;
}

BatchSink SinkOf(RowSource& source) {
  return {
      .tokens = [&source](uint64_t key, int32_t choice,
                          const std::vector<int32_t>& ids) { source.AddTokens(key, choice, ids); },
      .finish = [&source](uint64_t key, bool failed,
                          std::string line) { source.Finish(key, failed, std::move(line)); }};
}

}  // namespace

int64_t EngineWorker::Window(const JobOptions& options, bool among_others) {
  const int64_t sequences = options.rank.max_num_seqs;
  return among_others ? sequences + 8 : 2 * sequences + 16;
}

absl::StatusOr<std::unique_ptr<EngineWorker>> EngineWorker::Start(const Setup& setup) {
  std::unique_ptr<EngineWorker> worker(new EngineWorker(setup));
  TANDEM_RETURN_IF_ERROR(worker->StartEngine(setup));
  return worker;
}

absl::Status EngineWorker::StartEngine(const Setup& setup) {
  engine::EngineHooks hooks = rank::EngineHooksOf(setup.runtime, kHeartbeat);
  hooks.on_failure = [this](const absl::Status& status) { engine_failure_.Set(status); };
  TANDEM_ASSIGN_OR_RETURN(
      engine_, engine::Engine::Create(ConfigOf(setup), &setup.executor, std::move(hooks)));
  rows_.emplace(*engine_, setup.model.tokenizer.get(), loader::NameOf(setup.options.rank.model),
                SinkOf(setup.source));
  peers_.emplace(setup.runtime.places(),
                 [this](const absl::Status& status) { peer_failure_.Set(status); });
  engine_->Start();
  return absl::OkStatus();
}

EngineWorker::~EngineWorker() {
  if (engine_ != nullptr) engine_->Stop();
}

absl::Status EngineWorker::TakeRows(RowSource& source, int64_t most) {
  for (const Failure* failure : {&peer_failure_, &engine_failure_}) {
    if (failure->is_set.load(std::memory_order_acquire)) {
      return absl::InternalError(failure->status.message());
    }
  }
  source.ReportWorker(window_, executor_.steps());
  while (rows_->open_choices() < std::min(window_, most)) {
    std::optional<Assignment> next = source.Next();
    if (!next.has_value()) break;
    // UNAVAILABLE: the engine has failed, which the next call reports.
    if (!rows_->Start(next->row, std::move(next->tokens)).ok()) break;
  }
  return absl::OkStatus();
}

void EngineWorker::End() {
  peers_.reset();
  rows_->CancelAll();
  engine_->Stop();
}

}  // namespace tandem::batch
