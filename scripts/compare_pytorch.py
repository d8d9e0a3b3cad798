#!/usr/bin/env python3
"""Measures decoding of the same shape in PyTorch, to compare with decoder_bench of tests/bench.

A step is a CUDA graph of plain modules: linear, rms_norm, scaled_dot_product_attention over a static
KV cache; q, k and v are one product, gate and up another. The weights are random. Logits stay on the
GPU, while decoder_bench copies them to the host. Prints a JSON line for each batch. Exits with 77 if
PyTorch is missing, or if the device is cuda and there is no GPU.

  scripts/compare_pytorch.py --shape 8b --batches 1,64 --context 1024
"""

import argparse
import json
import statistics
import sys
import time

# hidden, FFN, layers, heads, KV heads, head_dim, vocabulary
SHAPES = {
    "tiny": (128, 352, 2, 8, 4, 16, 1024),
    "1b": (2048, 8192, 16, 32, 8, 64, 128256),
    "8b": (4096, 14336, 32, 32, 8, 128, 128256),
}
SKIPPED = 77


class Decoder:
  """One step of one token for each sequence, at the end of contexts of one length."""

  def __init__(self, torch, shape, layers, batch, context, device):
    self.torch = torch
    self.hidden, self.ffn, self.layers, self.heads, self.kv_heads, self.d, self.vocab = shape
    self.layers = layers or self.layers
    self.batch, self.context = batch, context

    def random(*size):
      return torch.randn(*size, dtype=torch.bfloat16, device=device) * 0.02

    width = (self.heads + 2 * self.kv_heads) * self.d
    self.weights = [
        dict(
            input_norm=torch.ones(self.hidden, dtype=torch.bfloat16, device=device),
            post_norm=torch.ones(self.hidden, dtype=torch.bfloat16, device=device),
            qkv=random(width, self.hidden),
            o=random(self.hidden, self.heads * self.d),
            gate_up=random(2 * self.ffn, self.hidden),
            down=random(self.hidden, self.ffn),
        )
        for _ in range(self.layers)
    ]
    self.final_norm = torch.ones(self.hidden, dtype=torch.bfloat16, device=device)
    self.embedding = random(self.vocab, self.hidden)
    self.head = random(self.vocab, self.hidden)
    self.cache = [
        [random(batch, self.kv_heads, context, self.d) for _ in range(2)]
        for _ in range(self.layers)
    ]
    self.ids = torch.randint(self.vocab, (batch,), device=device)
    angles = (context - 1) * 500000.0 ** -(torch.arange(0, self.d, 2, device=device) / self.d)
    self.cos = torch.cat([angles.cos()] * 2).to(torch.bfloat16)
    self.sin = torch.cat([angles.sin()] * 2).to(torch.bfloat16)

  def bytes(self):
    """That a step reads: weights but the embedding, and the cache."""
    tensors = [t for layer in self.weights for t in layer.values()] + [self.head, self.final_norm]
    tensors += [t for pair in self.cache for t in pair]
    return sum(t.numel() * t.element_size() for t in tensors)

  def rotate(self, x):
    half = self.d // 2
    turned = self.torch.cat((-x[..., half:], x[..., :half]), dim=-1)
    return x * self.cos + turned * self.sin

  def step(self):
    F = self.torch.nn.functional
    x = F.embedding(self.ids, self.embedding)
    for weights, (k_cache, v_cache) in zip(self.weights, self.cache):
      qkv = F.linear(F.rms_norm(x, (self.hidden,), weights["input_norm"]), weights["qkv"])
      qkv = qkv.view(self.batch, -1, self.d)
      q, k, v = qkv.split([self.heads, self.kv_heads, self.kv_heads], dim=1)
      k_cache[:, :, self.context - 1] = self.rotate(k)
      v_cache[:, :, self.context - 1] = v
      # Heads that share K and V go as if they were positions of one head: no copy is repeated.
      grouped = self.rotate(q).view(self.batch, self.kv_heads, -1, self.d)
      attended = F.scaled_dot_product_attention(grouped, k_cache, v_cache)
      x = x + F.linear(attended.reshape(self.batch, -1), weights["o"])
      gate, up = F.linear(
          F.rms_norm(x, (self.hidden,), weights["post_norm"]), weights["gate_up"]).chunk(2, dim=-1)
      x = x + F.linear(F.silu(gate) * up, weights["down"])
    return F.linear(F.rms_norm(x, (self.hidden,), self.final_norm), self.head)


def measure(torch, decoder, device, steps, repeats):
  """Seconds of a step, one figure for each repeat."""
  if device == "cuda":
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
      for _ in range(3):
        decoder.step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
      decoder.step()
    run, wait = graph.replay, torch.cuda.synchronize
  else:
    run, wait = decoder.step, lambda: None
  seconds = []
  for repeat in range(-1, repeats):
    wait()
    begin = time.perf_counter()
    for _ in range(steps):
      run()
      wait()  # as a server must, for the next token
    if repeat >= 0:
      seconds.append((time.perf_counter() - begin) / steps)
  return seconds


def main(argv):
  parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
  parser.add_argument("--shape", choices=SHAPES, default="8b")
  parser.add_argument("--layers", type=int, default=0, help="0: the shape's")
  parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
  parser.add_argument("--batches", default="1,64")
  parser.add_argument("--context", type=int, default=1024)
  parser.add_argument("--steps", type=int, default=10)
  parser.add_argument("--repeats", type=int, default=5)
  options = parser.parse_args(argv)
  try:
    import torch
  except ImportError:
    print("compare_pytorch: skipped: there is no PyTorch", file=sys.stderr)
    return SKIPPED
  if options.device == "cuda" and not torch.cuda.is_available():
    print("compare_pytorch: skipped: PyTorch sees no GPU", file=sys.stderr)
    return SKIPPED
  with torch.inference_mode():
    for batch in [int(part) for part in options.batches.split(",")]:
      decoder = Decoder(torch, SHAPES[options.shape], options.layers, batch, options.context,
                        options.device)
      seconds = measure(torch, decoder, options.device, options.steps, options.repeats)
      median = statistics.median(seconds)
      print(
          json.dumps({
              "what": "pytorch",
              "version": torch.__version__,
              "device": options.device,
              "shape": options.shape,
              "layers": decoder.layers,
              "format": "bf16",
              "batch": batch,
              "context": options.context,
              "step_us": {
                  "median": median * 1e6,
                  "min": min(seconds) * 1e6,
                  "max": max(seconds) * 1e6
              },
              "tokens_per_s": batch / median,
              "bytes_per_s": decoder.bytes() / median,
          }), flush=True)
      del decoder
  return 0


if __name__ == "__main__":
  sys.exit(main(sys.argv[1:]))
