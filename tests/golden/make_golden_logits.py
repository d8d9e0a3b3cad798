#!/usr/bin/env python3
"""Makes the golden logits: small random models, and the logits of Transformers.

  python3 tests/golden/make_golden_logits.py

writes, for every case below, logits/NAME/ beside this script: a Hugging Face
folder and golden.json. Needs the packages in scripts/requirements-oracle.txt.

The logits are computed from the stored weights in float64, with eager
attention. Transformers computes the inner part of RMSNorm, the softmax and the
rotation's angles, sines and cosines always in float32, so the golden values have
an error of about 1e-6. `float32_difference` is their distance to the same
computation in float32, as a scale for tolerances.

In the YaRN cases max_position_embeddings is factor times the original length. If
it were not, Transformers 4 would use the ratio of the lengths and ignore factor,
which other programs do not do.
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
  import numpy as np
  import torch
  import transformers

# Rotary scaling only shows in sequences longer than this.
ORIGINAL_POSITIONS = 16
SHORT_PROMPT, LONG_PROMPT = 5, 45
GREEDY_TOKENS = 8
# A greedy token counts only if rounding cannot change it.
LEAST_MARGIN = 0.02

# 6 query heads on 2 KV heads; their 6 x 24 columns differ from the hidden 48.
SHAPE = {
    "vocab_size": 131,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 24,
    "max_position_embeddings": 64,
    "rope_theta": 10000.0,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": False,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def _yarn(**more: float) -> dict[str, object]:
  return {
      "rope_type": "yarn",
      "factor": 4.0,
      "original_max_position_embeddings": ORIGINAL_POSITIONS,
      **more,
  }


@dataclasses.dataclass(frozen=True)
class Case:
  """A model to make: what differs from SHAPE, and how it is stored."""

  name: str
  about: str
  family: str = "llama"
  shape: dict[str, object] = dataclasses.field(default_factory=dict)
  dtype: torch.dtype = torch.bfloat16
  shard_size: str = "1GB"
  newer_spelling: bool = False
  left_out: tuple[str, ...] = ()


CASES = (
    Case("llama_gqa", "Grouped queries; head_dim is not hidden / heads."),
    Case(
        "llama_mha_tied_fp32",
        "One KV head per query head, tied head, head_dim left out.",
        shape={
            "num_attention_heads": 4,
            "num_key_value_heads": 4,
            "head_dim": None,
            "tie_word_embeddings": True,
        },
        dtype=torch.float32,
        left_out=("head_dim",),
    ),
    Case(
        "llama_biases",
        "attention_bias and mlp_bias.",
        shape={"attention_bias": True, "mlp_bias": True},
    ),
    Case("llama_fp16", "Weights in fp16.", dtype=torch.float16),
    Case("llama_fp32", "Weights in fp32.", dtype=torch.float32),
    Case("llama_mqa", "One KV head.", shape={"num_key_value_heads": 1}),
    Case("llama_ffn_172", "FFN of 172.", shape={"intermediate_size": 172}),
    Case("llama_ffn_200", "FFN of 200.", shape={"intermediate_size": 200}),
    Case("llama_sharded", "Several files and an index.", shard_size="40KB"),
    Case(
        "llama_rope_llama3",
        "Rotary scaling of Llama 3.1.",
        shape={
            "rope_scaling": {
                "rope_type": "llama3",
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": ORIGINAL_POSITIONS,
            },
            "max_position_embeddings": 8 * ORIGINAL_POSITIONS,
        },
    ),
    Case(
        "llama_rope_linear",
        "Linear rotary scaling, with the key `type` of older folders.",
        shape={"rope_scaling": {"type": "linear", "factor": 4.0}},
    ),
    Case(
        "llama_rope_yarn",
        "YaRN; sines and cosines are scaled by 0.1 ln 4 + 1.",
        shape={"rope_scaling": _yarn()},
    ),
    Case(
        "llama_rope_yarn_attention_factor",
        "YaRN with an explicit attention_factor.",
        shape={"rope_scaling": _yarn(attention_factor=0.75)},
    ),
    Case(
        "llama_rope_yarn_betas",
        "YaRN with explicit beta_fast and beta_slow.",
        shape={"rope_scaling": _yarn(beta_fast=8.0, beta_slow=2.0)},
    ),
    Case(
        "llama_rope_parameters",
        "rope_parameters and dtype, as Transformers 5 writes them.",
        shape={"rope_scaling": _yarn(), "rope_theta": 5000.0},
        newer_spelling=True,
    ),
    Case(
        "qwen3_untied",
        "Norms on queries and keys.",
        family="qwen3",
        shape={"rms_norm_eps": 1e-6, "rope_theta": 1e6},
    ),
    Case(
        "qwen3_tied",
        "Tied head.",
        family="qwen3",
        shape={
            "rms_norm_eps": 1e-6,
            "rope_theta": 1e6,
            "tie_word_embeddings": True,
            "num_attention_heads": 8,
            "num_key_value_heads": 4,
            "head_dim": 16,
        },
    ),
    Case(
        "qwen3_rope_yarn",
        "YaRN on Qwen3.",
        family="qwen3",
        shape={"rope_scaling": _yarn()},
    ),
    Case(
        "qwen3_rope_yarn_attn_factor",
        "YaRN with `attn_factor`, as DeepSeek-R1-0528-Qwen3-8B writes it:"
        " Transformers ignores the key.",
        family="qwen3",
        shape={"rope_scaling": _yarn(attn_factor=0.8782488562869419)},
    ),
)


def make_model(case: Case, seed: int) -> transformers.PreTrainedModel:
  """Makes a model whose random weights spread the logits."""
  config = transformers.AutoConfig.for_model(
      case.family, **{**SHAPE, **case.shape}
  )
  model = transformers.AutoModelForCausalLM.from_config(config)
  generator = torch.Generator().manual_seed(seed)
  with torch.no_grad():
    for name, parameter in model.named_parameters():
      values = 0.2 * torch.randn(parameter.shape, generator=generator)
      is_norm = name.endswith("norm.weight")
      parameter.copy_(1 + values if is_norm else values)
  return model.to(case.dtype)


def edit_config(case: Case, path: pathlib.Path) -> None:
  """Makes config.json look as other versions of Transformers write it."""
  config = json.loads(path.read_text(encoding="utf-8"))
  for key in case.left_out:
    del config[key]
  if case.newer_spelling:
    config["rope_parameters"] = {
        **config.pop("rope_scaling"),
        "rope_theta": config.pop("rope_theta"),
    }
    config["dtype"] = config.pop("torch_dtype")
    config["transformers_version"] = "5.0.0"
  text = json.dumps(config, indent=2, sort_keys=True) + "\n"
  path.write_text(text, encoding="utf-8")


@torch.no_grad()
def last_logits(
    model: transformers.PreTrainedModel, tokens: list[int]
) -> torch.Tensor:
  return model(input_ids=torch.tensor([tokens]), use_cache=False).logits[0, -1]


def continue_greedily(
    model: transformers.PreTrainedModel, prompt: list[int]
) -> tuple[list[int], float]:
  """Returns the continuation and the least lead of a best token."""
  tokens, margin = list(prompt), float("inf")
  for _ in range(GREEDY_TOKENS):
    best = last_logits(model, tokens).topk(2)
    margin = min(margin, float(best.values[0] - best.values[1]))
    tokens.append(int(best.indices[0]))
  return tokens[len(prompt) :], margin


def make_golden_prompt(
    model: transformers.PreTrainedModel,
    model32: transformers.PreTrainedModel,
    length: int,
    rng: np.random.Generator,
) -> dict[str, object]:
  """Draws prompts until one has a clear greedy continuation."""
  while True:
    # Ids 0 to 2 stay out: they are special in many folders.
    prompt = rng.integers(3, model.config.vocab_size, length).tolist()
    greedy, margin = continue_greedily(model, prompt)
    if margin >= LEAST_MARGIN:
      break
  logits = last_logits(model, prompt)
  logits32 = last_logits(model32, prompt).double()
  return {
      "prompt": prompt,
      "greedy": greedy,
      "greedy_margin": margin,
      "float32_difference": float((logits - logits32).abs().max()),
      "logits": logits.tolist(),
  }


def make_case(case: Case, seed: int, folder: pathlib.Path) -> None:
  shutil.rmtree(folder, ignore_errors=True)
  make_model(case, seed).save_pretrained(
      folder, max_shard_size=case.shard_size
  )
  (folder / "generation_config.json").unlink(missing_ok=True)

  def load(dtype: torch.dtype) -> transformers.PreTrainedModel:
    model = transformers.AutoModelForCausalLM.from_pretrained(
        folder, torch_dtype=torch.float32, attn_implementation="eager"
    )
    return model.to(dtype).eval()

  model, model32 = load(torch.float64), load(torch.float32)
  # After loading, since an older Transformers does not know the newer keys.
  edit_config(case, folder / "config.json")

  rng = np.random.default_rng(seed)
  golden = {
      "about": case.about,
      "made_by": {
          "script": "tests/golden/make_golden_logits.py",
          "compute": "float64; float32 in RMSNorm, softmax and rotary angles",
          "torch": torch.__version__,
          "transformers": transformers.__version__,
      },
      "prompts": [
          make_golden_prompt(model, model32, length, rng)
          for length in (SHORT_PROMPT, LONG_PROMPT)
      ],
  }
  text = json.dumps(golden) + "\n"
  (folder / "golden.json").write_text(text, encoding="utf-8")


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  here = pathlib.Path(__file__).resolve().parent
  parser.add_argument("--out", type=pathlib.Path, default=here / "logits")
  args = parser.parse_args()
  transformers.logging.set_verbosity_error()
  for seed, case in enumerate(CASES, start=1):
    make_case(case, seed, args.out / case.name)
    print(case.name)


if __name__ == "__main__":
  main()
