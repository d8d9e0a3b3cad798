#include "runtime/server/prepare_request.h"

#include <algorithm>
#include <cstdint>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/base/status_macros.h"
#include "kernels/base/utf8.h"
#include "runtime/engine/field_error.h"
#include "runtime/server/byte_buffer.h"
#include "runtime/server/chat_prompt.h"
#include "runtime/server/choice_answer.h"
#include "runtime/server/sampling_proto.h"
#include "runtime/server/validation.h"
#include "runtime/server/wire_counts.h"
#include "runtime/text/chat/chat_inputs.h"
#include "tandem/v1/inference.pb.h"

namespace tandem::server {
namespace {

constexpr char kNoTokenizer[] =
    "the model has no tokenizer.json: it takes and gives token ids only";
constexpr char kNoChatTemplate[] =
    "the model has no chat template that can be used: send text or token_ids";

// Ids are refused whose text is longer: clients take answers of 4 MiB if they do not say otherwise.
constexpr size_t kMaxDetokenizedBytes = size_t{4} << 20;
constexpr size_t kMaxRenderedBytes = size_t{16} << 20;
// What a template may use, and write, beside copies of the messages.
constexpr size_t kTemplateBytes = size_t{4} << 20;
// A packed id takes up to 10 bytes.
constexpr int64_t kMaxIdBytes = 10;

// Upper bounds of what a byte of a request, a message or value of one, and a value of JSON text
// take while the prompt is made, as measured: the bytes themselves, the parsed message, JSON, and
// the template's values.
constexpr uint64_t kMessageBytesPerNode = 1280;
constexpr uint64_t kTemplateBytesPerNode = 2560;
constexpr uint64_t kBytesPerJsonValue = 256;

// The memory that preparing a request takes at most, and the parts of it that a template may use.
struct Estimate {
  uint64_t total = 0;
  uint64_t of_template = 0;
  uint64_t rendered = 0;
};

Estimate EstimateOf(const grpc::ByteBuffer& bytes, const WireCounts& counts, size_t max_tokens,
                    size_t max_text) {
  const uint64_t size = bytes.Length();
  Estimate estimate;
  if (counts.messages == 0) {
    // The bytes, the message, a normalized copy; ids in an array that doubles.
    estimate.total = 4 * size + 8 * std::min<uint64_t>(size, max_tokens);
    return estimate;
  }
  const uint64_t values = std::min<uint64_t>(counts.json_bytes / 2, chat::kMaxJsonValues);
  estimate.of_template = kTemplateBytes + 3 * size + kTemplateBytesPerNode * counts.nodes() +
                         kBytesPerJsonValue * values;
  estimate.rendered = std::min<uint64_t>({max_text, kMaxRenderedBytes, kTemplateBytes + 2 * size});
  // Text and ids are in arrays that double.
  estimate.total = estimate.of_template + 3 * size + kMessageBytesPerNode * counts.nodes() +
                   kBytesPerJsonValue * values + 2 * estimate.rendered +
                   8 * std::min<uint64_t>(estimate.rendered, max_tokens);
  return estimate;
}

}  // namespace

absl::Status CheckPromptBytes(const grpc::ByteBuffer& bytes, const ServedModel& model) {
  const PromptBytes prompt = PeekPrompt(bytes);
  const engine::EngineLimits limits = model.engine->Limits();
  const auto ids = static_cast<int64_t>(prompt.token_ids) / kMaxIdBytes;
  if (ids >= limits.max_model_len) {
    return PromptTooLong(absl::StrCat("at least ", ids, " tokens (estimated from ",
                                      prompt.token_ids, " bytes of ids)"),
                         limits);
  }
  if (model.tokenizer == nullptr || prompt.text == 0) return absl::OkStatus();
  const int64_t tokens = model.tokenizer->LeastTokens(prompt.text);
  if (tokens < limits.max_model_len) return absl::OkStatus();
  return PromptTooLong(
      absl::StrCat("at least ", tokens, " tokens (estimated from ", prompt.text, " bytes, ",
                   model.tokenizer->longest_token(), " a token at most)"),
      limits);
}

absl::StatusOr<PreparedRequest> PrepareGenerate(const grpc::ByteBuffer& bytes,
                                                const ServedModel& model,
                                                PreparationPool::Memory& memory,
                                                const std::function<bool()>& stopped) {
  const engine::EngineLimits limits = model.engine->Limits();
  const WireCounts counts = CountFields(bytes, *v1::GenerateRequest::descriptor());
  TANDEM_RETURN_IF_ERROR(CheckCounts(counts));
  const size_t max_text = MaxTextBytes(model.tokenizer, limits);
  const Estimate estimate = EstimateOf(bytes, counts, MaxCountedTokens(limits), max_text);
  TANDEM_RETURN_IF_ERROR(memory.Take(estimate.total));
  if (stopped()) return absl::CancelledError("the call has ended");

  v1::GenerateRequest message;
  TANDEM_RETURN_IF_ERROR(ParseMessage(bytes, &message));
  PreparedRequest prepared;
  std::vector<int32_t>& ids = prepared.request.prompt_ids;
  switch (message.prompt_case()) {
    case v1::GenerateRequest::kText: {
      if (model.tokenizer == nullptr) return absl::FailedPreconditionError(kNoTokenizer);
      if (message.text().empty()) {
        return engine::FieldError("text", "empty, allowed: at least 1 character");
      }
      TANDEM_ASSIGN_OR_RETURN(
          ids, EncodePrompt(*model.tokenizer, message.text(), /*add_special=*/true, limits));
      break;
    }
    case v1::GenerateRequest::kTokenIds:
      ids.assign(message.token_ids().ids().begin(), message.token_ids().ids().end());
      break;
    case v1::GenerateRequest::kMessages: {
      if (model.tokenizer == nullptr) return absl::FailedPreconditionError(kNoTokenizer);
      if (model.chat_template == nullptr) return absl::FailedPreconditionError(kNoChatTemplate);
      RenderBudget budget;
      budget.output_bytes = estimate.rendered;
      budget.memory_bytes = estimate.of_template;
      if (estimate.rendered == max_text) {
        budget.output_limit_reason = absl::StrCat(", more than ", limits.max_model_len,
                                                  " tokens, the context, can stand for");
      }
      TANDEM_ASSIGN_OR_RETURN(const std::string text,
                              RenderChat(message.messages(), *model.chat_template, budget));
      message.clear_messages();
      if (stopped()) return absl::CancelledError("the call has ended");
      // The template has written the special tokens itself.
      TANDEM_ASSIGN_OR_RETURN(ids,
                              EncodePrompt(*model.tokenizer, text, /*add_special=*/false, limits));
      break;
    }
    case v1::GenerateRequest::PROMPT_NOT_SET:
      return engine::FieldError("prompt", "not set, allowed: text, token_ids or messages");
  }
  TANDEM_RETURN_IF_ERROR(CheckPrompt(ids, limits));
  ids.shrink_to_fit();
  const engine::SamplingRequest sampling = SamplingFromProto(message.sampling());
  TANDEM_ASSIGN_OR_RETURN(prepared.request.sampling,
                          MakeSampling(sampling, model.defaults, limits,
                                       static_cast<int64_t>(ids.size()), FreshSeed()));
  if (!sampling.stop.empty() && model.tokenizer == nullptr) {
    return absl::FailedPreconditionError(absl::StrCat("sampling.stop: ", kNoTokenizer));
  }
  prepared.stops = StopTextsOf(sampling);
  return prepared;
}

absl::Status AnswerTokenize(const grpc::ByteBuffer& bytes, const ServedModel& model,
                            PreparationPool::Memory& memory, grpc::ByteBuffer* out) {
  // The bytes, the message, a normalized copy; ids of 4 bytes in an array that doubles, again in
  // the answer, and up to 5 bytes for each as sent.
  TANDEM_RETURN_IF_ERROR(memory.Take(20 * bytes.Length()));
  v1::TokenizeRequest request;
  TANDEM_RETURN_IF_ERROR(ParseMessage(bytes, &request));
  if (model.tokenizer == nullptr) return absl::FailedPreconditionError(kNoTokenizer);
  TANDEM_ASSIGN_OR_RETURN(const std::vector<int32_t> ids,
                          model.tokenizer->Encode(request.text(), request.add_special_tokens()));
  v1::TokenizeResponse response;
  response.mutable_ids()->Add(ids.begin(), ids.end());
  SerializeMessage(response, out);
  return absl::OkStatus();
}

absl::Status AnswerDetokenize(const grpc::ByteBuffer& bytes, const ServedModel& model,
                              PreparationPool::Memory& memory, grpc::ByteBuffer* out) {
  // Bytes that are no text become three each.
  TANDEM_RETURN_IF_ERROR(memory.Take(10 * bytes.Length() + 10 * kMaxDetokenizedBytes));
  v1::DetokenizeRequest request;
  TANDEM_RETURN_IF_ERROR(ParseMessage(bytes, &request));
  if (model.tokenizer == nullptr) return absl::FailedPreconditionError(kNoTokenizer);
  const std::span<const int32_t> ids(request.ids().data(), request.ids().size());
  TANDEM_RETURN_IF_ERROR(CheckTokenIds(ids, model.engine->Limits().vocab_size, "ids"));
  size_t length = 0;
  for (const int32_t id : ids) {
    const auto token = model.tokenizer->TokenBytes(id);
    if (token.ok()) length += token->size();
  }
  const auto check = [](size_t found) {
    return found <= kMaxDetokenizedBytes
               ? absl::OkStatus()
               : engine::FieldError("ids", absl::StrCat("a text of ", found, " bytes, allowed: ",
                                                        "at most ", kMaxDetokenizedBytes));
  };
  TANDEM_RETURN_IF_ERROR(check(length));
  TANDEM_ASSIGN_OR_RETURN(const std::string text,
                          model.tokenizer->Decode(ids, request.skip_special_tokens()));
  std::string shown = Utf8Lossy(text);
  TANDEM_RETURN_IF_ERROR(check(shown.size()));
  v1::DetokenizeResponse response;
  response.set_text(std::move(shown));
  SerializeMessage(response, out);
  return absl::OkStatus();
}

}  // namespace tandem::server
