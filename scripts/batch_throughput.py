#!/usr/bin/env python3
"""Measures how busy `tandem batch` keeps the model, compared with the rates of `tandem bench`.

  scripts/batch_throughput.py MODEL [--rows 2000] [--batch 16] [--threads 2]

Runs ROWS mixed rows (prompts of 16 to 256 tokens, answers of 8 to 96) and prints

  (prompt tokens / prefill rate + output tokens / decode rate at the same batch) / wall time

The prefill rate is that of prompts of the average length, the decode rate that of --batch sequences
at the average context; both are measured right before and right after the job. A result of 1 means
that the model never waited. The wall time comes from the job's summary and does not include loading.
The rows are token ids, so the model needs no tokenizer.
"""

import argparse
import json
import os
import pathlib
import random
import statistics
import subprocess
import tempfile

SOURCE = pathlib.Path(__file__).resolve().parent.parent


def bench(binary, args, prompt, context):
  """(prefill, decode) tokens a second."""
  done = subprocess.run(
      [binary, "bench", args.model, *args.options, "--cells",
       f"prefill:1:{prompt},decode:{args.batch}:{context}", "--decode-tokens", "32", "--repeats",
       str(args.repeats), "--json"], check=True, stdout=subprocess.PIPE)
  rates = {cell["phase"]: cell["tokens_per_s"] for cell in json.loads(done.stdout)["results"]}
  return rates["prefill"], rates["decode"]


def main():
  parser = argparse.ArgumentParser(description=__doc__,
                                   formatter_class=argparse.RawTextHelpFormatter)
  parser.add_argument("model")
  parser.add_argument("--rows", type=int, default=2000)
  parser.add_argument("--batch", type=int, default=16)
  parser.add_argument("--threads", type=int, default=2)
  parser.add_argument("--tp", type=int, default=1)
  parser.add_argument("--repeats", type=int, default=3)
  args = parser.parse_args()
  args.options = ["--tp", str(args.tp), "--threads", str(args.threads)]
  binary = os.environ.get("TANDEM_BINARY", str(SOURCE / "build/release/tandem"))
  vocab = json.loads((pathlib.Path(args.model) / "config.json").read_text())["vocab_size"]

  draw = random.Random(1)
  rows = [{"id": i, "prompt_ids": [draw.randrange(3, vocab) for _ in range(draw.randint(16, 256))],
           "max_tokens": draw.randint(8, 96), "ignore_eos": True, "temperature": 0}
          for i in range(args.rows)]
  prompt = round(statistics.mean(len(row["prompt_ids"]) for row in rows))
  answer = round(statistics.mean(row["max_tokens"] for row in rows))
  context = prompt + answer // 2
  with tempfile.TemporaryDirectory() as folder:
    source = pathlib.Path(folder, "rows.jsonl")
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    before = bench(binary, args, prompt, context)
    done = subprocess.run(
        [binary, "batch", args.model, *args.options, "--max-num-seqs", str(args.batch), "--input",
         source, "--output", pathlib.Path(folder, "out.jsonl")], check=True, stdout=subprocess.PIPE)
    after = bench(binary, args, prompt, context)
  job = json.loads(done.stdout)
  prefill, decode = (statistics.mean(pair) for pair in zip(before, after))
  ideal = job["prompt_tokens"] / prefill + job["completion_tokens"] / decode
  print(json.dumps({
      "rows": job["finished"], "prompt_tokens": job["prompt_tokens"],
      "completion_tokens": job["completion_tokens"], "seconds": round(job["seconds"], 3),
      "prefill_tokens_per_s": round(prefill, 1), "decode_tokens_per_s": round(decode, 1),
      "throughput": round(ideal / job["seconds"], 3),
      "roofline_fraction": job["roofline_fraction"]}))


if __name__ == "__main__":
  main()
