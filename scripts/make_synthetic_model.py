#!/usr/bin/env python3
"""Writes a Hugging Face model folder with random weights of any shape.

Use it to measure memory and speed without real weights. It needs only Python's
standard library, and little memory, because it writes the values block by block.

  scripts/make_synthetic_model.py /tmp/8b --preset llama-3.1-8b
  scripts/make_synthetic_model.py /tmp/2l --preset llama-3.1-8b --layers 2
  scripts/make_synthetic_model.py /tmp/odd --heads 6 --kv-heads 2 --head-dim 64

The values of a tensor depend only on the seed, the tensor's name and the dtype.
The number of layers and the number of files do not change them, and every
machine writes the same bytes. Version 0.1.0 of this script drew other values.
"""

import argparse
import hashlib
import json
import math
import pathlib
import shutil
import statistics
import struct
import sys
import time
from collections.abc import Iterator

# A block of this size stays in the processor's cache.
BLOCK_VALUES = 1 << 17
WEIGHT_STD = 0.02
# Bytes a value, its name in safetensors and its name in config.json.
DTYPES = {
    "bf16": (2, "BF16", "bfloat16"),
    "fp16": (2, "F16", "float16"),
    "fp32": (4, "F32", "float32"),
}

_LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "attention_bias": False,
    "attention_dropout": 0.0,
    "hidden_act": "silu",
    "initializer_range": WEIGHT_STD,
    "mlp_bias": False,
    "pretraining_tp": 1,
    "rms_norm_eps": 1e-5,
    "rope_scaling": None,
    "use_cache": True,
}
_QWEN3 = {
    "architectures": ["Qwen3ForCausalLM"],
    "model_type": "qwen3",
    "attention_bias": False,
    "attention_dropout": 0.0,
    "hidden_act": "silu",
    "initializer_range": WEIGHT_STD,
    "rms_norm_eps": 1e-6,
    "rope_scaling": None,
    "sliding_window": None,
    "use_cache": True,
    "use_sliding_window": False,
}


def _llama3_rope(factor: float) -> dict[str, object]:
  return {
      "factor": factor,
      "high_freq_factor": 4.0,
      "low_freq_factor": 1.0,
      "original_max_position_embeddings": 8192,
      "rope_type": "llama3",
  }


PRESETS = {
    "tiny": _LLAMA
    | {
        "bos_token_id": 1,
        "eos_token_id": 2,
        "hidden_size": 256,
        "intermediate_size": 688,
        "max_position_embeddings": 2048,
        "num_attention_heads": 8,
        "num_hidden_layers": 4,
        "num_key_value_heads": 4,
        "rope_theta": 10000.0,
        "tie_word_embeddings": False,
        "vocab_size": 1024,
    },
    "llama-3.1-8b": _LLAMA
    | {
        "bos_token_id": 128000,
        "eos_token_id": [128001, 128008, 128009],
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "max_position_embeddings": 131072,
        "num_attention_heads": 32,
        "num_hidden_layers": 32,
        "num_key_value_heads": 8,
        "rope_scaling": _llama3_rope(8.0),
        "rope_theta": 500000.0,
        "tie_word_embeddings": False,
        "vocab_size": 128256,
    },
    "llama-3.2-1b": _LLAMA
    | {
        "bos_token_id": 128000,
        "eos_token_id": [128001, 128008, 128009],
        "head_dim": 64,
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "max_position_embeddings": 131072,
        "num_attention_heads": 32,
        "num_hidden_layers": 16,
        "num_key_value_heads": 8,
        "rope_scaling": _llama3_rope(32.0),
        "rope_theta": 500000.0,
        "tie_word_embeddings": True,
        "vocab_size": 128256,
    },
    "qwen3-8b": _QWEN3
    | {
        "bos_token_id": 151643,
        "eos_token_id": 151645,
        "head_dim": 128,
        "hidden_size": 4096,
        "intermediate_size": 12288,
        "max_position_embeddings": 40960,
        "max_window_layers": 36,
        "num_attention_heads": 32,
        "num_hidden_layers": 36,
        "num_key_value_heads": 8,
        "rope_theta": 1000000.0,
        "tie_word_embeddings": False,
        "vocab_size": 151936,
    },
}
# Shape options that override a preset, and the config.json keys they set.
SHAPE_OPTIONS = {
    "--hidden-size": "hidden_size",
    "--intermediate-size": "intermediate_size",
    "--layers": "num_hidden_layers",
    "--heads": "num_attention_heads",
    "--kv-heads": "num_key_value_heads",
    "--head-dim": "head_dim",
    "--vocab-size": "vocab_size",
    "--max-positions": "max_position_embeddings",
}

# A tensor's name and shape.
Tensor = tuple[str, tuple[int, ...]]


def make_config(args: argparse.Namespace) -> dict[str, object]:
  """Applies the options to the preset. Raises ValueError for a bad shape."""
  config = dict(PRESETS[args.preset])
  for key in SHAPE_OPTIONS.values():
    value = getattr(args, key)
    if value is not None:
      if value < 1:
        raise ValueError(f"{key} is {value}, expected at least 1")
      config[key] = value
  if args.tied is not None:
    config["tie_word_embeddings"] = args.tied
  if args.attention_bias:
    config["attention_bias"] = True
  if args.mlp_bias:
    if config["model_type"] == "qwen3":
      raise ValueError("Qwen3 has no MLP biases")
    config["mlp_bias"] = True
  if "max_window_layers" in config:
    config["max_window_layers"] = config["num_hidden_layers"]
  if args.vocab_size is not None:
    # A smaller vocabulary may lack the preset's special tokens.
    config["bos_token_id"], config["eos_token_id"] = 0, args.vocab_size - 1
  config["torch_dtype"] = DTYPES[args.dtype][2]

  heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
  if heads % kv_heads:
    raise ValueError(f"{heads} heads are not a multiple of {kv_heads} KV heads")
  if "head_dim" not in config and config["hidden_size"] % heads:
    raise ValueError(
        f"hidden_size {config['hidden_size']} is not a multiple of {heads}"
        " heads: give --head-dim"
    )
  return config


def list_tensors(config: dict[str, object]) -> Iterator[Tensor]:
  """Lists the model's tensors in the order in which they are used."""
  hidden, ffn = config["hidden_size"], config["intermediate_size"]
  vocab = config["vocab_size"]
  heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
  head_dim = config.get("head_dim", hidden // heads)
  attention = (
      ("q_proj", heads * head_dim, hidden),
      ("k_proj", kv_heads * head_dim, hidden),
      ("v_proj", kv_heads * head_dim, hidden),
      ("o_proj", hidden, heads * head_dim),
  )
  mlp = (
      ("gate_proj", ffn, hidden),
      ("up_proj", ffn, hidden),
      ("down_proj", hidden, ffn),
  )

  yield "model.embed_tokens.weight", (vocab, hidden)
  for layer in range(config["num_hidden_layers"]):
    prefix = f"model.layers.{layer}."
    yield prefix + "input_layernorm.weight", (hidden,)
    for name, rows, columns in attention:
      yield f"{prefix}self_attn.{name}.weight", (rows, columns)
      if config["attention_bias"]:
        yield f"{prefix}self_attn.{name}.bias", (rows,)
    if config["model_type"] == "qwen3":
      yield prefix + "self_attn.q_norm.weight", (head_dim,)
      yield prefix + "self_attn.k_norm.weight", (head_dim,)
    yield prefix + "post_attention_layernorm.weight", (hidden,)
    for name, rows, columns in mlp:
      yield f"{prefix}mlp.{name}.weight", (rows, columns)
      if config.get("mlp_bias"):
        yield f"{prefix}mlp.{name}.bias", (rows,)
  yield "model.norm.weight", (hidden,)
  if not config["tie_word_embeddings"]:
    yield "lm_head.weight", (vocab, hidden)


class RandomValues:
  """Draws normally distributed values, in the bytes that the file stores.

  A value is one of 256 equally likely quantiles, chosen by one random byte.
  bytes.translate replaces a whole block of random bytes by one byte of their
  values, so that Python runs no loop over values.
  """

  def __init__(self, dtype: str, seed: int):
    self._seed = seed
    self._width = DTYPES[dtype][0]
    normal = statistics.NormalDist(0.0, WEIGHT_STD)
    quantiles = [normal.inv_cdf((i + 0.5) / 256) for i in range(256)]
    self._weights = _byte_tables(quantiles, dtype)
    self._norms = _byte_tables([1 + q for q in quantiles], dtype)

  def blocks(self, tensor: Tensor) -> Iterator[bytearray]:
    """Yields the tensor's values in order, a block at a time."""
    name, shape = tensor
    tables = self._norms if name.endswith("norm.weight") else self._weights
    left, number = math.prod(shape), 0
    while left:
      count = min(left, BLOCK_VALUES)
      key = f"{self._seed} {number} {name}".encode()
      picks = hashlib.shake_128(key).digest(count)
      block = bytearray(count * self._width)
      for position, table in enumerate(tables):
        block[position :: self._width] = picks.translate(table)
      yield block
      left -= count
      number += 1


def _byte_tables(values: list[float], dtype: str) -> list[bytes]:
  """The stored bytes of 256 values: first all first bytes, then all second."""
  stored = [_encode(value, dtype) for value in values]
  return [bytes(column) for column in zip(*stored)]


def _encode(value: float, dtype: str) -> bytes:
  """Converts to the stored format, little-endian, rounding to nearest even."""
  if dtype == "fp32":
    return struct.pack("<f", value)
  if dtype == "fp16":
    return struct.pack("<e", value)
  (bits,) = struct.unpack("<I", struct.pack("<f", value))
  return struct.pack("<H", (bits + 0x7FFF + (bits >> 16 & 1)) >> 16)


def tensor_bytes(tensor: Tensor, dtype: str) -> int:
  return math.prod(tensor[1]) * DTYPES[dtype][0]


def cut_into_files(
    tensors: list[Tensor], dtype: str, limit: int
) -> list[list[Tensor]]:
  """Fills files in order; a tensor over the limit gets a file of its own."""
  files: list[list[Tensor]] = []
  size = 0
  for tensor in tensors:
    more = tensor_bytes(tensor, dtype)
    if not files or size + more > limit:
      files.append([])
      size = 0
    files[-1].append(tensor)
    size += more
  return files


def make_header(tensors: list[Tensor], dtype: str) -> bytes:
  """Makes the header of a safetensors file: its length, JSON, padding."""
  entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
  offset = 0
  for name, shape in tensors:
    end = offset + tensor_bytes((name, shape), dtype)
    entries[name] = {
        "dtype": DTYPES[dtype][1],
        "shape": shape,
        "data_offsets": [offset, end],
    }
    offset = end
  text = json.dumps(entries, separators=(",", ":")).encode()
  text += b" " * (-len(text) % 8)
  return len(text).to_bytes(8, "little") + text


class Progress:
  """A line that rewrites itself, on a terminal only."""

  def __init__(self, total: int):
    self._total = total
    self._done = 0
    self._started = time.monotonic()
    self._next_look = 0.0
    self._shown = sys.stderr.isatty()

  def add(self, size: int) -> None:
    self._done += size
    seconds = time.monotonic() - self._started
    is_done = self._done == self._total
    if not self._shown or (seconds < self._next_look and not is_done):
      return
    self._next_look = seconds + 0.2
    rate = self._done / max(seconds, 1e-9)
    print(
        f"\r{self._done / 1e9:.2f} of {self._total / 1e9:.2f} GB,"
        f" {rate / 1e9:.2f} GB/s ",
        end="\n" if is_done else "",
        file=sys.stderr,
        flush=True,
    )


def write_weights(
    folder: pathlib.Path,
    files: list[list[Tensor]],
    dtype: str,
    seed: int,
) -> None:
  """Writes the safetensors files and, if there are several, their index."""
  total = sum(tensor_bytes(tensor, dtype) for file in files for tensor in file)
  values, progress = RandomValues(dtype, seed), Progress(total)
  file_of = {}
  for number, tensors in enumerate(files, start=1):
    name = "model.safetensors"
    if len(files) > 1:
      name = f"model-{number:05}-of-{len(files):05}.safetensors"
    with (folder / name).open("wb", buffering=0) as file:
      file.write(make_header(tensors, dtype))
      for tensor in tensors:
        file_of[tensor[0]] = name
        for block in values.blocks(tensor):
          _write_all(file, block)
          progress.add(len(block))
  if len(files) > 1:
    index = {"metadata": {"total_size": total}, "weight_map": file_of}
    _write_json(folder / "model.safetensors.index.json", index)


def _write_all(file, block: bytearray) -> None:
  """Writes the whole block: one unbuffered write may take only a part of it."""
  left = memoryview(block)
  while left:
    left = left[file.write(left) :]


def _write_json(path: pathlib.Path, value: object) -> None:
  path.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n", "utf-8")


def prepare_folder(folder: pathlib.Path, force: bool, needed: int) -> None:
  """Makes the folder and removes an earlier model; ValueError if it cannot."""
  if folder.exists() and not folder.is_dir():
    raise ValueError(f"{folder} is not a folder")
  folder.mkdir(parents=True, exist_ok=True)
  if any(folder.iterdir()) and not force:
    raise ValueError(f"{folder} is not empty: --force writes into it anyway")
  # Files of an earlier model must not mix with the new ones. Other files stay.
  for pattern in ("model*.safetensors*", "*config.json"):
    for path in folder.glob(pattern):
      path.unlink()
  free = shutil.disk_usage(folder).free
  if free < needed:
    raise ValueError(
        f"{folder} has {free / 1e9:.1f} GB free, expected {needed / 1e9:.1f} GB"
    )


def parse_args() -> argparse.Namespace:
  parser = argparse.ArgumentParser(
      description=__doc__, formatter_class=argparse.RawTextHelpFormatter
  )
  parser.add_argument("out", type=pathlib.Path, help="the folder to write")
  parser.add_argument("--preset", choices=PRESETS, default="tiny")
  for option, key in SHAPE_OPTIONS.items():
    parser.add_argument(option, dest=key, type=int, metavar="N")
  parser.add_argument(
      "--tied",
      action=argparse.BooleanOptionalAction,
      help="share the embedding with the LM head",
  )
  parser.add_argument("--attention-bias", action="store_true")
  parser.add_argument("--mlp-bias", action="store_true")
  parser.add_argument("--dtype", choices=DTYPES, default="bf16")
  parser.add_argument("--seed", type=int, default=0)
  parser.add_argument(
      "--shard-mb", type=int, default=5000, help="limit of a file's size"
  )
  parser.add_argument(
      "--force", action="store_true", help="write into a folder with files"
  )
  args = parser.parse_args()
  if args.seed < 0 or args.shard_mb < 1:
    parser.error("--seed must be at least 0, --shard-mb at least 1")
  return args


def main() -> int:
  args = parse_args()
  try:
    config = make_config(args)
    tensors = list(list_tensors(config))
    total = sum(tensor_bytes(tensor, args.dtype) for tensor in tensors)
    prepare_folder(args.out, args.force, total)
  except ValueError as error:
    print(f"make_synthetic_model: {error}", file=sys.stderr)
    return 1
  files = cut_into_files(tensors, args.dtype, args.shard_mb * 1_000_000)
  write_weights(args.out, files, args.dtype, args.seed)
  # Written last, so that an interrupted run does not leave a folder that looks
  # like a model.
  defaults = {key: config[key] for key in ("bos_token_id", "eos_token_id")}
  _write_json(args.out / "generation_config.json", defaults)
  _write_json(args.out / "config.json", config)
  return 0


if __name__ == "__main__":
  sys.exit(main())
