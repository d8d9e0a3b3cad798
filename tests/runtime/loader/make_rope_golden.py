#!/usr/bin/env python3
"""Writes rope_golden.inc: inverse frequencies as Hugging Face Transformers computes them.

    python3 make_rope_golden.py > rope_golden.inc     (needs torch and transformers 4.x)

Each case is {name, head_dim, attention_factor, {frequencies as hexadecimal floats}}; the
configurations are those of Case() in rope_frequencies_test.cc, by name.
"""
import torch
import transformers
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

LLAMA31 = dict(rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
               original_max_position_embeddings=8192)
QWEN3_YARN = dict(rope_type="yarn", factor=4.0, original_max_position_embeddings=32768)
# Transformers before 4.57 took the factor from max_position_embeddings / original_..., later ones
# take the written one, as we do: they agree in all cases here.
CASES = {
    # name: (rope_theta, head_dim, max_position_embeddings, rope_scaling)
    "stories260k": (10000.0, 8, 512, None),
    "qwen3_8b": (1e6, 128, 40960, None),
    "linear": (10000.0, 80, 4096, dict(rope_type="linear", factor=3.0)),
    "llama31_8b": (5e5, 128, 131072, LLAMA31),
    "llama32_1b": (5e5, 64, 131072, {**LLAMA31, "factor": 32.0}),
    "qwen3_8b_yarn": (1e6, 128, 131072, QWEN3_YARN),
    "r1_0528_qwen3_8b": (1e6, 128, 131072, {**QWEN3_YARN, "attn_factor": 0.8782488562869419}),
    "yarn_not_truncated": (150000.0, 64, 131072, dict(
        rope_type="yarn", factor=32.0, original_max_position_embeddings=4096, beta_fast=32.0,
        beta_slow=1.0, truncate=False)),
    "yarn_mscale": (10000.0, 64, 163840, dict(
        rope_type="yarn", factor=40.0, original_max_position_embeddings=4096, mscale=1.0,
        mscale_all_dim=0.8)),
    "yarn_low_equals_high": (10000.0, 8, 64, dict(
        rope_type="yarn", factor=16.0, original_max_position_embeddings=4)),
}

print("// Made by make_rope_golden.py with transformers %s and torch %s. Do not edit." %
      (transformers.__version__, torch.__version__.split("+")[0]))
for name, (theta, head_dim, positions, scaling) in CASES.items():
    config = LlamaConfig(hidden_size=head_dim * 2, num_attention_heads=2, head_dim=head_dim,
                         max_position_embeddings=positions, rope_theta=theta,
                         rope_scaling=scaling)
    kind = scaling["rope_type"] if scaling else "default"
    frequencies, factor = ROPE_INIT_FUNCTIONS[kind](config, torch.device("cpu"))
    assert frequencies.dtype == torch.float32
    print('{"%s", %d, %s,\n {%s}},' % (
        name, head_dim, float(factor).hex(),
        ",\n  ".join(float(f).hex() + "f" for f in frequencies)))
