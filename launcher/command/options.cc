#include "launcher/command/options.h"

#include <CLI/CLI.hpp>
#include <limits>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "launcher/command/sampling_options.h"
#include "runtime/rank/exit_code.h"
#include "runtime/rank/host_list.h"

namespace tandem::launcher {
namespace {

constexpr int64_t kMaxCount = std::numeric_limits<int32_t>::max();
constexpr int64_t kMaxSequences = 1 << 20;

void AddModel(CLI::App* app, std::string* model) {
  app->add_option("MODEL", *model, "Model folder, or a name in the hub's local cache")->required();
}

void AddModelOptions(CLI::App* app, ModelOptions* options) {
  AddModel(app, &options->model);
  app->add_option(
         "--tp", options->tp,
         "TP degree: ranks the model is cut over (default: the given world's, or one for each "
         "socket)")
      ->check(CLI::Range(1, 4096));
  app->add_option("--hosts", options->hosts,
                  "Hosts to start ranks on, with room for so many: node1:2,node2:2 (default: this)")
      ->check([](const std::string& text) {
        return std::string(rank::ParseHosts(text).status().message());
      });
  app->add_option("--threads", options->threads, "Threads of a rank (default: its share of cores)")
      ->check(CLI::Range(1, 4096));
  app->add_option("--isa", options->isa, "Instruction set: auto, avx2, avx3, vnni, bf16, neon, ref")
      ->capture_default_str();
  app->add_option("--device", options->device, "What ranks compute on: cpu, cuda (a GPU a rank)")
      ->check(CLI::IsMember({"cpu", "cuda"}))
      ->capture_default_str();
  app->add_flag("--deterministic", options->deterministic,
                "On GPUs: the same bits at any TP degree and in any batch, slower (CPUs always "
                "give them)");
  app->add_option(
         "--dtype", options->dtype,
         "Weights, converted while loading: auto (as stored), fp32, fp16, bf16, int8, int4, and on "
         "GPUs fp8")
      ->capture_default_str();
  app->add_option(
         "--group-size", options->group_size,
         "Columns that share a scale with int8 and int4: 32, 64, 128 (default: 32), and with "
         "fp8 (default: 128)")
      ->check(CLI::Range(int64_t{1}, kMaxCount));
  app->add_option(
         "--head-dtype", options->head_dtype,
         "The same for the output head (auto: int8 with int8 and int4, as stored with fp8)")
      ->capture_default_str();
  app->add_option("--packed-cache", options->packed_cache,
                  "Folder that keeps the weights as the kernels read them, for the next start");
  app->add_option("--weights", options->weights,
                  "resident, or stream: layers stay in --packed-cache's file, those of GPUs in the "
                  "host's memory, and the next is read while one computes")
      ->check(CLI::IsMember({"resident", "stream"}))
      ->capture_default_str();
  app->callback([options] {
    if (options->weights == "stream" && options->device == "cpu" && options->packed_cache.empty()) {
      throw CLI::ValidationError("--weights stream",
                                 "found no --packed-cache FOLDER, expected one for the file that "
                                 "weights are read from");
    }
  });
  app->add_option("--kv-dtype", options->kv_dtype,
                  "Type of the KV cache: auto, fp32, fp16, bf16, int8")
      ->capture_default_str();
  app->add_option("--shards", options->shards,
                  "How ranks share the model: even, auto (by their free memory), or weights 3,3,2")
      ->capture_default_str();
  app->add_option("--max-model-len", options->max_model_len,
                  "Tokens of prompt and answer together (default: the model's, or what fits)")
      ->check(CLI::Range(int64_t{2}, kMaxCount));
  app->add_option("--kv-memory", options->kv_memory,
                  "Bytes of KV cache a rank, such as 2GiB (default: what is left)")
      // In front of the transform, which would take a negative size.
      ->check([](const std::string& text) {
        return !text.empty() && text[0] == '-' ? "expected a size such as 2GiB, found " + text
                                               : std::string();
      })
      ->transform(CLI::AsSizeValue(/*kb_is_1000=*/false));
  app->add_option("--max-num-seqs", options->max_num_seqs, "Sequences that run at once")
      ->check(CLI::Range(int64_t{1}, kMaxSequences))
      ->capture_default_str();
  app->add_option("--max-batched-tokens", options->max_batched_tokens, "Tokens of one step")
      ->check(CLI::Range(int64_t{1}, kMaxCount))
      ->capture_default_str();
  app->add_option("--start-timeout", options->start_timeout,
                  "Seconds that a rank may keep the others waiting while it starts and loads")
      ->check(CLI::Range(0.1, 86400.0))
      ->capture_default_str();
  app->add_option_function<std::string>(
         "--bind", [options](const std::string& bind) { options->bind = bind == "auto"; },
         "auto: each thread of a rank to a core of its own; none")
      ->check(CLI::IsMember({"auto", "none"}))
      ->default_str("auto");
  app->add_option("--collectives", options->collectives,
                  "How ranks exchange: auto, shm (shared memory in a host), mpi")
      ->check(CLI::IsMember({"auto", "shm", "mpi"}))
      ->capture_default_str();
  const CLI::IsMember ways({"auto", "nccl", "peer", "staged"});
  app->add_option("--gpu-collectives", options->gpu_collectives,
                  "How GPUs add up: auto (the fastest in a trial), nccl, peer (into each other's "
                  "memory, few tokens), staged (through the host)")
      ->check(ways)
      ->capture_default_str();
  // Its name in 0.1.0, for command lines that have it.
  app->add_option("--card-collectives", options->gpu_collectives)->check(ways)->group("");
}

void AddTrace(CLI::App* app, ModelOptions* options) {
  app->add_option("--trace", options->trace_file,
                  "File for what each rank did when, as Perfetto opens it");
}

void AddPair(CLI::App* app, const char* name, std::pair<double, double>* pair, double most,
             const std::string& what) {
  app->add_option_function<std::vector<double>>(
         name,
         [name, pair](const std::vector<double>& values) {
           if (values.size() != 2 || values[0] > values[1]) {
             throw CLI::ValidationError(
                 name, absl::StrCat("found '", absl::StrJoin(values, ","),
                                    "', expected two numbers, the lower one first"));
           }
           *pair = {values[0], values[1]};
         },
         what)
      ->delimiter(',')
      ->check(CLI::Range(0.0, most))
      ->default_str(absl::StrCat(pair->first, ",", pair->second));
}

void AddLoadGuard(CLI::App* app, WatchLimits* limits) {
  AddPair(app, "--watch-kv", &limits->kv, 1,
          "Parts of the KV cache: above the second the batch is reduced, below the first it grows");
  AddPair(app, "--watch-fragmentation", &limits->fragmentation, 1,
          "Fragmentation of the KV cache: above the second it is compacted, down to the first");
}

void AddPrompt(CLI::App* app, std::optional<std::string>* prompt, std::vector<int32_t>* ids) {
  CLI::Option* text = app->add_option("PROMPT", *prompt, "Text; - reads standard input");
  app->add_option("--prompt-ids", *ids, "Token ids instead of text: 1,2,3")
      ->delimiter(',')
      ->check([](const std::string& id) {
        return id.empty() ? "expected token ids such as 1,2,3, found nothing" : std::string();
      })
      ->excludes(text);
}

CLI::App* AddBatch(CLI::App& app, BatchOptions* options) {
  CLI::App* batch =
      app.add_subcommand("batch", "Answer a file of prompts; can be stopped and resumed");
  AddModelOptions(batch, &options->model);
  AddLoadGuard(batch, &options->watch);
  batch->add_option("--input", options->input, "Rows, JSONL, plain or gzip; - reads standard input")
      ->required();
  batch->add_option("--output", options->output, "File of results; OUTPUT.journal lies beside it")
      ->required()
      ->check([](const std::string& path) {
        return path.empty() || path == "-" ? "expected a file, found '" + path + "'"
                                           : std::string();
      });
  batch->add_option("--errors", options->errors,
                    "File of rows that failed (default: OUTPUT.errors)");
  batch->add_option("--on-error", options->on_error, "Rows that cannot be run: stop or skip")
      ->check(CLI::IsMember({"stop", "skip"}))
      ->capture_default_str();
  batch
      ->add_option("--replicas", options->replicas,
                   "Worlds of --tp ranks each, which share the rows "
                   "(default: 1, or as many as --hosts, mpirun or srun have room for)")
      ->check(CLI::Range(1, 1024));
  batch->add_flag("--ordered", options->ordered, "Results in the order of the input");
  batch
      ->add_option("--progress-interval", options->progress_interval,
                   "Seconds between lines of progress where stderr is no terminal")
      ->check(CLI::Range(0.1, 1e9))
      ->capture_default_str();
  batch
      ->add_option("--time-limit", options->time_limit,
                   "Seconds after which the job stops, to be resumed (default: Slurm's end)")
      ->check(CLI::Range(0.0, 1e9));
  AddSamplingOptions(batch, &options->sampling);
  return batch;
}

CLI::App* AddPlan(CLI::App& app, PlanOptions* options) {
  CLI::App* plan = app.add_subcommand(
      "plan", "What fits on which devices, and how fast: from config.json and headers alone");
  AddModel(plan, &options->model);
  plan->add_option("--devices", options->devices, "Memory of the devices: 2x24GiB,1x16GiB")
      ->required();
  plan->add_option("--device", options->device, "What they are: cpu (sockets), cuda (GPUs)")
      ->check(CLI::IsMember({"cpu", "cuda"}))
      ->capture_default_str();
  plan->add_option("--bandwidth", options->bandwidth,
                   "Memory bandwidth in GB/s: one value, or one for each group of devices")
      ->delimiter(',')
      ->check(CLI::Range(0.001, 1e6))
      ->capture_default_str();
  plan->add_option("--all-reduce-us", options->all_reduce_us,
                   "Microseconds of an all-reduce of one token")
      ->check(CLI::Range(0.0, 1e6))
      ->capture_default_str();
  plan->add_option("--weights", options->weights,
                   "resident, or stream: layers stay on disk, those of GPUs in the host's memory")
      ->check(CLI::IsMember({"resident", "stream"}))
      ->capture_default_str();
  plan->add_option("--stream-bandwidth", options->stream_bandwidth,
                   "GB/s at which a rank reads streamed weights (default: 2, a disk's; of GPUs 20)")
      ->check(CLI::Range(0.001, 1e6));
  plan->add_option("--context", options->context,
                   "Tokens of a stream (default: 8192, or the model's where it has fewer)")
      ->check(CLI::Range(int64_t{1}, kMaxCount));
  plan->add_option("--streams", options->streams, "Streams at once")
      ->check(CLI::Range(int64_t{1}, int64_t{1000000}))
      ->capture_default_str();
  plan->add_option("--kv-dtype", options->kv_dtype,
                   "Type of the KV cache: auto, fp32, fp16, bf16, int8")
      ->capture_default_str();
  plan->add_option("--format", options->format, "Only this one: fp32, bf16, int8, int4 or fp8");
  plan->add_option("--tp", options->tp, "Only this TP degree")->check(CLI::Range(1, 4096));
  plan->add_flag("--json", options->json, "Print a JSON list");
  plan->add_option("--plot", options->plot, "File for an SVG picture");
  return plan;
}

// "decode:16:128".
BenchCell ParseCell(const std::string& text) {
  const std::vector<std::string> parts = absl::StrSplit(text, ':');
  BenchCell cell;
  if (parts.size() == 3) cell.phase = parts[0];
  if ((cell.phase != "prefill" && cell.phase != "decode") ||
      !absl::SimpleAtoi(parts[1], &cell.batch) || !absl::SimpleAtoi(parts[2], &cell.context) ||
      cell.batch < 1 || cell.batch > 4096 || cell.context < 1 || cell.context > 1 << 24) {
    throw CLI::ValidationError("--cells", absl::StrCat("found '", text,
                                                       "', expected PHASE:BATCH:CONTEXT such as "
                                                       "prefill:1:512 or decode:16:128"));
  }
  return cell;
}

CLI::App* AddQuantize(CLI::App& app, QuantizeOptions* options) {
  CLI::App* quantize = app.add_subcommand("quantize", "Write a model in fewer bits");
  AddModel(quantize, &options->model);
  quantize->add_option("OUT", options->output, "Folder to make")->required();
  quantize->add_option("--dtype", options->dtype, "int8 or int4")->capture_default_str();
  quantize->add_option("--group-size", options->group_size, "Columns that share a scale")
      ->check(CLI::Range(int64_t{8}, int64_t{1024}))
      ->capture_default_str();
  quantize->add_flag("--zero-points,!--symmetric", options->zero_points,
                     "A zero point for each group, or none (the default)");
  quantize
      ->add_option("--head-dtype", options->head_dtype,
                   "Of head and embedding: int8, int4, or stored (as they are)")
      ->capture_default_str();
  quantize->add_option("--method", options->method,
                       "rtn (plain rounding), search (of scales), gptq (error compensation); "
                       "default: gptq with --calibration, else search");
  quantize->add_option("--calibration", options->calibration,
                       "Text file such as the model will meet");
  quantize
      ->add_option("--calibration-tokens", options->calibration_tokens,
                   "Tokens of it to use at most")
      ->check(CLI::Range(int64_t{1}, kMaxCount))
      ->capture_default_str();
  quantize->add_option("--threads", options->threads, "Threads (default: all cores)")
      ->check(CLI::Range(1, 4096));
  return quantize;
}

CLI::App* AddEval(CLI::App& app, EvalOptions* options) {
  CLI::App* eval = app.add_subcommand("eval", "How well a model predicts a text");
  AddModelOptions(eval, &options->model);
  eval->add_option("--text", options->text, "Text file")->required();
  CLI::Option* reference =
      eval->add_option("--reference", options->reference,
                       "Model to compare with, as it is stored: folder or hub name");
  eval->add_option("--reference-logits", options->reference_logits,
                   "Or its logits, as --logits wrote them")
      ->excludes(reference);
  eval->add_option("--logits", options->logits, "File for the logits, raw float32");
  eval->add_option("--context", options->context,
                   "Tokens of a window (default: the model's, at most 2048)")
      ->check(CLI::Range(int64_t{1}, kMaxCount));
  eval->add_option("--stride", options->stride,
                   "Tokens from one window to the next (default: --context)")
      ->check(CLI::Range(int64_t{1}, kMaxCount));
  eval->add_flag("--json", options->json, "Print one JSON object");
  return eval;
}

CLI::App* AddDoctor(CLI::App& app, DoctorOptions* options) {
  CLI::App* doctor =
      app.add_subcommand("doctor", "Try and measure the ways in which ranks exchange");
  doctor->add_option("--tp", options->model.tp, "Ranks")->check(CLI::Range(1, 4096));
  doctor->add_option("--device", options->device, "Where the sums are: cpu, cuda")
      ->check(CLI::IsMember({"cpu", "cuda"}))
      ->capture_default_str();
  doctor->add_flag("--json", options->json, "Print one JSON object");
  return doctor;
}

CommandLine Mistake(absl::string_view what) {
  std::string line(what);
  for (char& c : line) c = c == '\n' ? ' ' : c;
  return {std::nullopt, absl::StrCat("tandem: ", line, " (see tandem --help)\n"), rank::kExitUsage};
}

}  // namespace

CommandLine ParseCommandLine(int argc, const char* const* argv) {
  CLI::App app("Serves a language model that is cut over several ranks.", "tandem");
  app.set_version_flag("--version", std::string("tandem " TANDEM_VERSION));
  app.require_subcommand(1);

  ServeOptions serve;
  CLI::App* serve_app = app.add_subcommand("serve", "Answer gRPC requests");
  AddModelOptions(serve_app, &serve.model);
  AddTrace(serve_app, &serve.model);
  AddLoadGuard(serve_app, &serve.watch);
  AddPair(serve_app, "--watch-latency", &serve.watch.latency, 1e9,
          "Seconds of time to first token or between tokens, 95th percentile: warning, alarm");
  serve_app
      ->add_option("--listen", serve.listen,
                   "HOST:PORT, [IPv6]:PORT or unix:PATH; port 0 takes a free port and logs it")
      ->capture_default_str();
  serve_app->add_option("--metrics-listen", serve.metrics_listen,
                        "HOST:PORT or [IPv6]:PORT for Prometheus, at /metrics (default: none)");
  serve_app->add_option("--max-queue", serve.max_queue, "Choices that may wait")
      ->check(CLI::Range(int64_t{1}, kMaxSequences))
      ->capture_default_str();
  serve_app
      ->add_option("--drain-timeout", serve.drain_timeout,
                   "Seconds that open streams have to end after a signal")
      ->check(CLI::Range(0.0, 86400.0))
      ->capture_default_str();
  serve_app
      ->add_option("--step-timeout", serve.step_timeout,
                   "Seconds that a rank may keep the others waiting before it counts as stalled")
      ->check(CLI::Range(0.1, 86400.0))
      ->capture_default_str();
  serve_app
      ->add_option("--max-restarts", serve.max_restarts,
                   "Starts of a new world, in a row, after one that failed; 0: none")
      ->check(CLI::Range(0, 1000000))
      ->capture_default_str();
  serve_app->add_option("--name", serve.name, "Name of the model for clients");
  serve_app->add_option("--tls-cert", serve.tls_cert, "Certificate chain to show, PEM");
  serve_app->add_option("--tls-key", serve.tls_key, "Its private key, PEM");
  serve_app->add_option("--tls-client-ca", serve.tls_client_ca,
                        "Ask clients for certificates signed by this one, PEM");
  serve_app->add_option("--auth-token-file", serve.auth_token_file,
                        "Bearer tokens of those who may call, one a line");
  serve_app
      ->add_option("--max-message-bytes", serve.max_message_bytes, "Longest request, such as 4MiB")
      ->check([](const std::string& text) {
        return !text.empty() && text[0] == '-' ? "expected a size such as 4MiB, found " + text
                                               : std::string();
      })
      ->transform(CLI::AsSizeValue(/*kb_is_1000=*/false))
      ->check(CLI::Range(uint64_t{1024}, uint64_t{kMaxCount}));
  serve_app->add_option("--max-streams", serve.max_streams, "Open calls of one connection")
      ->check(CLI::Range(int64_t{1}, kMaxCount))
      ->capture_default_str();
  const auto add_seconds = [&](const char* name, double* value, const char* what) {
    serve_app->add_option(name, *value, what)->check(CLI::Range(0.0, 1e6))->capture_default_str();
  };
  add_seconds("--max-connection-age", &serve.max_connection_age,
              "Seconds after which a connection is asked to go; 0: never");
  add_seconds("--max-connection-age-grace", &serve.max_connection_age_grace,
              "Seconds that its streams then have");
  add_seconds("--max-connection-idle", &serve.max_connection_idle,
              "Seconds without a call after which a connection is closed; 0: never");
  serve_app
      ->add_option("--keepalive-time", serve.keepalive_time,
                   "Seconds of silence after which a client is asked for a sign of life")
      ->check(CLI::Range(1.0, 1e6))
      ->capture_default_str();

  GenerateOptions generate;
  CLI::App* generate_app = app.add_subcommand("generate", "Answer one prompt and end");
  AddModelOptions(generate_app, &generate.model);
  AddTrace(generate_app, &generate.model);
  AddPrompt(generate_app, &generate.prompt, &generate.prompt_ids);
  AddSamplingOptions(generate_app, &generate.sampling);
  generate_app->add_flag("--json", generate.json, "Print one JSON object");
  generate_app->add_option("--logits", generate.logits_file,
                           "File for the logits of each sampled position, raw float32");

  ClientOptions client;
  CLI::App* client_app = app.add_subcommand("client", "Send one prompt to a server");
  client_app->add_option("--addr", client.address, "HOST:PORT or unix:PATH")->capture_default_str();
  client_app->add_flag("--tls", client.channel.tls, "Encrypt, by the system's certificates");
  client_app->add_option("--tls-ca", client.channel.tls_ca,
                         "Encrypt; the certificate that signs the server's, PEM");
  client_app->add_option("--tls-cert", client.channel.tls_cert, "Certificate of this client, PEM");
  client_app->add_option("--tls-key", client.channel.tls_key, "Its private key, PEM");
  client_app->add_option("--tls-name", client.channel.tls_name,
                         "Name in the server's certificate, if not the host's");
  client_app->add_option("--token-file", client.channel.token_file,
                         "File with the bearer token to send");
  AddPrompt(client_app, &client.prompt, &client.prompt_ids);
  AddSamplingOptions(client_app, &client.sampling);
  client_app->add_flag("--chat", client.chat, "Send PROMPT as a message of the user")
      ->excludes("--prompt-ids");
  CLI::Option* json =
      client_app->add_flag("--json", client.json, "Print one JSON object at the end");
  AddSamplingOption(client_app, "n", &client.sampling)->needs(json);
  AddSamplingOption(client_app, "logprobs", &client.sampling)->needs(json);
  client_app->add_option("--timeout", client.timeout, "Deadline of the call in seconds")
      ->check(CLI::Range(0.0, 1e7));
  client_app
      ->add_option("--wait-ready", client.wait_ready, "Seconds to wait until the server is ready")
      ->check(CLI::Range(0.0, 1e7));

  BenchOptions bench;
  CLI::App* bench_app =
      app.add_subcommand("bench", "Measure speed against the machine's own ceilings");
  AddModelOptions(bench_app, &bench.model);
  AddTrace(bench_app, &bench.model);
  bench_app->add_option("--phase", bench.phase, "prefill, decode or all")
      ->check(CLI::IsMember({"prefill", "decode", "all"}))
      ->capture_default_str();
  bench_app->add_option("--batch", bench.batch, "Sequences at once: 1,16")
      ->delimiter(',')
      ->check(CLI::Range(1, 4096))
      ->capture_default_str();
  bench_app
      ->add_option("--context", bench.context, "Tokens to prefill, or to decode after: 512,2048")
      ->delimiter(',')
      ->check(CLI::Range(1, 1 << 24))
      ->capture_default_str();
  bench_app
      ->add_option_function<std::vector<std::string>>(
          "--cells",
          [&bench](const std::vector<std::string>& cells) {
            for (const std::string& cell : cells) bench.cells.push_back(ParseCell(cell));
          },
          "Measurements one by one in place of the grid: prefill:1:512,decode:16:128")
      ->delimiter(',');
  bench_app
      ->add_option("--decode-tokens", bench.decode_tokens,
                   "Tokens that each sequence generates in a timed run")
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
  bench_app->add_option("--repeats", bench.repeats, "Timed runs of each cell; medians count")
      ->check(CLI::Range(1, 10000))
      ->capture_default_str();
  bench_app->add_option("--warmup", bench.warmup, "Rounds before them")
      ->check(CLI::Range(0, 10000))
      ->capture_default_str();
  bench_app->add_flag("--json", bench.json, "Print one JSON object instead of a table");
  bench_app->add_option("--plot", bench.plot_file, "File for a chart, SVG");
  bench_app->add_flag("--paced", bench.paced,
                      "Wait for a line on standard input before each round, to interleave "
                      "with another program");

  TokenizeOptions tokenize;
  CLI::App* tokenize_app = app.add_subcommand("tokenize", "Token ids of standard input");
  AddModel(tokenize_app, &tokenize.model);
  tokenize_app->add_flag("--json", tokenize.json, "Print {\"ids\":[...]}");
  tokenize_app->add_flag("--add-special", tokenize.add_special,
                         "Add the special tokens that the model's prompts have");

  DetokenizeOptions detokenize;
  CLI::App* detokenize_app = app.add_subcommand(
      "detokenize", "Text of the ids on standard input: {\"ids\":[...]} or plain numbers");
  AddModel(detokenize_app, &detokenize.model);
  detokenize_app->add_flag("--json", detokenize.json, "Print {\"text\":...}");
  detokenize_app->add_flag("--skip-special", detokenize.skip_special, "Leave special tokens out");

  BatchOptions batch;
  CLI::App* batch_app = AddBatch(app, &batch);
  PlanOptions plan;
  CLI::App* plan_app = AddPlan(app, &plan);

  RenderOptions render;
  CLI::App* render_app =
      app.add_subcommand("render", "The prompt that a chat template makes of messages");
  render_app
      ->add_option("MODEL", render.model,
                   "Model folder, name in the hub's local cache, or a .jinja file")
      ->required();
  render_app
      ->add_option("--messages", render.messages,
                   "JSON: {\"messages\":[...],\"tools\":[...],...}; - reads standard input")
      ->required();

  QuantizeOptions quantize;
  CLI::App* quantize_app = AddQuantize(app, &quantize);
  EvalOptions eval;
  CLI::App* eval_app = AddEval(app, &eval);
  DoctorOptions doctor;
  CLI::App* doctor_app = AddDoctor(app, &doctor);

  try {
    app.parse(argc, argv);
  } catch (const CLI::CallForHelp&) {
    for (const CLI::App* sub : app.get_subcommands()) return {std::nullopt, sub->help(), 0};
    return {std::nullopt, app.help(), 0};
  } catch (const CLI::CallForVersion& version) {
    return {std::nullopt, absl::StrCat(version.what(), "\n"), 0};
  } catch (const CLI::ParseError& error) {
    return Mistake(error.what());
  }

  const auto needs_prompt = [](const auto& options) {
    return !options.prompt.has_value() && options.prompt_ids.empty();
  };
  if (*serve_app) return {Command(serve), "", 0};
  if (*generate_app) {
    if (needs_prompt(generate)) return Mistake("generate: PROMPT or --prompt-ids is required");
    return {Command(generate), "", 0};
  }
  if (*bench_app) return {Command(bench), "", 0};
  if (*client_app) {
    if (needs_prompt(client)) return Mistake("client: PROMPT or --prompt-ids is required");
    return {Command(client), "", 0};
  }
  if (*batch_app) return {Command(batch), "", 0};
  if (*plan_app) return {Command(plan), "", 0};
  if (*render_app) return {Command(render), "", 0};
  if (*quantize_app) return {Command(quantize), "", 0};
  if (*eval_app) return {Command(eval), "", 0};
  if (*doctor_app) return {Command(doctor), "", 0};
  if (*tokenize_app) return {Command(tokenize), "", 0};
  return {Command(detokenize), "", 0};
}

}  // namespace tandem::launcher
