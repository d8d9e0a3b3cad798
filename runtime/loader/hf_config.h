// Reads config.json of a Hugging Face model folder into a ModelConfig.
//
// Supported: LlamaForCausalLM and Qwen3ForCausalLM with SiLU, full attention and
// default, linear, llama3 or yarn rotary embeddings, in both spellings
// (rope_theta + rope_scaling, and rope_parameters of Transformers 5).
//
// A field that changes the arithmetic and is not supported is an error, never
// ignored: a model that loads gives that model's logits. Fields that only
// matter in training, and fields nobody knows, are ignored as Transformers does.
// Defaults of absent fields are those of Transformers' LlamaConfig and
// Qwen3Config; a shape is never guessed: hidden_size, intermediate_size,
// num_hidden_layers, num_attention_heads, vocab_size and
// max_position_embeddings must be there.
//
// Errors are one line, "FILE: FIELD: found X, expected Y; what to do":
// InvalidArgument for a value that is wrong, Unimplemented for one that is
// right but not supported.
#pragma once

#include <string_view>

#include "absl/status/statusor.h"
#include "runtime/loader/model_config.h"
#include "runtime/loader/model_folder.h"

namespace tandem::loader {

// `name` (a path) only appears in messages.
absl::StatusOr<ModelConfig> ParseConfig(std::string_view text, std::string_view name);

// Reads and parses config.json of the folder.
absl::StatusOr<ModelConfig> ReadConfig(const ModelFolder& folder);

}  // namespace tandem::loader
