#!/usr/bin/env python3
"""Prints the storage table of docs/quantization.md: the size and the loss of each format.

  scripts/quantization_table.py [--work DIR] [--speed-model MODEL]

For the demo model and every format, it prints
  - the bytes of the matrices in the folder that `tandem quantize` writes (for 16 and 32 bits: of the
    source's matrices),
  - the loss on the held-out text, which `tandem eval` measures against the model as stored,
  - how many of the 500 held-out tasks are answered exactly (greedily, through gRPC),
  - the size of the same format for Llama-3.1-8B, computed from its shapes.
With --speed-model (a folder that scripts/make_synthetic_model.py wrote) it also prints the speeds
that `tandem bench` measures: decode after 512 tokens and prefill of 512, one sequence. Keep the
machine idle then. Needs the build's Python stubs (TANDEM_PYTHON_STUBS names another place).
"""

import argparse
import concurrent.futures
import json
import pathlib
import shutil
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests/e2e"))
import worlds  # noqa: E402

TEXT = ROOT / "tests/models/demo_text.txt"
CALIBRATION = ROOT / "tests/models/demo_calibration.txt"
EVEN_GBPS = 50
TASKS = ROOT / "tests/models/demo_tasks.jsonl"


class Shape:
  """Rows and columns of the matrices: of the layers, and of embedding and head."""

  def __init__(self, hidden, inner, layers, q, kv, vocab, tied):
    self.body = [(q, hidden), (kv, hidden), (kv, hidden), (hidden, q), (inner, hidden),
                 (inner, hidden), (hidden, inner)] * layers
    self.ends = [(vocab, hidden)] * (1 if tied else 2)
    self.norms = (2 * layers + 1) * hidden

  def stored(self, bytes_each):
    return bytes_each * (sum(r * c for r, c in self.body + self.ends) + self.norms)

  def quantized(self, bits, group, zero_points, head_bits=8, scale_bytes=2):
    def of(matrices, bits, zero_points):
      total = 0
      for rows, columns in matrices:
        size = next(g for g in (group, 64, 32, 16, 8) if g <= group and columns % g == 0)
        total += rows * columns * bits // 8 + rows * columns // size * scale_bytes
        if zero_points:
          total += rows * columns // size // 2
      return total
    return of(self.body, bits, zero_points) + of(self.ends, head_bits, False) + 2 * self.norms


LLAMA_8B = Shape(4096, 14336, 32, 4096, 1024, 128256, tied=False)


def evaluate(model, *arguments):
  done = subprocess.run(
      [worlds.BINARY, "eval", model, "--text", TEXT, "--json", *map(str, arguments)],
      capture_output=True, text=True, check=True)
  return json.loads(done.stdout)


def accuracy(model, *arguments):
  tasks = [json.loads(line) for line in TASKS.read_text().splitlines()]
  with worlds.Server(model, *arguments) as server:
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
      texts = list(pool.map(
          lambda task: server.generate(task["prompt"], temperature=0.0, max_tokens=96)[0], tasks))
    server.stop()
  return sum(text.strip() == task["answer"].strip() for task, text in zip(tasks, texts)) / len(
      tasks)


class Speeds:
  """What formats of a model run at; each is measured once, since methods differ in values alone."""

  def __init__(self, model, work):
    self.model, self.work, self.known = model, work, {}

  def cells(self, how, zero_points=False):
    if self.model is None:
      return ""
    key = (*how, zero_points)
    if key not in self.known:
      if zero_points:  # only a folder can hold them
        folder = self.work / "speed"
        subprocess.run([worlds.BINARY, "quantize", self.model, folder, "--method", "rtn",
                        "--zero-points", *how], check=True, stdout=subprocess.DEVNULL)
        self.known[key] = self.measure(folder, [])
        shutil.rmtree(folder)
      else:
        self.known[key] = self.measure(self.model, how)
    return self.known[key]

  def measure(self, model, how):
    done = subprocess.run(
        [worlds.BINARY, "bench", model, "--json", "--cells", "decode:1:512,prefill:1:512",
         "--repeats", "5", *how], capture_output=True, text=True, check=True)
    decode, prefill = json.loads(done.stdout)["results"]
    # Hosts give other bandwidths from minute to minute: fractions compare, tokens alone do not.
    even = decode["bandwidth_fraction"] * EVEN_GBPS * decode["tokens_per_s"] / decode["gbps"]
    return (f" {100 * decode['bandwidth_fraction']:.0f} % | {even:.1f} | "
            f"{100 * prefill['peak_fraction']:.0f} % | {prefill['tokens_per_s']:.0f} |")


def tensor_bytes(folder):
  total = 0
  for path in folder.glob("*.safetensors"):
    with path.open("rb") as file:
      header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    total += sum(t["data_offsets"][1] - t["data_offsets"][0]
                 for name, t in header.items() if name != "__metadata__")
  return total


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--work", type=pathlib.Path)
  parser.add_argument("--speed-model", type=pathlib.Path)
  args = parser.parse_args()
  work = args.work or pathlib.Path(tempfile.mkdtemp(prefix="tandem_table_"))
  work.mkdir(exist_ok=True)
  reference = work / "reference.bin"
  stored_bytes = tensor_bytes(worlds.DEMO)
  print("| Format | Bytes of the demo model | of BF16 | KL divergence, mean | 99 % below | "
        "same top token | perplexity | tasks right | Llama-3.1-8B, GiB |" +
        (f" decode, of reads | that at {EVEN_GBPS} GB/s, tok/s | prefill, of peak | tok/s |"
         if args.speed_model else ""))
  print("|---" * (13 if args.speed_model else 9) + "|")
  speeds = Speeds(args.speed_model, work)

  def row(name, model, size, size_8b, speed, *arguments):
    against = ([] if not reference.exists() else ["--reference-logits", reference])
    found = evaluate(model, *arguments,
                     *(against or ["--logits", reference, "--reference", worlds.DEMO]))
    compared = found["reference"]
    print(f"| {name} | {size:,} | {size / stored_bytes:.3f} | {compared['kl_divergence']:.2e} | "
          f"{compared['kl_divergence_p99']:.2e} | {100 * compared['same_top_token']:.1f} % | "
          f"{found['perplexity']:.1f} | {100 * accuracy(model, *arguments):.1f} % | "
          f"{size_8b / 2**30:.2f} |{speed}", flush=True)

  row("BF16, as stored", worlds.DEMO, stored_bytes, LLAMA_8B.stored(2),
      speeds.cells(["--dtype", "bf16"]))
  for name, bytes_each in (("fp16", 2), ("fp32", 4)):
    how = ["--dtype", name]
    row(name.upper(), worlds.DEMO, bytes_each * stored_bytes // 2, LLAMA_8B.stored(bytes_each),
        speeds.cells(how), *how)
  for dtype, bits in (("int8", 8), ("int4", 4)):
    for group in (32, 64, 128):
      variants = [("search", [])] if bits == 8 else [
          (method, zeros) for zeros in ([], ["--zero-points"])
          for method in ("rtn", "search", "gptq")]
      for method, zeros in variants:
        out = work / f"{dtype}_{group}_{method}{'_zeros' if zeros else ''}"
        calibration = ["--calibration", CALIBRATION] if method == "gptq" else []
        how = ["--dtype", dtype, "--group-size", str(group)]
        subprocess.run([worlds.BINARY, "quantize", worlds.DEMO, out, *how, "--method", method,
                        *zeros, *calibration], check=True, stdout=subprocess.DEVNULL)
        name = f"{dtype.upper()}, {group}, {method}{', zero points' if zeros else ''}"
        row(name, out, tensor_bytes(out), LLAMA_8B.quantized(bits, group, bool(zeros)),
            speeds.cells(how, bool(zeros)))
        shutil.rmtree(out)
  reference.unlink()
  if args.work is None:
    work.rmdir()


if __name__ == "__main__":
  main()
