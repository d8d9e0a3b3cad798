"""The part of compare_llama_cpp.py that runs llama.cpp, inside the Python environment that has it.

  llama_cpp_runner.py make CONFIG.json FORMAT OUT.gguf    random weights of that shape
  llama_cpp_runner.py run MODEL.gguf THREADS CELLS        then a line of JSON for each line read

CELLS are PHASE:BATCH:CONTEXT, as `tandem bench --cells` takes them.
"""

import ctypes
import json
import sys
import time

import third_party

with third_party.modules("pip install numpy gguf llama-cpp-python"):
  import numpy as np

# Bytes of a block and its elements.
BLOCKS = {"bf16": (2, 1), "q8_0": (34, 32), "q4_0": (18, 32)}
DECODE_TOKENS = 32


def random_rows(rng, rows: int, columns: int, fmt: str) -> np.ndarray:
  """Raw bytes [rows, bytes of a row]. Small finite values: the speed does not depend on them."""
  block_bytes, block = BLOCKS[fmt]
  if fmt == "bf16":
    values = (rng.standard_normal((rows, columns), dtype=np.float32) * 0.02).view(np.uint32) >> 16
    return values.astype(np.uint16).view(np.uint8)
  blocks = rng.integers(0, 256, (rows, columns // block, block_bytes), dtype=np.uint8)
  blocks[..., :2] = np.frombuffer(np.float16(0.0002 if fmt == "q8_0" else 0.003).tobytes(), np.uint8)
  return blocks.reshape(rows, -1)


def make(config_file: str, fmt: str, out: str) -> None:
  import gguf

  with open(config_file) as file:
    config = json.load(file)
  hidden, ffn, vocab = config["hidden_size"], config["intermediate_size"], config["vocab_size"]
  heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
  head_dim = config.get("head_dim", hidden // heads)
  layers = config["num_hidden_layers"]
  kind = {"bf16": gguf.GGMLQuantizationType.BF16, "q8_0": gguf.GGMLQuantizationType.Q8_0,
          "q4_0": gguf.GGMLQuantizationType.Q4_0}[fmt]

  writer = gguf.GGUFWriter(out, "llama")
  writer.add_name("random")
  writer.add_context_length(8192)
  writer.add_embedding_length(hidden)
  writer.add_block_count(layers)
  writer.add_feed_forward_length(ffn)
  writer.add_head_count(heads)
  writer.add_head_count_kv(kv_heads)
  writer.add_key_length(head_dim)
  writer.add_value_length(head_dim)
  writer.add_rope_dimension_count(head_dim)
  writer.add_rope_freq_base(float(config.get("rope_theta", 500000.0)))
  writer.add_layer_norm_rms_eps(1e-5)
  writer.add_vocab_size(vocab)
  writer.add_tokenizer_model("no_vocab")

  matrices = [("token_embd.weight", vocab, hidden), ("output.weight", vocab, hidden)]
  norms = ["output_norm.weight"]
  for i in range(layers):
    matrices += [(f"blk.{i}.attn_q.weight", heads * head_dim, hidden),
                 (f"blk.{i}.attn_k.weight", kv_heads * head_dim, hidden),
                 (f"blk.{i}.attn_v.weight", kv_heads * head_dim, hidden),
                 (f"blk.{i}.attn_output.weight", hidden, heads * head_dim),
                 (f"blk.{i}.ffn_gate.weight", ffn, hidden),
                 (f"blk.{i}.ffn_up.weight", ffn, hidden),
                 (f"blk.{i}.ffn_down.weight", hidden, ffn)]
    norms += [f"blk.{i}.attn_norm.weight", f"blk.{i}.ffn_norm.weight"]
  block_bytes, block = BLOCKS[fmt]
  for name, rows, columns in matrices:
    row_bytes = columns // block * block_bytes
    writer.add_tensor_info(name, [rows, row_bytes], np.dtype(np.uint8), rows * row_bytes, kind)
  for name in norms:
    writer.add_tensor_info(name, [hidden], np.dtype(np.float32), hidden * 4)
  writer.write_header_to_file()
  writer.write_kv_data_to_file()
  writer.write_ti_data_to_file()
  rng = np.random.default_rng(1)
  for _, rows, columns in matrices:
    some = random_rows(rng, min(rows, 256), columns, fmt)
    writer.write_tensor_data(np.tile(some, (-(-rows // len(some)), 1))[:rows])
  for _ in norms:
    writer.write_tensor_data(np.ones(hidden, np.float32))
  writer.close()


class Runner:
  """One loaded model and the cells to measure."""

  def __init__(self, path: str, threads: int, cells):
    from llama_cpp import llama_cpp as lib

    self.lib = lib
    # Held: a callback that is collected would be called all the same.
    self.quiet = lib.llama_log_callback(lambda level, text, data: None)
    lib.llama_log_set(self.quiet, ctypes.c_void_p(0))
    lib.llama_backend_init()
    self.model = lib.llama_model_load_from_file(path.encode(), lib.llama_model_default_params())
    if not self.model:
      sys.exit(f"llama.cpp cannot load {path}")
    params = lib.llama_context_default_params()
    params.n_seq_max = max(batch for _, batch, _ in cells)
    params.n_ctx = max(batch * (context + DECODE_TOKENS + 16) for _, batch, context in cells)
    params.n_ctx = -(-params.n_ctx // (256 * params.n_seq_max)) * 256 * params.n_seq_max
    params.n_batch = params.n_ubatch = 512
    params.n_threads = params.n_threads_batch = threads
    params.kv_unified = True
    self.context = lib.llama_init_from_model(self.model, params)
    if not self.context:
      sys.exit("llama.cpp cannot make a context")
    self.memory = lib.llama_get_memory(self.context)
    self.vocab = lib.llama_vocab_n_tokens(lib.llama_model_get_vocab(self.model))
    self.batch = lib.llama_batch_init(512, 0, 1)
    self.rng = np.random.default_rng(2)

  def step(self, entries) -> None:
    """entries: (sequence, position, logits wanted) of random tokens, at most 512."""
    batch = self.batch
    batch.n_tokens = len(entries)
    for i, (sequence, position, logits) in enumerate(entries):
      batch.token[i] = int(self.rng.integers(0, self.vocab))
      batch.pos[i] = position
      batch.n_seq_id[i] = 1
      batch.seq_id[i][0] = sequence
      batch.logits[i] = logits
    if self.lib.llama_decode(self.context, batch) != 0:
      sys.exit("llama_decode failed")
    self.lib.llama_synchronize(self.context)

  def read(self, sequence: int, context: int) -> None:
    for begin in range(0, context, 512):
      end = min(begin + 512, context)
      self.step([(sequence, p, p == context - 1) for p in range(begin, end)])

  def measure(self, phase: str, batch: int, context: int) -> float:
    self.lib.llama_memory_clear(self.memory, True)
    begin = time.perf_counter()
    for sequence in range(batch):
      self.read(sequence, context)
    if phase == "prefill":
      return batch * context / (time.perf_counter() - begin)
    # Two steps of warm-up, as there.
    for i in range(DECODE_TOKENS + 2):
      if i == 2:
        begin = time.perf_counter()
      self.step([(sequence, context + i, True) for sequence in range(batch)])
    return batch * DECODE_TOKENS / (time.perf_counter() - begin)


def run(path: str, threads: str, cells: str) -> None:
  parsed = []
  for cell in cells.split(","):
    phase, batch, context = cell.split(":")
    parsed.append((phase, int(batch), int(context)))
  runner = Runner(path, int(threads), parsed)
  print(json.dumps("ready"), flush=True)
  for _ in sys.stdin:
    print(json.dumps([runner.measure(*cell) for cell in parsed]), flush=True)


if __name__ == "__main__":
  {"make": make, "run": run}[sys.argv[1]](*sys.argv[2:])
