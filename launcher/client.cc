#include "launcher/client.h"

#include <chrono>
#include <cstdio>
#include <iostream>
#include <iterator>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "grpc/health/v1/health.grpc.pb.h"
#include "grpcpp/create_channel.h"
#include "grpcpp/security/credentials.h"
#include "launcher/exit_code.h"
#include "nlohmann/json.hpp"
#include "runtime/tokenizer/utf8.h"
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

// Asks again and again: a server that is still starting has no port, then is NOT_SERVING.
absl::Status WaitReady(const std::shared_ptr<grpc::Channel>& channel,
                       const ClientOptions& options) {
  constexpr auto kPause = std::chrono::milliseconds(50);
  auto stub = grpc::health::v1::Health::NewStub(channel);
  const auto deadline = After(options.wait_ready);
  std::string last = "no connection";
  while (true) {
    grpc::ClientContext context;
    context.set_deadline(deadline);
    // Otherwise a refused connection fails the call at once, and between calls
    // nothing but gRPC's 5 s timer would drive the next attempt.
    context.set_wait_for_ready(true);
    grpc::health::v1::HealthCheckResponse response;
    const grpc::Status status = stub->Check(&context, {}, &response);
    if (status.ok() && response.status() == grpc::health::v1::HealthCheckResponse::SERVING) {
      return absl::OkStatus();
    }
    // The deadline of the last question says nothing about the server.
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
  if (options.prompt.has_value()) {
    std::string text = *options.prompt;
    if (text == "-") text.assign(std::istreambuf_iterator<char>(std::cin), {});
    if (options.chat) {
      v1::ChatMessage* message = request.mutable_messages()->add_messages();
      message->set_role("user");
      message->set_content(std::move(text));
    } else {
      request.set_text(std::move(text));
    }
  } else {
    request.mutable_token_ids()->mutable_ids()->Add(options.prompt_ids.begin(),
                                                    options.prompt_ids.end());
  }
  v1::SamplingParams* sampling = request.mutable_sampling();
  const SamplingOptions& asked = options.sampling;
  if (asked.temperature) sampling->set_temperature(static_cast<float>(*asked.temperature));
  if (asked.top_k) sampling->set_top_k(*asked.top_k);
  if (asked.top_p) sampling->set_top_p(static_cast<float>(*asked.top_p));
  if (asked.seed) sampling->set_seed(*asked.seed);
  if (asked.max_tokens) sampling->set_max_tokens(*asked.max_tokens);
  return request;
}

double Seconds(const google::protobuf::Duration& duration) {
  return static_cast<double>(duration.seconds()) + duration.nanos() * 1e-9;
}

std::string AnswerJson(const std::string& text, const std::vector<int32_t>& ids,
                       const v1::GenerateResponse& last) {
  const nlohmann::ordered_json answer = {
      {"token_ids", ids},
      {"text", text},
      {"finish_reason", last.finish_reason() == v1::FINISH_REASON_STOP ? "stop" : "length"},
      {"usage",
       {{"prompt_tokens", last.usage().prompt_tokens()},
        {"completion_tokens", last.usage().completion_tokens()},
        {"cached_prompt_tokens", last.usage().cached_prompt_tokens()}}},
      {"timings",
       {{"queue_seconds", Seconds(last.timings().queue())},
        {"prefill_seconds", Seconds(last.timings().prefill())},
        {"decode_seconds", Seconds(last.timings().decode())}}}};
  return answer.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

}  // namespace

int RunClient(const ClientOptions& options) {
  grpc::ChannelArguments arguments;
  arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 100);  // it may just be starting
  const auto channel =
      grpc::CreateCustomChannel(options.address, grpc::InsecureChannelCredentials(), arguments);
  if (options.wait_ready > 0) {
    if (const absl::Status status = WaitReady(channel, options); !status.ok()) {
      return ReportError(status);
    }
  }
  auto stub = v1::InferenceService::NewStub(channel);
  const v1::GenerateRequest request = MakeRequest(options);
  if (const size_t bad = tokenizer::FindInvalidUtf8(request.text()); bad < request.text().size()) {
    // Protobuf would send it all the same, with a complaint of its own.
    return ReportError(
        absl::InvalidArgumentError(absl::StrCat("prompt: not UTF-8 from byte ", bad, " on")));
  }
  grpc::ClientContext context;
  if (options.timeout > 0) context.set_deadline(After(options.timeout));
  auto reader = stub->Generate(&context, request);
  v1::GenerateResponse response;
  std::string text;
  std::vector<int32_t> ids;
  bool wrote = true;
  while (reader->Read(&response)) {
    ids.insert(ids.end(), response.token_ids().begin(), response.token_ids().end());
    if (options.json) {
      text += response.text();
    } else {
      wrote = std::fwrite(response.text().data(), 1, response.text().size(), stdout) ==
                  response.text().size() &&
              std::fflush(stdout) == 0;
      if (!wrote) context.TryCancel();
    }
  }
  const grpc::Status status = reader->Finish();
  if (wrote && status.ok()) {
    const std::string end = options.json ? AnswerJson(text, ids, response) + "\n" : "\n";
    wrote = std::fputs(end.c_str(), stdout) >= 0 && std::fflush(stdout) == 0;
  } else if (!options.json && !ids.empty()) {
    std::fputs("\n", stdout);  // the error is to begin on a line of its own
    std::fflush(stdout);
  }
  if (!wrote) return ReportError(OutputError("stdout: cannot be written"));
  if (!status.ok()) return ReportError(FromGrpc(options.address, status));
  return 0;
}

}  // namespace tandem::launcher
