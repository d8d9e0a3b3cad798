#!/usr/bin/env python3
"""Measures Tandem against llama.cpp on this machine.

  scripts/compare_llama_cpp.py --models DIR [--shapes 1b,8b] [--formats bf16,q8_0,q4_0]

DIR/SHAPE are model folders (scripts/make_synthetic_model.py writes them). The first use builds
llama.cpp from PyPI's source (llama-cpp-python) into --venv, for this processor's instructions and
with repacking at run time. llama.cpp gets random weights of the same shape, and the output head in
the same format. Both programs stay loaded and take turns, round by round; the result is the median
of the rounds' ratios. Keep the machine idle. Prints tables; --json FILE keeps every figure.
"""

import argparse
import json
import os
import pathlib
import shlex
import statistics
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent
PACKAGES = ["llama-cpp-python==0.3.36", "gguf", "numpy"]
BUILD_FLAGS = "-DGGML_NATIVE=ON -DGGML_CPU_REPACK=ON -DLLAVA_BUILD=OFF"
# Both programs store a weight in the same number of bits: groups of 32 with a 16-bit scale.
TANDEM = {
    "bf16": "--dtype bf16",
    "q8_0": "--dtype int8 --group-size 32 --head-dtype int8",
    "q4_0": "--dtype int4 --group-size 32 --head-dtype int4",
}
CELLS = "prefill:1:512,decode:1:512,decode:16:128"
# At 8B, a round of the last cell takes minutes.
CELLS_OF = {"8b": "prefill:1:512,decode:1:512"}


def fail(message: str) -> None:
  sys.exit(f"compare_llama_cpp: {message}")


def build_llama(venv: pathlib.Path) -> str:
  """The interpreter of an environment that has llama.cpp."""
  python = venv / "bin" / "python3"
  check = [python, "-c", "import llama_cpp, gguf"]
  if python.exists() and subprocess.run(check, capture_output=True).returncode == 0:
    return str(python)
  print(f"building llama.cpp into {venv} (tens of minutes)", file=sys.stderr)
  env = dict(os.environ, CMAKE_ARGS=BUILD_FLAGS)
  try:
    subprocess.run([sys.executable, "-m", "venv", venv], check=True, capture_output=True)
    subprocess.run(
        [python, "-m", "pip", "install", "-q", "--no-binary", "llama-cpp-python", *PACKAGES],
        check=True, capture_output=True, text=True, env=env)
  except subprocess.CalledProcessError as error:
    last = (error.stderr or "no output").strip().splitlines()[-1:]
    fail(f"llama.cpp cannot be built here: {' '.join(map(str, last))}")
  return str(python)


class Llama:
  def __init__(self, python: str, gguf: pathlib.Path, threads: int, cells: str):
    self.process = subprocess.Popen(
        [python, HERE / "llama_cpp_runner.py", "run", gguf, str(threads), cells],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    self.read()

  def read(self):
    line = self.process.stdout.readline()
    if not line:
      fail("llama.cpp's side ended")
    return json.loads(line)

  def round(self) -> list[float]:
    self.process.stdin.write("go\n")
    self.process.stdin.flush()
    return self.read()

  def close(self) -> None:
    self.process.stdin.close()
    self.process.wait()


class Tandem:
  def __init__(self, binary: str, model: pathlib.Path, how: str, cells: str, rounds: int):
    command = [binary, "bench", model, "--json", "--paced", "--cells", cells, "--repeats",
               str(rounds - 1), "--warmup", "1", *shlex.split(how)]
    self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                    stderr=subprocess.PIPE, text=True)
    self.wait("waiting")

  def wait(self, word: str) -> None:
    seen = []
    while True:
      line = self.process.stderr.readline()
      if not line:
        fail("tandem bench ended: " + " ".join(seen).strip())
      if line.startswith("bench: " + word):
        return
      seen.append(line)

  def round(self) -> None:
    self.process.stdin.write("go\n")
    self.process.stdin.flush()
    self.wait("round")

  def report(self) -> dict:
    out, err = self.process.communicate()
    if self.process.returncode != 0:
      fail("tandem bench failed: " + err.strip())
    return json.loads(out)


def compare(shape: str, fmt: str, args, python: str) -> dict:
  model = pathlib.Path(args.models) / shape
  if not (model / "config.json").exists():
    fail(f"{model} is not a model folder; scripts/make_synthetic_model.py makes one")
  work = pathlib.Path(args.work)
  work.mkdir(parents=True, exist_ok=True)
  gguf = work / f"{shape}-{fmt}.gguf"
  runner = str(HERE / "llama_cpp_runner.py")
  subprocess.run([python, runner, "make", model / "config.json", fmt, gguf], check=True)
  cells = args.cells or CELLS_OF.get(shape, CELLS)
  rounds = args.repeats + 1  # the first is the warm-up of both
  llama = Llama(python, gguf, args.threads, cells)
  how = f"{TANDEM[fmt]} --threads {args.threads}"
  if args.packed_cache and "--dtype int" in how:
    how += f" --packed-cache {shlex.quote(args.packed_cache)}"
  tandem = Tandem(args.tandem, model, how, cells, rounds)
  theirs = []
  for number in range(rounds):
    print(f"{shape} {fmt}: round {number + 1} of {rounds}", file=sys.stderr)
    theirs.append(llama.round())
    if number > 0:
      tandem.wait("waiting")
    tandem.round()
  report = tandem.report()
  llama.close()
  gguf.unlink()
  theirs = theirs[1:]
  rows = []
  for i, result in enumerate(report["results"]):
    base = [figures[i] for figures in theirs]
    rows.append({
        "cell": f"{result['phase']} {result['batch']} x {result['context']}",
        "llama_tokens_per_s": statistics.median(base),
        "tandem_tokens_per_s": result["tokens_per_s"],
        "ratio": statistics.median(own / other for own, other in zip(result["runs"], base)),
        "bandwidth_fraction": result["bandwidth_fraction"],
        "peak_fraction": result["peak_fraction"],
        "llama_runs": base, "tandem_runs": result["runs"]})
  return {"shape": shape, "format": fmt, "read_gbps": report["read_gbps"],
          "peak_gops": report["peak_gops"], "weights": report["weights"], "rows": rows}


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__,
                                   formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--models", required=True, help="folder of the shapes' model folders")
  parser.add_argument("--shapes", default="1b")
  parser.add_argument("--formats", default="bf16,q8_0,q4_0")
  parser.add_argument("--cells", default="", help=f"default {CELLS}; 8b without the last")
  parser.add_argument("--threads", type=int, default=os.cpu_count())
  parser.add_argument("--repeats", type=int, default=5)
  parser.add_argument("--tandem", default=str(HERE.parent / "build/release/tandem"))
  parser.add_argument("--packed-cache", default="", help="as tandem's; saves quantizing again")
  parser.add_argument("--venv", type=pathlib.Path, default=pathlib.Path("/opt/llama"))
  parser.add_argument("--work", default="/tmp/compare_llama_cpp", help="for the GGUF files")
  parser.add_argument("--json", help="file for all figures")
  args = parser.parse_args()
  for fmt in args.formats.split(","):
    if fmt not in TANDEM:
      fail(f"--formats: found '{fmt}', expected some of {', '.join(TANDEM)}")
  python = build_llama(args.venv)
  results = []
  for shape in args.shapes.split(","):
    for fmt in args.formats.split(","):
      result = compare(shape, fmt, args, python)
      results.append(result)
      print(f"{shape} {fmt} against {result['weights']}, {args.threads} threads; "
            f"reads {result['read_gbps']:.1f} GB/s, peak {result['peak_gops']:.0f} GOP/s")
      print(f"  {'':20} {'llama.cpp':>10} {'tandem':>10} {'ratio':>7} {'of reads':>9} "
            f"{'of peak':>8}")
      for row in result["rows"]:
        print(f"  {row['cell']:20} {row['llama_tokens_per_s']:10.1f} "
              f"{row['tandem_tokens_per_s']:10.1f} {row['ratio']:7.2f} "
              f"{row['bandwidth_fraction']:9.0%} {row['peak_fraction']:8.0%}", flush=True)
      if args.json:
        pathlib.Path(args.json).write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
  main()
