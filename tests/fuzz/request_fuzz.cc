// What a client may send: bytes through the server's parsing, validation and chat rendering. The
// first byte chooses the call.
#include <cstdint>
#include <span>
#include <string>

#include "grpcpp/support/byte_buffer.h"
#include "grpcpp/support/slice.h"
#include "runtime/server/byte_buffer.h"
#include "runtime/server/chat_prompt.h"
#include "runtime/server/sampling_proto.h"
#include "runtime/server/status_details.h"
#include "runtime/server/validation.h"
#include "tandem/v1/inference.pb.h"

namespace {

using namespace tandem;  // NOLINT: a test

constexpr char kTemplate[] =
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content if m.content is string else m.content | "
    "tojson }}{% if m.tool_calls %}{{ m.tool_calls | tojson }}{% endif %}{% endfor %}{{ tools }}";

void Generate(const grpc::ByteBuffer& bytes, const chat::ChatTemplate& chat_template) {
  v1::GenerateRequest message;
  absl::Status status = server::ParseMessage(bytes, &message);
  const engine::EngineLimits limits = {.vocab_size = 1000, .max_model_len = 512, .max_queue = 64};
  if (status.ok() && message.has_messages()) {
    status = server::RenderChat(message.messages(), chat_template).status();
  }
  if (status.ok() && message.has_token_ids()) {
    status = server::CheckPrompt(
        std::span<const int32_t>(message.token_ids().ids().data(), message.token_ids().ids_size()),
        limits);
  }
  if (status.ok()) {
    const auto sampling = server::MakeSampling(server::SamplingFromProto(message.sampling()), {},
                                               limits, /*prompt_tokens=*/10, /*fresh_seed=*/1);
    // What the front lets through the engine must not refuse.
    if (sampling.ok() && !engine::ValidateSamplingParams(*sampling, limits.vocab_size).ok()) {
      std::abort();
    }
    status = sampling.status();
  }
  (void)server::ToGrpcStatus(status);
}

template <typename Message>
void Parse(const grpc::ByteBuffer& bytes) {
  Message message;
  if (server::ParseMessage(bytes, &message).ok()) {
    grpc::ByteBuffer out;
    server::SerializeMessage(message, &out);
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const auto chat_template =
      chat::ChatTemplate::FromTokenizerConfig("{}", std::string_view(kTemplate));
  if (size == 0) return 0;
  const grpc::Slice slice(data + 1, size - 1);
  const grpc::ByteBuffer bytes(&slice, 1);
  switch (data[0] % 4) {
    case 0:
      Generate(bytes, *chat_template);
      break;
    case 1:
      Parse<v1::TokenizeRequest>(bytes);
      break;
    case 2:
      Parse<v1::DetokenizeRequest>(bytes);
      break;
    default:
      Parse<v1::GetModelRequest>(bytes);
      break;
  }
  return 0;
}
