#!/usr/bin/env python3
"""Checks a folder that `tandem quantize` wrote against the reference packages.

  tests/golden/check_quantized_folder.py MODEL OUT [--text FILE] [--transformers]

MODEL is the source of OUT. With compressed-tensors: the package accepts OUT's
configuration and decompresses every module to exactly the values of its codes,
scales and zero points (which this script computes with numpy from the raw tensors,
so that two readings of the format must agree). With Transformers: the folder loads
with AutoModelForCausalLM and gives the logits of a model with those values. That
needs accelerate, a Transformers as new as compressed-tensors (5.24 with 0.20 works),
and an OUT made with --head-dtype stored, because Transformers has no quantized
embeddings. With --text: the perplexity of the text, in the windows of `tandem eval`.

Other packages: scripts/requirements-oracle.txt. Prints what was checked; exits with 1
at the first difference.
"""

import argparse
import json
import math
import pathlib
import re
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "scripts"))
import third_party  # noqa: E402

with third_party.modules(third_party.ORACLE):
  import numpy as np
  import torch
  import transformers
  from compressed_tensors.compressors.pack_quantized import PackedQuantizationCompressor
  from compressed_tensors.quantization import QuantizationConfig
  from safetensors import safe_open


def load_tensors(folder: pathlib.Path) -> dict[str, torch.Tensor]:
  tensors = {}
  for path in sorted(folder.glob("*.safetensors")):
    with safe_open(path, "pt") as file:
      for name in file.keys():
        tensors[name] = file.get_tensor(name)
  return tensors


def scheme_of(config: QuantizationConfig, module: str):
  for scheme in config.config_groups.values():
    for target in scheme.targets:
      if target == module or (
          target.startswith("re:") and re.match(target[3:], module)):
        return scheme
  return None


def unpack(words: np.ndarray, bits: int, count: int) -> np.ndarray:
  """Codes from 0 of [n, words], [n, count]."""
  shifts = np.arange(32 // bits, dtype=np.uint32) * bits
  codes = (words.astype(np.uint32)[:, :, None] >> shifts) & (2**bits - 1)
  return codes.reshape(words.shape[0], -1)[:, :count].astype(np.int64)


def values_of(tensors: dict[str, torch.Tensor], module: str, weights) -> np.ndarray:
  """scale * (code - zero) in double, by numpy alone."""
  rows, columns = (int(n) for n in tensors[f"{module}.weight_shape"])
  bits = weights.num_bits
  codes = unpack(tensors[f"{module}.weight_packed"].numpy(), bits, columns)
  scales = tensors[f"{module}.weight_scale"].double().numpy()
  zeros = np.full(scales.shape, 2 ** (bits - 1))
  if not weights.symmetric:
    packed = tensors[f"{module}.weight_zero_point"].numpy()
    zeros = unpack(packed.T, bits, rows).T
  group = weights.group_size
  assert columns == scales.shape[1] * group, (module, columns, scales.shape, group)
  return np.repeat(scales, group, 1) * (codes - np.repeat(zeros, group, 1))


def fail(message: str) -> None:
  print(f"FAILED: {message}")
  sys.exit(1)


def dense_weights(model: pathlib.Path, out: pathlib.Path) -> dict[str, torch.Tensor]:
  """Checks OUT's tensors and returns its values as an unquantized state dict."""
  source, tensors = load_tensors(model), load_tensors(out)
  raw = json.loads((out / "config.json").read_text())["quantization_config"]
  config = QuantizationConfig.model_validate(raw)
  dense, used, modules, worst = {}, set(), 0, 0.0
  for name, weight in source.items():
    module = name.removesuffix(".weight")
    if f"{module}.weight_packed" not in tensors:
      if not torch.equal(tensors[name], weight):
        fail(f"{name}: differs from the source")
      dense[name] = weight
      used.add(name)
      continue
    scheme = scheme_of(config, module)
    if scheme is None:
      fail(f"{module}: no config group targets it")
    values = values_of(tensors, module, scheme.weights)
    state = {key: tensors[f"{module}.{key}"]
             for key in PackedQuantizationCompressor.compression_param_names(scheme)}
    used |= {f"{module}.{key}" for key in state}
    # In fp32, where the product of a 16-bit scale and a code is exact.
    state["weight_scale"] = state["weight_scale"].float()
    theirs = PackedQuantizationCompressor.decompress(state, scheme)["weight"]
    if not np.array_equal(theirs.double().numpy(), values):
      fail(f"{module}: decompresses to other values")
    error = values - weight.double().numpy()
    worst = max(worst, math.sqrt((error**2).sum() / (weight.double().numpy() ** 2).sum()))
    dense[name] = torch.from_numpy(values).float()
    modules += 1
  if used != set(tensors):
    fail(f"tensors that nothing explains: {sorted(set(tensors) - used)[:5]}")
  print(f"{modules} modules decompress to the same values; the worst is "
        f"{100 * worst:.3f} % off its source (root mean square)")
  return dense


def dense_model(model: pathlib.Path, weights: dict[str, torch.Tensor]):
  config = transformers.AutoConfig.from_pretrained(model)
  config.torch_dtype = torch.float32
  network = transformers.AutoModelForCausalLM.from_config(config, torch_dtype=torch.float32)
  missing, extra = network.load_state_dict(
      {name: weight.float() for name, weight in weights.items()}, strict=False)
  if extra or set(missing) - {"lm_head.weight"}:
    fail(f"state dict: missing {missing}, extra {extra}")
  network.tie_weights()
  return network.eval()


@torch.no_grad()
def perplexity(network, ids: list[int], context: int) -> float:
  total = 0.0
  for begin in range(0, len(ids) - 1, context):
    end = min(begin + context, len(ids) - 1)
    logits = network(torch.tensor([ids[begin:end]])).logits[0].double()
    losses = torch.nn.functional.cross_entropy(
        logits, torch.tensor(ids[begin + 1:end + 1]), reduction="sum")
    total += losses.item()
  return math.exp(total / (len(ids) - 1))


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("model", type=pathlib.Path)
  parser.add_argument("out", type=pathlib.Path)
  parser.add_argument("--text", type=pathlib.Path)
  parser.add_argument("--context", type=int, default=512)
  parser.add_argument("--transformers", action="store_true",
                      help="also load OUT by AutoModelForCausalLM")
  args = parser.parse_args()
  network = dense_model(args.model, dense_weights(args.model, args.out))
  ids = torch.arange(64)[None] % network.config.vocab_size
  if args.transformers:
    loaded = transformers.AutoModelForCausalLM.from_pretrained(
        args.out, torch_dtype=torch.float32).eval()
    with torch.no_grad():
      difference = (loaded(ids).logits - network(ids).logits).abs().max().item()
    if difference > 1e-4:  # fp32 on both sides; none was seen
      fail(f"Transformers' logits differ by {difference:.3g}")
    print(f"Transformers loads the folder; logits differ by at most {difference:.3g}")
  if args.text:
    tokenizer = transformers.AutoTokenizer.from_pretrained(args.model)
    text = tokenizer(args.text.read_text())["input_ids"]
    print(f"perplexity of the same values in fp32: {perplexity(network, text, args.context):.5f}")


if __name__ == "__main__":
  main()
