// `tandem serve`: serves a model over gRPC until a stop signal.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "launcher/command/load_guard_options.h"
#include "launcher/command/model_options.h"
#include "runtime/server/preparation_pool.h"

namespace CLI {
class App;
}

namespace tandem::launcher {

struct ServeOptions {
  ModelOptions model;
  LoadGuardLimits load_guard;
  std::string listen = "127.0.0.1:50051";
  std::string metrics_listen;  // empty: none
  int64_t max_queue = 1024;
  uint64_t preparation_memory = server::kDefaultPreparationBytes;
  double drain_timeout = 30;                     // seconds
  double step_timeout = 30;                      // seconds that other ranks wait for a rank
  int max_restarts = 5;                          // of a failed world, consecutive
  std::string name;                              // in GetModel; empty: MODEL's last part
  std::string tls_cert, tls_key, tls_client_ca;  // PEM files; empty: none
  std::string auth_token_file;
  uint64_t max_message_bytes = 4 << 20;
  int max_connections = 4096;
  int max_connections_per_peer = 1024;   // of one address; loopback and unix sockets have no limit
  int max_streams = 4096;                // of one connection
  double max_connection_age = 0;         // seconds; 0: no limit
  double max_connection_age_grace = 60;  // seconds
  double max_connection_idle = 300;      // seconds; 0: no limit
  double keepalive_time = 60;            // seconds
};

// Adds the subcommand with its options.
CLI::App* AddServe(CLI::App& parent, ServeOptions* options);

absl::StatusOr<int> RunServe(const ServeOptions& options, char** argv);

}  // namespace tandem::launcher
