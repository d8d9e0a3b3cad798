// Chat templates: parsed, then rendered with a conversation, tools and special tokens.
#include <cstdint>
#include <string>
#include <string_view>

#include "runtime/text/chat/chat_template.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using tandem::chat::ChatTemplate;
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const auto chat_template =
      ChatTemplate::FromTokenizerConfig(R"({"bos_token": "<s>", "eos_token": "</s>"})", text);
  if (!chat_template.ok()) return 0;
  tandem::chat::ChatInputs inputs;
  inputs.messages = nlohmann::ordered_json::parse(R"([
      {"role": "system", "content": "Be brief."},
      {"role": "user", "content": "How warm is it? \u00e9"},
      {"role": "assistant", "content": null, "reasoning_content": "a tool",
       "tool_calls": [{"type": "function", "function": {"name": "f", "arguments": {"x": 1.5}}}]},
      {"role": "tool", "content": "21", "tool_call_id": "1"},
      {"role": "user", "content": [{"type": "text", "text": "And now?"}]}])");
  inputs.tools = nlohmann::ordered_json::parse(
      R"([{"type": "function", "function": {"name": "f", "parameters": {"a": [1, true, null]}}}])");
  tandem::jinja::RenderOptions options;
  options.max_output_bytes = 1 << 20;
  options.max_memory_bytes = 64 << 20;
  options.max_steps = 200'000;
  (void)chat_template->Render(inputs, options);
  return 0;
}
