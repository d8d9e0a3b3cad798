#include "launcher/command/serve.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <iostream>
#include <iterator>
#include <memory>
#include <optional>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "kernels/base/status_macros.h"
#include "launcher/command/generate_front.h"
#include "launcher/command/runtime_options.h"
#include "runtime/engine/engine.h"
#include "runtime/rank/build_id.h"
#include "runtime/rank/engine_setup.h"
#include "runtime/rank/exit_code.h"
#include "runtime/rank/parent_process.h"
#include "runtime/rank/rank_runtime.h"
#include "runtime/rank/start.h"
#include "runtime/server/serve_front.h"
#include "runtime/server/validation.h"
#include "runtime/text/chat/chat_template_file.h"

namespace tandem::launcher {
namespace {

// While nothing is asked for, ranks are asked for a sign of life this often. Waits are shorter than
// the step timeout by as much, so that a stall is found within it.
std::chrono::milliseconds HeartbeatInterval(const ServeOptions& options) {
  return std::chrono::milliseconds(
      static_cast<int64_t>(std::min(5.0, options.step_timeout / 4) * 1e3));
}

server::GrpcServerOptions ServerOptionsOf(const ServeOptions& options) {
  const auto milliseconds = [](double seconds) {
    return std::chrono::milliseconds(static_cast<int64_t>(seconds * 1e3));
  };
  server::GrpcServerOptions server;
  server.listen = options.listen;
  server.tls = {options.tls_cert, options.tls_key, options.tls_client_ca};
  server.max_receive_bytes = static_cast<int>(options.max_message_bytes);
  server.max_streams_per_connection = options.max_streams;
  server.keepalive_time = milliseconds(options.keepalive_time);
  server.max_connection_age = milliseconds(options.max_connection_age);
  server.max_connection_age_grace = milliseconds(options.max_connection_age_grace);
  server.max_connection_idle = milliseconds(options.max_connection_idle);
  return server;
}

// As the launcher counts them; nullopt where it is not one of ours.
std::optional<int64_t> RestartsSoFar() {
  const char* text = std::getenv(rank::kRestartsVariable);
  int64_t restarts = 0;
  if (!rank::StartedByLauncher() || text == nullptr || !absl::SimpleAtoi(text, &restarts)) {
    return std::nullopt;
  }
  return restarts;
}

// What a cautious operator wants to know before the first request.
void WarnOfOpenDoors(const ServeOptions& options) {
  const bool local =
      options.listen.rfind("127.", 0) == 0 || options.listen.rfind("[::1]", 0) == 0 ||
      options.listen.rfind("localhost:", 0) == 0 || options.listen.rfind("unix:", 0) == 0;
  if (local || !options.tls_cert.empty()) return;
  spdlog::warn("{} is reached without encryption{}; see --tls-cert", options.listen,
               options.auth_token_file.empty() ? "" : ", tokens can be read on the way");
}

// Port 0 takes a free port, which nobody knows until it is printed. Other addresses are printed
// once the model is loaded.
void LogTakenPorts(const ServeOptions& options, const server::ServeFront& front) {
  if (front.address() != options.listen) spdlog::info("listening on {}", front.address());
  if (front.metrics_address() != options.metrics_listen) {
    spdlog::info("metrics at {}", front.metrics_address());
  }
}

// Null where the folder has no tokenizer.json.
absl::StatusOr<std::unique_ptr<tokenizer::Tokenizer>> LoadTokenizer(const std::string& model) {
  TANDEM_ASSIGN_OR_RETURN(const loader::ModelFolder folder, loader::ModelFolder::Open(model));
  if (!folder.Has("tokenizer.json")) return nullptr;
  return tokenizer::Tokenizer::FromFile(folder.PathOf("tokenizer.json"));
}

// Reads and tokenizes the prompt; only rank 0 does.
absl::Status ReadPrompt(const GenerateOptions& options, GenerateJob& job,
                        std::unique_ptr<tokenizer::Tokenizer>& tokenizer) {
  TANDEM_ASSIGN_OR_RETURN(tokenizer, LoadTokenizer(options.model.model));
  job.tokenizer = tokenizer.get();
  job.prompt_ids = options.prompt_ids;
  if (!options.prompt.has_value()) return absl::OkStatus();
  if (tokenizer == nullptr) {
    return absl::FailedPreconditionError(absl::StrCat(
        options.model.model, " has no tokenizer.json: give --prompt-ids instead of text"));
  }
  std::string text = *options.prompt;
  if (text == "-") text.assign(std::istreambuf_iterator<char>(std::cin), {});
  if (text.empty()) {
    return absl::InvalidArgumentError("prompt: found no text, expected some");
  }
  TANDEM_ASSIGN_OR_RETURN(job.prompt_ids, tokenizer->Encode(text, /*add_special_tokens=*/true));
  return absl::OkStatus();
}

// Tokens that prompt and answer can have together, on every rank: rank 0 knows
// the prompt. 0: as long as the model allows.
absl::StatusOr<int64_t> AgreeOnContext(parallel::ControlGroup& communicator,
                                       const GenerateJob& job) {
  int64_t context = 0;
  if (communicator.rank() == 0 && job.sampling.max_tokens.has_value()) {
    context = static_cast<int64_t>(job.prompt_ids.size()) + std::max(1, *job.sampling.max_tokens);
  }
  TANDEM_ASSIGN_OR_RETURN(const std::vector<std::string> all,
                          communicator.AllGatherBytes(absl::StrCat(context)));
  return std::stoll(all[0]);
}

std::string LastPart(const std::string& path) {
  const size_t end = path.find_last_not_of('/');
  if (end == std::string::npos) return path;
  const size_t begin = path.find_last_of('/', end);
  return path.substr(begin == std::string::npos ? 0 : begin + 1,
                     end - (begin == std::string::npos ? 0 : begin + 1) + 1);
}

// Rank 0, from a loaded world to a drained one.
rank::RankOutcome ServeUntilDrained(parallel::MpiWorld* world, rank::RankRuntime& runtime,
                                    const ServeOptions& options, server::ServeFront& front,
                                    const tokenizer::Tokenizer* tokenizer,
                                    const chat::ChatTemplate* chat_template) {
  engine::EngineConfig config = rank::EngineConfigOf(runtime);
  config.max_num_seqs = static_cast<int32_t>(options.model.max_num_seqs);
  config.max_queue = static_cast<int32_t>(options.max_queue);
  config.load_guard = LoadGuardOptionsOf(options.watch);
  engine::EngineHooks hooks = rank::EngineHooksOf(runtime, HeartbeatInterval(options));
  engine::EngineMetrics metrics;
  if (!options.metrics_listen.empty()) hooks.metrics = &metrics;
  hooks.on_failure = [&front](const absl::Status& status) { front.Fail(status); };
  const auto created = engine::Engine::Create(config, &runtime.runner(), hooks);
  if (!created.ok()) return rank::AbortAfterRankFailure(world, created.status());
  const std::unique_ptr<engine::Engine>& engine = *created;
  engine->Start();
  std::optional<rank::PeerWatch> watch;
  watch.emplace(runtime.places(), [&front](const absl::Status& status) { front.Fail(status); });
  server::ServedModel model;
  model.engine = engine.get();
  model.tokenizer = tokenizer;
  model.chat_template = chat_template;
  model.info = {.name = options.name.empty() ? LastPart(options.model.model) : options.name,
                .architecture = runtime.config().architecture,
                .eos_token_ids = runtime.eos_token_ids(),
                .tp_degree = runtime.tp(),
                .weight_dtype = runtime.weight_format(),
                .version = TANDEM_VERSION};
  model.defaults = server::DefaultsOf(runtime.generation());
  model.ranks = [&runtime] { return runtime.DescribeRanks(); };
  model.engine_metrics = hooks.metrics;
  // GPUs compute on when a call that starts their work has returned.
  model.step_parts = runtime.timer() != nullptr && !runtime.on_gpu();
  front.SetModel(std::move(model));
  spdlog::info("serving {} at {} on {} ranks: {} KV tokens, contexts up to {}", options.model.model,
               front.address(), runtime.tp(), runtime.num_blocks() * model::kBlockSize,
               runtime.max_model_len());
  if (!options.metrics_listen.empty()) {
    spdlog::info("metrics at {}", front.metrics_address());
  }
  const absl::Status status = front.WaitUntilStopped();
  // Before Stop, since the step in progress may be waiting for the rank that died.
  const rank::RankOutcome outcome =
      status.ok() ? rank::Done() : rank::AbortAfterRankFailure(world, status);
  watch.reset();
  engine->Stop();
  return outcome;
}

rank::RankOutcome Generate(rank::JoinedWorld& joined, const GenerateOptions& options) {
  parallel::MpiWorld* world = joined.world.get();
  parallel::ControlGroup* communicator = joined.communicator.get();
  const int rank = communicator->rank();

  GenerateJob job;
  job.sampling = options.sampling;
  job.json = options.json;
  job.logits_file = options.logits_file;
  std::unique_ptr<tokenizer::Tokenizer> tokenizer;
  const absl::Status read = rank == 0 ? ReadPrompt(options, job, tokenizer) : absl::OkStatus();
  if (const absl::Status agreed = AgreeOnStatus(*communicator, read); !agreed.ok()) {
    return rank::ReportAgreedError(world, agreed);
  }
  rank::RankOptions rank_options = RankOptionsOf(options.model);
  rank_options.max_num_seqs = 1;
  const absl::StatusOr<int64_t> context = AgreeOnContext(*communicator, job);
  if (!context.ok()) return rank::AbortWorld(world, context.status());
  rank_options.used_context = *context;
  auto loaded = rank::LoadRank(joined, rank_options, options.model.trace_file);
  if (!loaded.ok()) return rank::ReportAgreedError(world, loaded.status());
  rank::RankRuntime& runtime = *loaded->runtime;

  absl::StatusOr<GenerateResult> result = GenerateResult();
  if (rank == 0) {
    result = RunGenerate(runtime, job);
    if (rank::IsRankFailure(world, result.status())) {
      return rank::AbortAfterRankFailure(world, result.status());
    }
    if (absl::Status status = runtime.runner().Shutdown(); !status.ok()) {
      return rank::AbortWorld(world, status);
    }
  } else if (absl::Status status = runtime.Work(); !status.ok()) {
    return rank::AbortWorld(world, status);
  }
  if (const absl::Status agreed = AgreeOnStatus(*communicator, result.status()); !agreed.ok()) {
    return rank::ReportAgreedError(world, agreed);
  }
  const auto reports = runtime.GatherReports();
  if (!reports.ok()) return rank::AbortWorld(world, reports.status());
  if (absl::Status status = loaded->WriteTrace(*communicator); !status.ok()) {
    return rank::AbortWorld(world, status);
  }
  if (rank == 0 && options.json) {
    std::cout << GenerateJson(*result, *reports) << std::endl;
    if (!std::cout) return rank::ReportOwnError(rank::OutputError("stdout: cannot be written"));
  }
  return rank::Done();
}

rank::RankOutcome Serve(rank::JoinedWorld& joined, const ServeOptions& options,
                        std::unique_ptr<server::DrainSignals> signals) {
  parallel::MpiWorld* world = joined.world.get();
  parallel::ControlGroup* communicator = joined.communicator.get();
  const int rank = communicator->rank();

  std::unique_ptr<tokenizer::Tokenizer> tokenizer;
  absl::StatusOr<chat::ChatTemplate> chat_template = absl::NotFoundError("");
  std::unique_ptr<server::ServeFront> front;
  absl::Status opened;
  if (rank == 0) {
    // The port first: a second server on it should not load a model to find out.
    server::ServeFrontOptions front_options;
    front_options.server = ServerOptionsOf(options);
    front_options.metrics_listen = options.metrics_listen;
    front_options.info = {
        .version = TANDEM_VERSION,
        .build = std::string(absl::StripPrefix(rank::BuildId(), TANDEM_VERSION " ")),
        .restarts = RestartsSoFar()};
    front_options.auth_token_file = options.auth_token_file;
    // mpirun ends a world that has lost a rank with SIGTERM; srun asks with it.
    front_options.sigterm_is_loss =
        communicator->size() > 1 && std::getenv("OMPI_COMM_WORLD_SIZE") != nullptr;
    front_options.dies_while_loading = rank::StartedByLauncher();
    front_options.drain_timeout =
        std::chrono::milliseconds(static_cast<int64_t>(options.drain_timeout * 1e3));
    opened = [&]() -> absl::Status {
      TANDEM_ASSIGN_OR_RETURN(front, server::ServeFront::Start(front_options, std::move(signals)));
      LogTakenPorts(options, *front);
      WarnOfOpenDoors(options);
      TANDEM_ASSIGN_OR_RETURN(tokenizer, LoadTokenizer(options.model.model));
      chat_template = chat::LoadChatTemplate(options.model.model);
      if (!chat_template.ok() && !absl::IsNotFound(chat_template.status())) {
        // A damaged one; text and ids can be served all the same.
        spdlog::warn("no chat messages: {}", std::string(chat_template.status().message()));
      }
      return absl::OkStatus();
    }();
  } else {
    server::IgnoreDrainSignals();
  }
  if (const absl::Status agreed = AgreeOnStatus(*communicator, opened); !agreed.ok()) {
    front.reset();
    return rank::ReportAgreedError(world, agreed);
  }
  rank::RankOptions rank_options = RankOptionsOf(options.model);
  const auto step_timeout =
      std::chrono::milliseconds(static_cast<int64_t>(options.step_timeout * 1e3));
  rank_options.timeouts = {.step = step_timeout - HeartbeatInterval(options),
                           .silence = step_timeout};
  parallel::StepTimer timer;  // for the metrics, which are rank 0's
  if (rank == 0 && !options.metrics_listen.empty() && options.model.device == "cpu") {
    rank_options.timer = &timer;
  }
  auto loaded = rank::LoadRank(joined, rank_options, options.model.trace_file);
  if (!loaded.ok()) {
    front.reset();
    return rank::ReportAgreedError(world, loaded.status());
  }
  rank::RankRuntime& runtime = *loaded->runtime;
  if (world != nullptr) world->SetPatience(step_timeout);  // nothing is left that takes long
  if (rank != 0) {
    if (absl::Status status = runtime.Work(); !status.ok()) {
      return rank::AbortAfterRankFailure(world, status);
    }
  } else {
    const rank::RankOutcome outcome =
        ServeUntilDrained(world, runtime, options, *front, tokenizer.get(),
                          chat_template.ok() ? &*chat_template : nullptr);
    front.reset();
    if (!outcome.done()) return outcome;
    if (absl::Status status = runtime.runner().Shutdown(); !status.ok()) {
      return rank::AbortAfterRankFailure(world, status);
    }
  }
  if (absl::Status status = loaded->WriteTrace(*communicator); !status.ok()) {
    return rank::AbortWorld(world, status);
  }
  return rank::Done();
}

}  // namespace

int RunGenerateRank(const GenerateOptions& options) {
  return rank::RunRank({spdlog::level::warn, options.model.start_timeout},
                       [&](rank::JoinedWorld& joined) { return Generate(joined, options); });
}

int RunServeRank(const ServeOptions& options) {
  // Before MPI and gRPC start threads, which inherit the mask.
  auto signals = server::DrainSignals::Block();
  if (!signals.ok()) return rank::ReportError(signals.status());
  return rank::RunRank(
      {spdlog::level::info, options.model.start_timeout},
      [&](rank::JoinedWorld& joined) { return Serve(joined, options, *std::move(signals)); });
}

}  // namespace tandem::launcher
