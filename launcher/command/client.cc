#include "launcher/command/client.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "grpc/health/v1/health.grpc.pb.h"
#include "kernels/base/status_macros.h"
#include "kernels/base/utf8.h"
#include "launcher/command/output.h"
#include "launcher/command/sampling_options.h"
#include "nlohmann/json.hpp"
#include "runtime/server/sampling_proto.h"
#include "tandem/v1/inference.grpc.pb.h"

namespace tandem::launcher {
namespace {

using std::chrono::duration_cast;
using std::chrono::system_clock;

system_clock::time_point After(double seconds) {
  return system_clock::now() +
         duration_cast<system_clock::duration>(std::chrono::duration<double>(seconds));
}

absl::Status FromGrpc(const std::string& address, const grpc::Status& status) {
  if (status.ok()) return absl::OkStatus();
  const auto code = static_cast<absl::StatusCode>(status.error_code());
  return absl::Status(code, absl::StrCat(address, ": ", absl::StatusCodeToString(code), ": ",
                                         status.error_message()));
}

// Polls the health service: a server that starts has no port at first, then is NOT_SERVING.
absl::Status WaitReady(const std::shared_ptr<grpc::Channel>& channel,
                       const ClientOptions& options) {
  constexpr auto kPause = std::chrono::milliseconds(50);
  auto stub = grpc::health::v1::Health::NewStub(channel);
  const auto deadline = After(options.wait_ready);
  std::string last = "no connection";
  while (true) {
    grpc::ClientContext context;
    context.set_deadline(deadline);
    // Without this, a refused connection fails the call at once, and only gRPC's timer of 5 s
    // starts the next attempt.
    context.set_wait_for_ready(true);
    grpc::health::v1::HealthCheckResponse response;
    const grpc::Status status = stub->Check(&context, {}, &response);
    if (status.ok() && response.status() == grpc::health::v1::HealthCheckResponse::SERVING) {
      return absl::OkStatus();
    }
    // The deadline of the last poll says nothing about the server.
    if (status.ok()) {
      last = "it answers, but is not serving";
    } else if (status.error_code() != grpc::StatusCode::DEADLINE_EXCEEDED) {
      last = status.error_message();
    }
    if (system_clock::now() + kPause >= deadline) break;
    std::this_thread::sleep_for(kPause);
  }
  return absl::UnavailableError(absl::StrCat(options.address, ": UNAVAILABLE: not ready after ",
                                             options.wait_ready, " s: ", last));
}

v1::GenerateRequest MakeRequest(const ClientOptions& options) {
  v1::GenerateRequest request;
  if (options.prompt.text.has_value()) {
    std::string text = ReadPromptText(*options.prompt.text);
    if (options.chat) {
      v1::ChatMessage* message = request.mutable_messages()->add_messages();
      message->set_role("user");
      message->set_content(std::move(text));
    } else {
      request.set_text(std::move(text));
    }
  } else {
    request.mutable_token_ids()->mutable_ids()->Add(options.prompt.ids.begin(),
                                                    options.prompt.ids.end());
  }
  *request.mutable_sampling() = server::SamplingToProto(options.sampling);
  return request;
}

double Seconds(const google::protobuf::Duration& duration) {
  return static_cast<double>(duration.seconds()) + duration.nanos() * 1e-9;
}

using Json = nlohmann::ordered_json;

// One answer, assembled from its messages.
struct Choice {
  std::string text;
  std::vector<int32_t> token_ids;
  Json logprobs = Json::array();
  v1::GenerateResponse last;

  void Add(const v1::GenerateResponse& message) {
    text += message.text();
    token_ids.insert(token_ids.end(), message.token_ids().begin(), message.token_ids().end());
    const auto as_json = [](const v1::TokenLogprob& token) {
      return Json{
          {"token_id", token.token_id()}, {"token", token.token()}, {"logprob", token.logprob()}};
    };
    for (const v1::TokenLogprobs& at : message.logprobs()) {
      Json one = as_json(at.chosen());
      one["top"] = Json::array();
      for (const v1::TokenLogprob& other : at.top()) one["top"].push_back(as_json(other));
      logprobs.push_back(std::move(one));
    }
    last = message;
  }

  Json ToJson() const {
    Json answer = {
        {"token_ids", token_ids},
        {"text", text},
        {"finish_reason", last.finish_reason() == v1::FINISH_REASON_STOP ? "stop" : "length"}};
    if (last.has_stop_text()) answer["stop"] = last.stop_text();
    if (last.has_stop_token_id()) answer["stop"] = last.stop_token_id();
    if (!logprobs.empty()) answer["logprobs"] = logprobs;
    return answer;
  }
};

// One answer at the top level, or several under "choices".
std::string AnswerJson(const std::vector<Choice>& choices, const v1::GenerateResponse& last) {
  Json answer = choices[0].ToJson();
  if (choices.size() > 1) {
    answer = {{"choices", Json::array()}};
    for (const Choice& choice : choices) answer["choices"].push_back(choice.ToJson());
  }
  answer["usage"] = {{"prompt_tokens", last.usage().prompt_tokens()},
                     {"completion_tokens", last.usage().completion_tokens()},
                     {"cached_prompt_tokens", last.usage().cached_prompt_tokens()},
                     {"draft_tokens", last.usage().draft_tokens()},
                     {"accepted_draft_tokens", last.usage().accepted_draft_tokens()}};
  answer["timings"] = {{"queue_seconds", Seconds(last.timings().queue())},
                       {"prefill_seconds", Seconds(last.timings().prefill())},
                       {"decode_seconds", Seconds(last.timings().decode())}};
  return answer.dump(-1, ' ', false, Json::error_handler_t::replace);
}

}  // namespace

CLI::App* AddClient(CLI::App& parent, ClientOptions* options) {
  CLI::App* app = parent.add_subcommand("client", "Send one prompt to a server");
  app->add_option("--addr", options->address, "Address of the server: HOST:PORT or unix:PATH")
      ->capture_default_str();
  app->add_flag("--tls", options->channel.tls, "Use TLS with the system's root certificates");
  app->add_option("--tls-ca", options->channel.tls_ca,
                  "Use TLS; the CA certificate that signed the server's, PEM file");
  app->add_option("--tls-cert", options->channel.tls_cert, "Certificate of this client, PEM file");
  app->add_option("--tls-key", options->channel.tls_key,
                  "Private key of the certificate, PEM file");
  app->add_option("--tls-name", options->channel.tls_name,
                  "Host name in the server's certificate (default: the host of --addr)");
  app->add_option("--token-file", options->channel.token_file,
                  "File with the bearer token to send");
  AddPrompt(app, &options->prompt);
  AddSamplingOptions(app, &options->sampling);
  app->add_flag("--chat", options->chat, "Send PROMPT as a chat message of the user")
      ->excludes("--prompt-ids");
  CLI::Option* json = app->add_flag("--json", options->json, "Print one JSON object at the end");
  AddSamplingOption(app, "n", &options->sampling)->needs(json);
  AddSamplingOption(app, "logprobs", &options->sampling)->needs(json);
  app->add_option("--timeout", options->timeout, "Deadline of the call, in seconds")
      ->check(CLI::Range(0.0, 1e7));
  app->add_option("--wait-ready", options->wait_ready, "Seconds to wait until the server is ready")
      ->check(CLI::Range(0.0, 1e7));
  app->callback([options] { CheckPrompt("client", options->prompt); });
  return app;
}

absl::StatusOr<int> RunClient(const ClientOptions& options, char** /*argv*/) {
  TANDEM_ASSIGN_OR_RETURN(const std::shared_ptr<grpc::Channel> channel,
                          MakeChannel(options.address, options.channel));
  if (options.wait_ready > 0) TANDEM_RETURN_IF_ERROR(WaitReady(channel, options));
  auto stub = v1::InferenceService::NewStub(channel);
  const v1::GenerateRequest request = MakeRequest(options);
  if (const size_t bad = FindInvalidUtf8(request.text()); bad < request.text().size()) {
    // Protobuf would log an error of its own and send the text anyway.
    return absl::InvalidArgumentError(absl::StrCat("prompt: not UTF-8 from byte ", bad, " on"));
  }
  grpc::ClientContext context;
  TANDEM_RETURN_IF_ERROR(AddToken(options.channel, &context));
  if (options.timeout > 0) context.set_deadline(After(options.timeout));
  auto reader = stub->Generate(&context, request);
  v1::GenerateResponse response;
  std::vector<Choice> choices(1);
  absl::Status written;
  while (reader->Read(&response)) {
    const auto index = static_cast<size_t>(std::max(0, response.choice()));
    if (index >= choices.size()) choices.resize(std::min<size_t>(index, 4096) + 1);
    choices[std::min(index, choices.size() - 1)].Add(response);
    if (!options.json) {
      written = WriteStdout(response.text());
      if (!written.ok()) context.TryCancel();
    }
  }
  const grpc::Status status = reader->Finish();
  if (written.ok() && status.ok()) {
    written = WriteStdout(options.json ? AnswerJson(choices, response) + "\n" : "\n");
  } else if (!options.json && !choices[0].token_ids.empty()) {
    WriteStdout("\n").IgnoreError();  // so that the error starts on a new line
  }
  TANDEM_RETURN_IF_ERROR(written);
  TANDEM_RETURN_IF_ERROR(FromGrpc(options.address, status));
  return 0;
}

}  // namespace tandem::launcher
