"""Worlds of both model families with the tokenizers and chat templates of real models, and small
random weights."""

import json
import os
import pathlib
import shutil
import struct
import tempfile
import unittest

import worlds
from worlds import pb

MESSAGES = [
    {"role": "system", "content": "You are terse."},
    {"role": "user", "content": "What is the weather in K\u00f6ln? \U0001f642"},
    {"role": "assistant", "content": "Rain."},
    {"role": "user", "content": "And <b>tomorrow</b>?"},
]
TOOLS = [{"type": "function", "function": {
    "name": "weather", "description": "Looks it up.",
    "parameters": {"type": "object", "properties": {"place": {"type": "string"}}}}}]


def random_bf16(count):
  """Values around 2^-6 of either sign."""
  data = bytearray(os.urandom(2 * count))
  data[1::2] = bytes(data[1::2]).translate(bytes(0x3c | (b & 0x80) for b in range(256)))
  return bytes(data)


def write_model(folder, architecture, vocab, eos, tokenizer, template):
  hidden, inner, heads, kv_heads, head_dim, layers = 32, 64, 4, 2, 16, 2
  qwen = architecture.startswith("Qwen3")
  config = {
      "architectures": [architecture], "model_type": "qwen3" if qwen else "llama",
      "hidden_size": hidden, "intermediate_size": inner, "num_hidden_layers": layers,
      "num_attention_heads": heads, "num_key_value_heads": kv_heads, "head_dim": head_dim,
      "hidden_act": "silu", "rms_norm_eps": 1e-6, "rope_theta": 500000.0, "vocab_size": vocab,
      "max_position_embeddings": 4096, "tie_word_embeddings": True, "torch_dtype": "bfloat16",
      "eos_token_id": eos, "attention_bias": False}
  if not qwen:
    config["rope_scaling"] = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
                              "high_freq_factor": 4.0, "original_max_position_embeddings": 1024}
  shapes = {"model.embed_tokens.weight": [vocab, hidden], "model.norm.weight": [hidden]}
  for i in range(layers):
    p = f"model.layers.{i}."
    shapes |= {p + "input_layernorm.weight": [hidden],
               p + "post_attention_layernorm.weight": [hidden],
               p + "self_attn.q_proj.weight": [heads * head_dim, hidden],
               p + "self_attn.k_proj.weight": [kv_heads * head_dim, hidden],
               p + "self_attn.v_proj.weight": [kv_heads * head_dim, hidden],
               p + "self_attn.o_proj.weight": [hidden, heads * head_dim],
               p + "mlp.gate_proj.weight": [inner, hidden],
               p + "mlp.up_proj.weight": [inner, hidden],
               p + "mlp.down_proj.weight": [hidden, inner]}
    if qwen:
      shapes |= {p + "self_attn.q_norm.weight": [head_dim],
                 p + "self_attn.k_norm.weight": [head_dim]}
  header, offset = {}, 0
  for name, shape in shapes.items():
    size = 2 * shape[0] * (shape[1] if len(shape) > 1 else 1)
    header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [offset, offset + size]}
    offset += size
  text = json.dumps(header).encode()
  with open(folder / "model.safetensors", "wb") as file:
    file.write(struct.pack("<Q", len(text)) + text)
    for shape in shapes.values():
      file.write(random_bf16(shape[0] * (shape[1] if len(shape) > 1 else 1)))
  (folder / "config.json").write_text(json.dumps(config))
  shutil.copy(tokenizer, folder / "tokenizer.json")
  shutil.copy(template, folder / "chat_template.jinja")
  (folder / "tokenizer_config.json").write_text(json.dumps(
      {"bos_token": None if qwen else "<|begin_of_text|>",
       "eos_token": "<|im_end|>" if qwen else "<|eot_id|>"}))


class Families(unittest.TestCase):

  def serve(self, architecture, vocab, eos, tokenizer, template, special):
    tokenizer = worlds.shared(f"tokenizers/{tokenizer}/tokenizer.json")
    template = worlds.shared(f"chat_templates/{template}.jinja")
    with tempfile.TemporaryDirectory() as name:
      folder = pathlib.Path(name)
      write_model(folder, architecture, vocab, eos, tokenizer, template)
      answers = set()
      for tp in (1, 3):
        with worlds.Server(folder, "--tp", tp, "--threads", 1, "--max-model-len", 2048,
                           "--kv-memory", "64MiB") as server:
          for tools in (None, TOOLS):
            answers.add((tools is None, self.converse(server, folder, tools, special)))
      self.assertEqual(len(answers), 2)  # the same answer at both degrees, for each input

  def converse(self, server, folder, tools, special):
    document = {"messages": MESSAGES} | ({"tools": tools} if tools else {})
    done = worlds.run("render", folder, "--messages", "-", stdin=json.dumps(document).encode())
    rendered = done.stdout.decode()
    self.assertIn("tomorrow", rendered)
    sampling = pb.SamplingParams(temperature=0.8, seed=1, max_tokens=24, ignore_eos=True)
    chat = pb.ChatPrompt(messages=[pb.ChatMessage(**m) for m in MESSAGES])
    if tools:
      chat.tools_json = json.dumps(tools)
    ids = server.stub.Tokenize(pb.TokenizeRequest(text=rendered), timeout=20).ids
    for one in special:
      self.assertIn(one, ids)  # one token, not its characters
    outcomes = []
    for request in (pb.GenerateRequest(messages=chat, sampling=sampling),
                    pb.GenerateRequest(token_ids=pb.TokenIds(ids=ids), sampling=sampling)):
      parts = list(server.stub.Generate(request, timeout=60))
      self.assertEqual(parts[-1].usage.prompt_tokens, len(ids))
      outcomes.append((tuple(i for p in parts for i in p.token_ids),
                       "".join(p.text for p in parts)))
    self.assertEqual(outcomes[0], outcomes[1])
    self.assertEqual(len(outcomes[0][0]), 24)
    return outcomes[0]

  def test_llama(self):
    self.serve("LlamaForCausalLM", 128256, [128001, 128009], "llama-3",
               "meta-llama-Llama-3.1-8B-Instruct", (128000, 128006, 128009))

  def test_qwen3(self):
    self.serve("Qwen3ForCausalLM", 151936, [151645, 151643], "qwen2", "Qwen-Qwen3-0.6B",
               (151644, 151645))


if __name__ == "__main__":
  unittest.main()
