#include "launcher/command/serve.h"

#include <spdlog/spdlog.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <memory>
#include <optional>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "kernels/base/status_macros.h"
#include "launcher/command/model_tokenizer.h"
#include "launcher/command/option_checks.h"
#include "launcher/world/start.h"
#include "runtime/engine/engine.h"
#include "runtime/loader/model_folder.h"
#include "runtime/rank/build_id.h"
#include "runtime/rank/engine_setup.h"
#include "runtime/rank/exit_code.h"
#include "runtime/rank/parent_process.h"
#include "runtime/rank/peer_watch.h"
#include "runtime/rank/rank_runtime.h"
#include "runtime/rank/start.h"
#include "runtime/server/serve_front.h"
#include "runtime/server/validation.h"
#include "runtime/text/chat/chat_template_file.h"

namespace tandem::launcher {
namespace {

std::chrono::milliseconds Milliseconds(double seconds) {
  return std::chrono::milliseconds(static_cast<int64_t>(seconds * 1e3));
}

// While there is no request, rank 0 sends a heartbeat to the other ranks this often. The wait for a
// step is shorter than --step-timeout by this interval, so that a stall is found within the
// timeout.
std::chrono::milliseconds HeartbeatInterval(const ServeOptions& options) {
  return Milliseconds(std::min(5.0, options.step_timeout / 4));
}

server::GrpcServerOptions ServerOptionsOf(const ServeOptions& options) {
  server::GrpcServerOptions server;
  server.listen = options.listen;
  server.tls = {
      .certificate = options.tls_cert, .key = options.tls_key, .client_ca = options.tls_client_ca};
  server.connections = {options.max_connections, options.max_connections_per_peer};
  server.max_receive_bytes = static_cast<int>(options.max_message_bytes);
  server.max_streams_per_connection = options.max_streams;
  server.keepalive_time = Milliseconds(options.keepalive_time);
  server.max_connection_age = Milliseconds(options.max_connection_age);
  server.max_connection_age_grace = Milliseconds(options.max_connection_age_grace);
  server.max_connection_idle = Milliseconds(options.max_connection_idle);
  return server;
}

// How often the launcher has restarted the world; nullopt if no launcher of ours started this
// process.
std::optional<int64_t> RestartsSoFar() {
  const char* text = std::getenv(rank::kRestartsVariable);
  int64_t restarts = 0;
  if (!rank::StartedByLauncher() || text == nullptr || !absl::SimpleAtoi(text, &restarts)) {
    return std::nullopt;
  }
  return restarts;
}

// An address that other hosts can reach should be encrypted.
void WarnIfUnencrypted(const ServeOptions& options) {
  const bool local =
      options.listen.rfind("127.", 0) == 0 || options.listen.rfind("[::1]", 0) == 0 ||
      options.listen.rfind("localhost:", 0) == 0 || options.listen.rfind("unix:", 0) == 0;
  if (local || !options.tls_cert.empty()) return;
  spdlog::warn("{} accepts unencrypted connections{}; see --tls-cert", options.listen,
               options.auth_token_file.empty() ? "" : ", which expose bearer tokens");
}

// Port 0 takes a free port, which nobody knows until it is printed. Other addresses are printed
// once the model is loaded.
void LogTakenPorts(const ServeOptions& options, const server::ServeFront& front) {
  if (front.address() != options.listen) spdlog::info("listening on {}", front.address());
  if (front.metrics_address() != options.metrics_listen) {
    spdlog::info("metrics at {}", front.metrics_address());
  }
}

// On rank 0, from a loaded world to a drained one.
rank::RankOutcome ServeUntilDrained(parallel::MpiWorld* world, rank::RankRuntime& runtime,
                                    const ServeOptions& options, server::ServeFront& front,
                                    const tokenizer::Tokenizer* tokenizer,
                                    const chat::ChatTemplate* chat_template) {
  engine::EngineConfig config = rank::EngineConfigOf(runtime);
  config.max_num_seqs = static_cast<int32_t>(options.model.max_num_seqs);
  config.max_queue = static_cast<int32_t>(options.max_queue);
  config.speculation = RankOptionsOf(options.model).speculation;
  config.load_guard = LoadGuardOptionsOf(options.load_guard);
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
  model.info = {.name = options.name.empty() ? loader::NameOf(options.model.model) : options.name,
                .architecture = runtime.config().architecture,
                .eos_token_ids = runtime.eos_token_ids(),
                .tp_degree = runtime.tp(),
                .weight_dtype = runtime.weight_format(),
                .version = TANDEM_VERSION};
  model.defaults = server::DefaultsOf(runtime.generation());
  model.ranks = [&runtime] { return runtime.DescribeRanks(); };
  model.engine_metrics = hooks.metrics;
  // A call that starts work on a GPU returns before the work is done: its time would say nothing.
  model.step_parts = runtime.timer() != nullptr && !runtime.on_gpu();
  front.SetModel(std::move(model));
  spdlog::info("serving {} at {} on {} ranks: {} KV tokens, contexts up to {}", options.model.model,
               front.address(), runtime.tp(), runtime.num_blocks() * model::kBlockSize,
               runtime.max_model_len());
  if (!options.metrics_listen.empty()) spdlog::info("metrics at {}", front.metrics_address());
  const absl::Status status = front.WaitUntilStopped();
  // Before Stop, since the step in progress may be waiting for the rank that died.
  const rank::RankOutcome outcome =
      status.ok() ? rank::Done() : rank::AbortAfterRankFailure(world, status);
  watch.reset();
  engine->Stop();
  return outcome;
}

// What rank 0 has before a model is loaded.
struct ServeParts {
  std::unique_ptr<server::ServeFront> front;
  std::unique_ptr<tokenizer::Tokenizer> tokenizer;  // null: the model has none
  absl::StatusOr<chat::ChatTemplate> chat_template = absl::NotFoundError("");
};

server::ServeFrontOptions FrontOptionsOf(const ServeOptions& options, int ranks) {
  server::ServeFrontOptions front;
  front.server = ServerOptionsOf(options);
  front.preparation_bytes = options.preparation_memory;
  front.metrics_listen = options.metrics_listen;
  front.info = {.version = TANDEM_VERSION,
                .build = std::string(absl::StripPrefix(rank::BuildId(), TANDEM_VERSION " ")),
                .restarts = RestartsSoFar()};
  front.auth_token_file = options.auth_token_file;
  // When a rank dies, mpirun ends the others with SIGTERM. From srun, SIGTERM is a request to stop.
  front.sigterm_is_loss = ranks > 1 && std::getenv("OMPI_COMM_WORLD_SIZE") != nullptr;
  front.dies_while_loading = rank::StartedByLauncher();
  front.drain_timeout = Milliseconds(options.drain_timeout);
  return front;
}

// On rank 0. Opens the port first: a second server on the same port fails before it loads a model.
absl::Status OpenFront(const ServeOptions& options, int ranks,
                       std::unique_ptr<server::DrainSignals> signals, ServeParts& parts) {
  TANDEM_ASSIGN_OR_RETURN(
      parts.front, server::ServeFront::Start(FrontOptionsOf(options, ranks), std::move(signals)));
  LogTakenPorts(options, *parts.front);
  WarnIfUnencrypted(options);
  TANDEM_ASSIGN_OR_RETURN(parts.tokenizer, LoadTokenizer(options.model.model));
  parts.chat_template = chat::LoadChatTemplate(options.model.model);
  if (!parts.chat_template.ok() && !absl::IsNotFound(parts.chat_template.status())) {
    // A damaged template stops chat messages only: text and ids can be served.
    spdlog::warn("no chat messages: {}", std::string(parts.chat_template.status().message()));
  }
  return absl::OkStatus();
}

// All ranks, from a loaded world to one whose steps have ended.
rank::RankOutcome RunSteps(parallel::MpiWorld* world, rank::RankRuntime& runtime,
                           const ServeOptions& options, ServeParts& parts) {
  if (parts.front == nullptr) {
    const absl::Status status = runtime.Work();
    return status.ok() ? rank::Done() : rank::AbortAfterRankFailure(world, status);
  }
  const rank::RankOutcome outcome =
      ServeUntilDrained(world, runtime, options, *parts.front, parts.tokenizer.get(),
                        parts.chat_template.ok() ? &*parts.chat_template : nullptr);
  parts.front.reset();
  if (!outcome.done()) return outcome;
  const absl::Status status = runtime.runner().Shutdown();
  return status.ok() ? rank::Done() : rank::AbortAfterRankFailure(world, status);
}

rank::RankOutcome Serve(rank::JoinedWorld& joined, const ServeOptions& options,
                        std::unique_ptr<server::DrainSignals> signals) {
  parallel::MpiWorld* const world = joined.world.get();
  parallel::ControlGroup& communicator = *joined.communicator;
  ServeParts parts;
  absl::Status opened;
  if (joined.rank() == 0) {
    opened = OpenFront(options, communicator.size(), std::move(signals), parts);
  } else {
    server::IgnoreDrainSignals();
  }
  if (const absl::Status agreed = AgreeOnStatus(communicator, opened); !agreed.ok()) {
    parts.front.reset();
    return rank::ReportAgreedError(world, agreed);
  }
  rank::RankOptions rank_options = RankOptionsOf(options.model);
  rank_options.preparation = options.preparation_memory;
  const std::chrono::milliseconds step_timeout = Milliseconds(options.step_timeout);
  rank_options.timeouts = {.step = step_timeout - HeartbeatInterval(options),
                           .silence = step_timeout};
  parallel::StepTimer timer;  // for the metrics, which rank 0 serves
  if (joined.rank() == 0 && !options.metrics_listen.empty() && options.model.device == "cpu") {
    rank_options.timer = &timer;
  }
  auto loaded = rank::LoadRank(joined, rank_options, options.model.trace_file);
  if (!loaded.ok()) {
    parts.front.reset();
    return rank::ReportAgreedError(world, loaded.status());
  }
  if (world != nullptr) world->SetPatience(step_timeout);  // from here on nothing takes longer
  const rank::RankOutcome outcome = RunSteps(world, *loaded->runtime, options, parts);
  if (!outcome.done()) return outcome;
  if (absl::Status status = loaded->WriteTrace(communicator); !status.ok()) {
    return rank::AbortWorld(world, status);
  }
  return rank::Done();
}

int RunServeRank(const ServeOptions& options) {
  // Blocked here, because threads of MPI and gRPC inherit the mask.
  auto signals = server::DrainSignals::Block();
  if (!signals.ok()) return rank::ReportError(signals.status());
  return rank::RunRank(
      {spdlog::level::info, options.model.start_timeout},
      [&](rank::JoinedWorld& joined) { return Serve(joined, options, *std::move(signals)); });
}

// Options of connections: encryption, tokens, limits.
void AddConnections(CLI::App* app, ServeOptions* options) {
  app->add_option("--tls-cert", options->tls_cert, "Certificate chain of this server, PEM file");
  app->add_option("--tls-key", options->tls_key, "Private key of the certificate, PEM file");
  app->add_option("--tls-client-ca", options->tls_client_ca,
                  "Require client certificates that this CA signed, PEM file");
  app->add_option("--auth-token-file", options->auth_token_file,
                  "File of bearer tokens that clients may use, one per line");
  app->add_option("--max-message-bytes", options->max_message_bytes,
                  "Maximum size of a request, such as 4MiB")
      ->check([](const std::string& text) { return RejectNegativeSize(text, "4MiB"); })
      ->transform(CLI::AsSizeValue(/*kb_is_1000=*/false))
      ->check(CLI::Range(uint64_t{1024}, uint64_t{kMaxCount}));
  app->add_option("--max-connections", options->max_connections,
                  "Maximum number of open connections; further ones are closed at once")
      ->check(CLI::Range(int64_t{1}, kMaxCount))
      ->capture_default_str();
  app->add_option("--max-connections-per-peer", options->max_connections_per_peer,
                  "The same for each IPv4 address and each IPv6 /64 network; does not count for "
                  "loopback and unix sockets")
      ->check(CLI::Range(int64_t{1}, kMaxCount))
      ->capture_default_str();
  app->add_option("--max-streams", options->max_streams,
                  "Maximum number of open calls per connection")
      ->check(CLI::Range(int64_t{1}, kMaxCount))
      ->capture_default_str();
  const auto add_seconds = [&](const char* name, double* value, const char* what) {
    app->add_option(name, *value, what)->check(CLI::Range(0.0, 1e6))->capture_default_str();
  };
  add_seconds("--max-connection-age", &options->max_connection_age,
              "Seconds after which the server asks a client to reconnect; 0: never");
  add_seconds("--max-connection-age-grace", &options->max_connection_age_grace,
              "Seconds that the streams of such a connection have to finish");
  add_seconds("--max-connection-idle", &options->max_connection_idle,
              "Seconds without a call after which the server closes a connection; 0: never");
  app->add_option("--keepalive-time", options->keepalive_time,
                  "Seconds of silence after which the server pings a client")
      ->check(CLI::Range(1.0, 1e6))
      ->capture_default_str();
}

}  // namespace

CLI::App* AddServe(CLI::App& parent, ServeOptions* options) {
  CLI::App* app = parent.add_subcommand("serve", "Serve the model over gRPC");
  AddModelOptions(app, &options->model);
  AddSpeculate(app, &options->model, "auto");
  AddTrace(app, &options->model);
  AddLoadGuard(app, &options->load_guard);
  AddLatencyWatch(app, &options->load_guard);
  app->add_option("--listen", options->listen,
                  "Address for gRPC: HOST:PORT, [IPv6]:PORT or unix:PATH; port 0 takes a free port "
                  "and logs it")
      ->capture_default_str();
  app->add_option(
      "--metrics-listen", options->metrics_listen,
      "Address for Prometheus metrics at /metrics: HOST:PORT or [IPv6]:PORT (default: none)");
  app->add_option("--max-queue", options->max_queue, "Maximum number of choices that wait")
      ->check(CLI::Range(int64_t{1}, kMaxSequences))
      ->capture_default_str();
  app->add_option("--preparation-memory", options->preparation_memory,
                  "Memory that requests may use together until they are tokens, such as 128MiB")
      ->check([](const std::string& text) { return RejectNegativeSize(text, "128MiB"); })
      ->transform(CLI::AsSizeValue(/*kb_is_1000=*/false))
      ->check(CLI::Range(uint64_t{16} << 20, uint64_t{1} << 40));
  app->add_option("--drain-timeout", options->drain_timeout,
                  "Seconds that open streams have to finish after a stop signal")
      ->check(CLI::Range(0.0, 86400.0))
      ->capture_default_str();
  app->add_option("--step-timeout", options->step_timeout,
                  "Seconds that the other ranks wait for a rank before it counts as stalled")
      ->check(CLI::Range(0.1, 86400.0))
      ->capture_default_str();
  app->add_option("--max-restarts", options->max_restarts,
                  "Maximum number of restarts in a row after the world failed; 0: none")
      ->check(CLI::Range(0, 1000000))
      ->capture_default_str();
  app->add_option("--name", options->name,
                  "Model name that clients see (default: the last part of MODEL)");
  AddConnections(app, options);
  return app;
}

absl::StatusOr<int> RunServe(const ServeOptions& options, char** argv) {
  WorldOptions world;
  world.drains = true;
  world.drain_timeout = Milliseconds(options.drain_timeout);
  world.max_restarts = options.max_restarts;
  return RunRankOrWorld({.tp = options.model.tp,
                         .hosts = options.model.hosts,
                         .alone_in_process = false,
                         .world = world},
                        argv, [&] { return RunServeRank(options); });
}

}  // namespace tandem::launcher
