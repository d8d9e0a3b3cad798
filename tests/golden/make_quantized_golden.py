#!/usr/bin/env python3
"""Makes small quantized checkpoints in the hub's formats, and their values.

  python3 tests/golden/make_quantized_golden.py

writes, for every case below, quantized/NAME/ beside this script: a Hugging Face
folder and golden.json. Needs the packages in scripts/requirements-oracle.txt.

The package compressed-tensors writes the folders of its format and reads them
back. For GPTQ, AWQ and fp8 this script writes the layouts that their packages
publish. Expected values come from the integers before packing, not from
unpacking, so that the tests notice an error of packing.

golden.json has two digests (64-bit FNV-1a over 32-bit words) for every quantized
module: of its values in float32, (code - zero) * scale rounded once, and of the
same values rounded once to bfloat16. It also has the logits that Transformers
computes in float64 from one of the two ("as_bf16" says which: 8-bit floats and
reordered columns are read as bfloat16).
"""

import argparse
import dataclasses
import json
import pathlib
import shutil
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "scripts"))
import third_party  # noqa: E402

with third_party.modules(third_party.ORACLE):
  from compressed_tensors.compressors import BaseCompressor
  from compressed_tensors.quantization import QuantizationArgs
  from compressed_tensors.quantization import QuantizationScheme
  from compressed_tensors.quantization.utils import calculate_qparams
  import numpy as np
  import torch
  import transformers
  from safetensors.torch import save_file

# 6 query heads of 16 columns: some groups of 32 span a cut between ranks.
SHAPE = {
    "vocab_size": 136,
    "hidden_size": 64,
    "intermediate_size": 160,
    "num_hidden_layers": 1,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 64,
    "rope_theta": 10000.0,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": False,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
LAYER = "model.layers.0."
BODY = [LAYER + "self_attn." + p for p in ("q_proj", "k_proj", "v_proj", "o_proj")]
BODY += [LAYER + "mlp." + p for p in ("gate_proj", "up_proj", "down_proj")]


@dataclasses.dataclass
class Quantized:
  """A module's tensors as stored, and its values: codes [out, in] times scales."""

  tensors: dict[str, torch.Tensor]
  codes: np.ndarray  # code - zero, or the floats of 8 bits
  scales: np.ndarray  # float32, of every element
  as_bf16: bool = False

  def float32(self) -> np.ndarray:
    return self.codes.astype(np.float32) * self.scales.astype(np.float32)

  def bfloat16_bits(self) -> np.ndarray:
    # Exact in float64; rounded there, to nearest even, at the eighth bit.
    exact = self.codes.astype(np.float64) * self.scales.astype(np.float64)
    bits = exact.view(np.uint64)
    drop = np.uint64(52 - 7)
    half = (np.uint64(1) << (drop - np.uint64(1))) - np.uint64(1)
    odd = (bits >> drop) & np.uint64(1)
    rounded = ((bits + half + odd) >> drop << drop).view(np.float64)
    return (rounded.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)

  def values(self) -> np.ndarray:
    if not self.as_bf16:
      return self.float32()
    return (self.bfloat16_bits().astype(np.uint32) << 16).view(np.float32)


def fnv(words: np.ndarray) -> str:
  digest = 0xCBF29CE484222325
  for word in words.ravel().tolist():
    digest = ((digest ^ word) * 0x100000001B3) & 0xFFFFFFFFFFFFFFFF
  return f"{digest:016x}"


def group_of(columns: int, size: int) -> np.ndarray:
  return np.arange(columns) // (columns if size < 0 else size)


def integer_codes(weight, bits, size, symmetric, order=None):
  """Codes [out, in] from 0, scales and zeros [out, groups], group of each column."""
  w = weight.double().numpy()
  top = 2**bits - 1
  index = group_of(w.shape[1], size)
  if order is not None:
    index = index[np.argsort(order)]  # columns get groups in another order
  groups = index.max() + 1
  scales = np.zeros((w.shape[0], groups))
  zeros = np.zeros((w.shape[0], groups), dtype=np.int64)
  for g in range(groups):
    part = w[:, index == g]
    low, high = np.minimum(part.min(1), 0), np.maximum(part.max(1), 0)
    if symmetric:
      most = np.maximum(-low, high)
      low, high = -most, most
    scales[:, g] = (high - low) / top
    zeros[:, g] = 2 ** (bits - 1) if symmetric else np.round(-low / scales[:, g])
  scales = scales.astype(np.float16)
  wide = scales.astype(np.float64)[:, index]
  codes = np.clip(np.round(w / wide) + zeros[:, index], 0, top).astype(np.int64)
  return codes, scales, np.clip(zeros, 0, top), index


def pack(values: np.ndarray, bits: int, order=None) -> torch.Tensor:
  """Packs the last dimension into int32, low bits first."""
  per_word = 32 // bits
  order = order or range(per_word)
  parts = values.astype(np.uint32).reshape(*values.shape[:-1], -1, per_word)
  words = np.zeros(parts.shape[:-1], dtype=np.uint32)
  for i, which in enumerate(order):
    words |= parts[..., which] << np.uint32(bits * i)
  return torch.from_numpy(words.view(np.int32).copy())


def gptq(weight, bits=4, size=32, symmetric=True, order=None, v2=False) -> Quantized:
  codes, scales, zeros, index = integer_codes(weight, bits, size, symmetric, order)
  if not v2:
    zeros = np.maximum(zeros, 1)  # 0 has no place in the first format
    wide = scales.astype(np.float64)[:, index]
    codes = np.clip(np.round(weight.double().numpy() / wide) + zeros[:, index], 0, 2**bits - 1)
    codes = codes.astype(np.int64)
  stored = zeros if v2 else zeros - 1
  return Quantized(
      {
          "qweight": pack(codes, bits).T.contiguous(),
          "qzeros": pack(stored.T, bits),
          "scales": torch.from_numpy(scales.T.copy()),
          "g_idx": torch.from_numpy(index.astype(np.int32)),
      },
      codes - zeros[:, index],
      scales.astype(np.float32)[:, index],
      # As stored, 8 bits with zero points have no format of their own.
      as_bf16=order is not None or (bits == 8 and not symmetric),
  )


def awq(weight, size=32) -> Quantized:
  codes, scales, zeros, index = integer_codes(weight, 4, size, False)
  order = [0, 2, 4, 6, 1, 3, 5, 7]
  return Quantized(
      {
          "qweight": pack(codes.T, 4, order),
          "qzeros": pack(zeros.T, 4, order),
          "scales": torch.from_numpy(scales.T.copy()),
      },
      codes - zeros[:, index],
      scales.astype(np.float32)[:, index],
  )


def fp8(weight, block=None, name="weight_scale_inv") -> Quantized:
  rows, columns = weight.shape
  high, wide = block or (rows, columns)
  w = weight.double()
  scales = torch.zeros(-(-rows // high), -(-columns // wide), dtype=torch.float32)
  elements = torch.zeros(rows, columns, dtype=torch.float32)
  for i in range(scales.shape[0]):
    for j in range(scales.shape[1]):
      at = np.s_[i * high : (i + 1) * high, j * wide : (j + 1) * wide]
      scales[i, j] = w[at].abs().max() / 448
      elements[at] = scales[i, j]
  stored = (w / elements.double()).to(torch.float8_e4m3fn)
  tensors = {"weight": stored, name: scales if block else scales.reshape(())}
  if not block:
    tensors["input_scale"] = torch.tensor(0.01)
  return Quantized(tensors, stored.float().numpy(), elements.numpy(), as_bf16=True)


def compressed(weight, format_name, args, dtype=torch.bfloat16) -> Quantized:
  """By the compressed-tensors package, which also says what the tensors mean."""
  scheme = QuantizationScheme(targets=["Linear"], weights=QuantizationArgs(**args))
  weights = scheme.weights
  if args["strategy"] == "group":
    parts = weight.reshape(weight.shape[0], -1, args["group_size"])
    low, high = parts.amin(-1), parts.amax(-1)
  elif args["strategy"] == "channel":
    low, high = weight.amin(1, keepdim=True), weight.amax(1, keepdim=True)
  elif args["strategy"] == "block":
    rows, columns = args["block_structure"]
    parts = weight.reshape(weight.shape[0] // rows, rows, -1, columns)
    low, high = parts.amin((1, 3)), parts.amax((1, 3))
  else:
    low, high = weight.min().reshape(1), weight.max().reshape(1)
  scale, zero = calculate_qparams(low, high, weights)
  state = {"weight": weight, "weight_scale": scale.to(dtype)}
  if not weights.symmetric:
    state["weight_zero_point"] = zero
  packer = BaseCompressor.get_value_from_registry(format_name)
  stored = packer.compress(state, scheme)
  # Values in float32: the package multiplies in the type of the scales.
  exact = packer.decompress(
      {**stored, "weight_scale": stored["weight_scale"].float()}, scheme
  )["weight"].float()
  elements = scale.to(dtype).float()
  if args["strategy"] == "group":
    elements = elements.repeat_interleave(args["group_size"], dim=1)
  elif args["strategy"] == "block":
    elements = elements.repeat_interleave(rows, dim=0).repeat_interleave(columns, dim=1)
  elements = elements.expand_as(weight).numpy()
  codes = exact.numpy().astype(np.float64) / elements
  is_float = args["type"] == "float"
  codes = codes.astype(np.float32) if is_float else np.round(codes)
  result = Quantized(stored, codes, elements)
  assert (result.float32() == exact.numpy()).all()
  result.as_bf16 = is_float or (args["num_bits"] == 8 and not args["symmetric"])
  return result


def weights_args(bits, strategy, kind="int", symmetric=True, **more):
  return {"num_bits": bits, "type": kind, "symmetric": symmetric, "strategy": strategy, **more}


def config_group(format_name, args, targets=("Linear",), **more):
  group = {"weights": args, "input_activations": None, "output_activations": None, **more}
  return {"targets": list(targets), "format": format_name, **group}


def compressed_config(groups, ignore=("lm_head",), format_name="pack-quantized", **more):
  return {
      "quant_method": "compressed-tensors",
      "quantization_status": "compressed",
      "format": format_name,
      "config_groups": {f"group_{i}": g for i, g in enumerate(groups)},
      "ignore": list(ignore),
      "kv_cache_scheme": None,
      **more,
  }


@dataclasses.dataclass
class Case:
  name: str
  config: dict[str, object]
  quantize: object  # (module name, weight) -> Quantized or None
  family: str = "llama"
  shape: dict[str, object] = dataclasses.field(default_factory=dict)
  dtype: torch.dtype = torch.bfloat16
  extra: dict[str, torch.Tensor] = dataclasses.field(default_factory=dict)


def in_body(make):
  return lambda name, weight: make(weight) if name in BODY else None


def by_args(format_name, args):
  return in_body(lambda weight: compressed(weight, format_name, args))


def shuffled(weight):
  return np.random.default_rng(weight.shape[1]).permutation(weight.shape[1])


def gptq_config(bits, size, **more):
  return {"quant_method": "gptq", "bits": bits, "group_size": size, "desc_act": False,
          "sym": True, **more}


def make_cases() -> list[Case]:
  int4 = weights_args(4, "group", group_size=32)
  channel4 = weights_args(4, "channel", symmetric=False)
  group8 = weights_args(8, "group", group_size=64)
  channel8 = weights_args(8, "channel")
  asymmetric8 = weights_args(8, "channel", symmetric=False)
  block8 = weights_args(8, "block", "float", block_structure=[16, 32])
  tensor8 = weights_args(8, "tensor", "float")
  embedding8 = weights_args(8, "group", group_size=32)
  dynamic = {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "token", "dynamic": True}
  embedding = "model.embed_tokens"

  def gptq_int8(name, weight):
    if name.endswith("down_proj"):
      return None
    return gptq(weight, 8, -1) if name in BODY or name == "lm_head" else None

  def with_embedding(name, weight):
    if name == embedding:
      return compressed(weight, "int-quantized", embedding8)
    return compressed(weight, "pack-quantized", int4) if name in BODY else None

  # Matrices that are used as one, each stored in another way.
  def mixed(name, weight):
    part = name.rpartition(".")[2]
    if part in ("k_proj", "up_proj"):
      return compressed(weight, "int-quantized", channel8)
    if part == "v_proj" or name not in BODY:
      return None
    return compressed(weight, "pack-quantized", int4)

  return [
      Case("gptq_int4", gptq_config(4, 32), in_body(gptq), dtype=torch.float16),
      Case("gptq_int4_zeros_v2",
           gptq_config(4, 64, sym=False, checkpoint_format="gptq_v2"),
           in_body(lambda w: gptq(w, 4, 64, False, v2=True)), dtype=torch.float16),
      Case("gptq_int4_act_order", gptq_config(4, 32, sym=False, desc_act=True),
           in_body(lambda w: gptq(w, 4, 32, False, shuffled(w))), dtype=torch.float16),
      Case("gptq_int8_channel_head",
           gptq_config(8, -1, lm_head=True, desc_act=True, dynamic={"-:.*down_proj": {}}),
           gptq_int8),
      Case("gptq_int8_zeros", gptq_config(8, 32, sym=False),
           in_body(lambda w: gptq(w, 8, 32, False))),
      Case("awq_int4",
           {"quant_method": "awq", "bits": 4, "group_size": 32, "zero_point": True,
            "version": "gemm", "modules_to_not_convert": ["down_proj"]},
           lambda name, w: awq(w) if name in BODY and "down" not in name else None,
           family="qwen3", dtype=torch.float16),
      Case("ct_int4_group", compressed_config([config_group("pack-quantized", int4)]),
           by_args("pack-quantized", int4)),
      Case("ct_int4_channel_zeros",
           compressed_config([config_group("pack-quantized", channel4)], ignore=["re:lm_.*"]),
           by_args("pack-quantized", channel4), family="qwen3"),
      Case("ct_int8_packed", compressed_config([config_group("pack-quantized", group8)]),
           lambda name, w: compressed(w, "pack-quantized", group8)
           if name in BODY and w.shape[1] % 64 == 0 else None,
           shape={"intermediate_size": 192, "num_attention_heads": 4}),
      Case("ct_int8_dynamic",
           compressed_config([config_group("int-quantized", channel8, input_activations=dynamic)],
                             format_name="int-quantized"),
           by_args("int-quantized", channel8)),
      Case("ct_int8_zeros",
           compressed_config([config_group("int-quantized", asymmetric8)],
                             format_name="int-quantized"),
           by_args("int-quantized", asymmetric8)),
      Case("ct_fp8_block",
           compressed_config([config_group("float-quantized", block8)],
                             format_name="float-quantized"),
           by_args("float-quantized", block8)),
      Case("ct_fp8_tensor",
           compressed_config([config_group("float-quantized", tensor8)],
                             format_name="float-quantized",
                             kv_cache_scheme={"num_bits": 8, "type": "float"}),
           by_args("float-quantized", tensor8),
           extra={LAYER + "self_attn.k_scale": torch.tensor([0.02]),
                  LAYER + "self_attn.v_scale": torch.tensor([0.02])}),
      Case("ct_embedding_int8",
           compressed_config(
               [config_group("pack-quantized", int4),
                config_group("int-quantized", embedding8, targets=["re:.*embed_tokens"])],
               ignore=[], format_name="mixed-precision"),
           with_embedding, shape={"tie_word_embeddings": True}),
      Case("fp8_block",
           {"quant_method": "fp8", "activation_scheme": "dynamic", "fmt": "e4m3",
            "weight_block_size": [48, 32]},
           in_body(lambda w: fp8(w, (48, 32))), family="qwen3"),
      Case("fp8_tensor",
           {"quant_method": "fp8", "activation_scheme": "static",
            "modules_to_not_convert": ["lm_head"]},
           in_body(lambda w: fp8(w, None, "weight_scale"))),
      Case("ct_mixed",
           compressed_config(
               [config_group("pack-quantized", int4,
                             targets=[f"re:.*{p}_proj" for p in ("q", "o", "gate", "down")]),
                config_group("int-quantized", channel8, targets=["re:.*k_proj", "re:.*up_proj"])],
               ignore=["lm_head", "re:.*v_proj"], format_name="mixed-precision"),
           mixed),
  ]


@torch.no_grad()
def make_case(case: Case, seed: int, folder: pathlib.Path) -> None:
  shutil.rmtree(folder, ignore_errors=True)
  config = transformers.AutoConfig.for_model(case.family, **{**SHAPE, **case.shape})
  config.torch_dtype = case.dtype
  model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager")
  generator = torch.Generator().manual_seed(seed)
  for name, parameter in model.named_parameters():
    values = 0.2 * torch.randn(parameter.shape, generator=generator)
    values = 1 + values if name.endswith("norm.weight") else values
    # Parameters alone: the rotation's frequencies must not be rounded.
    parameter.copy_(values.to(case.dtype).float())

  tensors, digests, exact = dict(case.extra), {}, {}
  for name, parameter in model.named_parameters():
    module = name.removesuffix(".weight")
    quantized = case.quantize(module, parameter.data) if parameter.ndim == 2 else None
    if quantized is None:
      tensors[name] = parameter.data.to(case.dtype)
      continue
    for part, tensor in quantized.tensors.items():
      tensors[f"{module}.{part}"] = tensor
    digests[module] = {
        "as_bf16": quantized.as_bf16,
        "float32": fnv(quantized.float32().view(np.uint32)),
        "bfloat16": fnv(quantized.bfloat16_bits()),
    }
    exact[name] = torch.from_numpy(quantized.values())

  folder.mkdir(parents=True)
  save_file({k: v.contiguous() for k, v in tensors.items()}, folder / "model.safetensors",
            metadata={"format": "pt"})
  written = config.to_dict()
  written.update(architectures=[type(model).__name__], quantization_config=case.config,
                 torch_dtype=str(case.dtype).removeprefix("torch."))
  text = json.dumps(written, indent=2, sort_keys=True, default=str) + "\n"
  (folder / "config.json").write_text(text, encoding="utf-8")

  model = model.double().eval()
  for name, parameter in model.named_parameters():
    if name in exact:  # the model's own type would have rounded them
      parameter.copy_(exact[name])
  rng = np.random.default_rng(seed)
  prompts = []
  for length in (5, 40):
    prompt = rng.integers(3, config.vocab_size, length).tolist()
    logits = model(input_ids=torch.tensor([prompt]), use_cache=False).logits[0, -1]
    prompts.append({"prompt": prompt, "logits": [round(v, 9) for v in logits.tolist()]})
  golden = {
      "made_by": {"script": "tests/golden/make_quantized_golden.py", "torch": torch.__version__,
                  "transformers": transformers.__version__},
      "modules": digests,
      "prompts": prompts,
  }
  (folder / "golden.json").write_text(json.dumps(golden) + "\n", encoding="utf-8")


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  here = pathlib.Path(__file__).resolve().parent
  parser.add_argument("--out", type=pathlib.Path, default=here / "quantized")
  args = parser.parse_args()
  transformers.logging.set_verbosity_error()
  for seed, case in enumerate(make_cases(), start=1):
    make_case(case, seed, args.out / case.name)
    print(case.name)


if __name__ == "__main__":
  main()
