// The command line as plain structs. Values are checked for form and range here; whether a model
// or a world fits them is found out later.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "runtime/engine/sampling_request.h"

namespace tandem::launcher {

// Of every command that runs a model.
struct ModelOptions {
  std::string model;  // folder or name in the hub's cache
  int tp = 0;         // ranks; 0: the given world's size, or one for each socket
  std::string hosts;  // to start ranks on (host_list.h); empty: this one
  int threads = 0;    // a rank's; 0: its share of the cores
  std::string isa = "auto";
  std::string device = "cpu";  // or cuda
  bool deterministic = false;
  std::string dtype = "auto";  // of weights
  int64_t group_size = 0;      // 0: the format's default
  std::string head_dtype = "auto";
  std::string packed_cache;
  std::string weights = "resident";  // or stream
  std::string kv_dtype = "auto";
  std::string shards = "even";  // even, auto (by free memory), or a weight for each rank
  int64_t max_model_len = 0;    // tokens; 0: the model's own, or what fits
  uint64_t kv_memory = 0;       // bytes a rank; 0: what is left
  int64_t max_num_seqs = 64;
  int64_t max_batched_tokens = 512;
  // Seconds that a rank may keep the others waiting while it starts and loads.
  double start_timeout = 1800;
  std::string trace_file;                // of serve, generate and bench; empty: none
  std::string collectives = "auto";      // auto, shm, mpi
  std::string gpu_collectives = "auto";  // auto, nccl, peer, staged
  bool bind = true;                      // threads to cores
};

// Thresholds of the load guard (runtime/engine/load_guard.h): normal up to the first, an
// action above the second.
struct WatchLimits {
  std::pair<double, double> kv = {0.80, 0.95};             // parts of 1
  std::pair<double, double> fragmentation = {0.15, 0.30};  // parts of 1
  std::pair<double, double> latency = {0.5, 1.0};          // seconds
};

struct ServeOptions {
  ModelOptions model;
  WatchLimits watch;
  std::string listen = "127.0.0.1:50051";
  std::string metrics_listen;  // empty: none
  int64_t max_queue = 1024;
  double drain_timeout = 30;                     // seconds
  double step_timeout = 30;                      // seconds that a rank may keep the others waiting
  int max_restarts = 5;                          // of a failed world, in a row
  std::string name;                              // in GetModel; empty: MODEL's last part
  std::string tls_cert, tls_key, tls_client_ca;  // PEM files; empty: none
  std::string auth_token_file;
  uint64_t max_message_bytes = 4 << 20;
  int max_streams = 4096;                // of one connection
  double max_connection_age = 0;         // seconds; 0: no limit
  double max_connection_age_grace = 60;  // seconds
  double max_connection_idle = 0;        // seconds; 0: no limit
  double keepalive_time = 60;            // seconds
};

// How a client reaches the server.
struct ChannelOptions {
  bool tls = false;               // by the system's roots
  std::string tls_ca;             // PEM; in place of the system's
  std::string tls_cert, tls_key;  // of this client
  std::string tls_name;           // that the server's certificate is to show, if not the host's
  std::string token_file;         // its first line goes along as the bearer token
};

struct GenerateOptions {
  ModelOptions model;
  std::optional<std::string> prompt;  // "-": standard input; exactly one of prompt and ids
  std::vector<int32_t> prompt_ids;
  engine::SamplingRequest sampling;
  bool json = false;
  std::string logits_file;
};

struct ClientOptions {
  std::string address = "127.0.0.1:50051";
  std::optional<std::string> prompt;  // as above
  std::vector<int32_t> prompt_ids;
  bool chat = false;  // the prompt is one message of the user, not raw text
  engine::SamplingRequest sampling;
  ChannelOptions channel;
  bool json = false;
  double timeout = 0;     // seconds, of the call; 0: none
  double wait_ready = 0;  // seconds to wait for SERVING; 0: do not ask
};

// PHASE:BATCH:CONTEXT of one measurement.
struct BenchCell {
  std::string phase;
  int64_t batch = 1;
  int64_t context = 512;
};

struct BenchOptions {
  ModelOptions model;
  std::string phase = "all";  // prefill, decode, all
  std::vector<int64_t> batch = {1, 16};
  std::vector<int64_t> context = {512};  // tokens
  std::vector<BenchCell> cells;          // in place of the grid; empty: the grid
  int64_t decode_tokens = 32;            // of each sequence in a timed run
  int64_t repeats = 5;
  int64_t warmup = 1;  // rounds that do not count
  bool json = false;
  std::string plot_file;  // empty: none
  bool paced = false;     // a round begins with a line on standard input
};

struct TokenizeOptions {
  std::string model;
  bool json = false;
  bool add_special = false;
};

struct DetokenizeOptions {
  std::string model;
  bool json = false;
  bool skip_special = false;
};

struct BatchOptions {
  ModelOptions model;
  WatchLimits watch;
  std::string input;              // JSONL, plain or gzip; "-": standard input
  std::string output;             // the journal lies beside it
  std::string errors;             // empty: OUTPUT.errors
  std::string on_error = "stop";  // or skip
  int replicas = 0;               // worlds of --tp ranks each; 0: 1, or as many as hosts have room
  double progress_interval = 30;  // seconds between lines where there is no terminal
  bool ordered = false;           // results in the order of the input
  double time_limit = 0;          // seconds; 0: none, or Slurm's
  engine::SamplingRequest sampling;  // of rows that do not say
};

struct PlanOptions {
  std::string model;
  std::string device = "cpu";              // or cuda: what the devices are
  std::string devices;                     // device_list.h
  std::vector<double> bandwidth = {600};   // GB/s, one or one for each group of devices
  double all_reduce_us = 20;               // of one token's activations
  std::string weights = "resident";        // or stream
  std::optional<double> stream_bandwidth;  // GB/s of a rank; none: a disk's, or a GPU's link's
  int64_t context = 0;                     // tokens of a stream; 0: 8192, or the model's if shorter
  int64_t streams = 1;
  std::string kv_dtype = "auto";
  std::string format;  // only this one; empty: all
  int tp = 0;          // only this one; 0: all
  bool json = false;
  std::string plot;  // SVG file; empty: none
};

struct RenderOptions {
  std::string model;     // as elsewhere, or the path of a .jinja file
  std::string messages;  // a JSON file; "-": standard input
};

struct QuantizeOptions {
  std::string model, output;
  std::string dtype = "int4";
  int64_t group_size = 32;
  bool zero_points = false;
  std::string head_dtype = "int8";
  std::string method;       // empty: gptq with calibration, else search
  std::string calibration;  // a text file; empty: none
  int64_t calibration_tokens = 32768;
  int threads = 0;  // 0: all that this process may use
};

struct EvalOptions {
  ModelOptions model;
  std::string text;
  std::string reference;         // another model
  std::string reference_logits;  // or its logits, as `logits` writes them
  std::string logits;            // file for raw fp32 [predicted tokens, vocab]; empty: none
  int64_t context = 0;           // tokens; 0: the model's, at most 2048
  int64_t stride = 0;            // 0: the context
  bool json = false;
};

struct DoctorOptions {
  ModelOptions model;  // tp alone
  std::string device = "cpu";
  bool json = false;
};

using Command = std::variant<ServeOptions, GenerateOptions, BenchOptions, ClientOptions,
                             TokenizeOptions, DetokenizeOptions, RenderOptions, PlanOptions,
                             BatchOptions, QuantizeOptions, EvalOptions, DoctorOptions>;

// Either a command, or what to print and how to end: help and version (0), or a mistake (64).
struct CommandLine {
  std::optional<Command> command;
  std::string output;  // with its line end; to stderr when exit_code is not 0
  int exit_code = 0;
};

CommandLine ParseCommandLine(int argc, const char* const* argv);

}  // namespace tandem::launcher
