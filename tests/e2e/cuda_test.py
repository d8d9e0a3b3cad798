"""The commands with `--device cuda`, on emulated GPUs. The ranks are processes that share one GPU,
so that they add up through host memory (staged)."""

import json
import os
import pathlib
import re
import signal
import tempfile
import time
import unittest

import worlds

CUDA = ["--device", "cuda", "--kv-memory", "1MiB", "--max-num-seqs", "4"]


def prompt():
  rows = (worlds.SOURCE / "tests/models/demo_tasks.jsonl").read_text().splitlines()
  return json.loads(rows[0])["prompt"]


class Commands(unittest.TestCase):

  def test_generate_gives_the_tokens_of_cpus(self):
    expected = worlds.generate(worlds.DEMO, prompt(), "--temperature", "0", "--tp", 1)
    for tp in (1, 2):
      found = worlds.generate(worlds.DEMO, prompt(), "--temperature", "0", "--tp", tp, *CUDA[:2])
      self.assertEqual(found["token_ids"], expected["token_ids"])

  def test_deterministic_gives_the_same_bits_at_every_degree(self):
    hashes = set()
    for tp in (1, 2, 3):
      found = worlds.generate(worlds.DEMO, prompt(), "--temperature", "0", "--max-tokens", 8,
                              "--tp", tp, "--deterministic", *CUDA[:2])
      hashes.add(found["logits_hash"])
    self.assertEqual(len(hashes), 1, hashes)

  def test_serve_streams_and_drains(self):
    with worlds.Server(worlds.DEMO, "--tp", 2, *CUDA) as server:
      alone = server.generate(prompt(), temperature=0.0)
      self.assertEqual(alone[0], worlds.generate(worlds.DEMO, prompt(), "--temperature", "0",
                                                 "--tp", 1)["text"])
      drawn = [server.generate(prompt(), temperature=1.5, seed=3, max_tokens=12)[1]
               for _ in range(2)]
      self.assertEqual(drawn[0], drawn[1])
      status = server.stub.GetServerStatus(worlds.pb.GetServerStatusRequest(), timeout=10)
      self.assertEqual(len(status.ranks), 2)
      code, errors = server.stop()
      self.assertEqual(code, 0, errors)

  def test_a_killed_rank_ends_the_world(self):
    server = worlds.Server(worlds.DEMO, "--tp", 2, "--max-restarts", 0, *CUDA)
    with server:
      ranks = [pid for pid in worlds.processes_of_group(server.process.pid)
               if b"\0--listen\0" in pathlib.Path(f"/proc/{pid}/cmdline").read_bytes() and
               b"mpirun" not in pathlib.Path(f"/proc/{pid}/cmdline").read_bytes()]
      self.assertEqual(len(ranks), 2)
      os.kill(ranks[-1], signal.SIGKILL)
      begin = time.monotonic()
      server.process.wait(timeout=60)
      self.assertLess(time.monotonic() - begin, 30)
      self.assertNotEqual(server.process.returncode, 0)

  def test_batch(self):
    with tempfile.TemporaryDirectory() as folder:
      source, out = pathlib.Path(folder) / "in.jsonl", pathlib.Path(folder) / "out.jsonl"
      source.write_text("".join(json.dumps({"id": str(i), "prompt": prompt(), "temperature": 0,
                                            "max_tokens": 6}) + "\n" for i in range(5)))
      done = worlds.run("batch", worlds.DEMO, "--input", source, "--output", out, "--tp", 2, *CUDA)
      self.assertEqual(done.returncode, 0, done.stderr)
      rows = [json.loads(line) for line in out.read_text().splitlines()]
      self.assertEqual({row["id"] for row in rows}, {str(i) for i in range(5)})
      self.assertEqual(len({tuple(row["token_ids"]) for row in rows}), 1)

  def test_eval_is_close_to_that_of_cpus(self):
    losses = []
    with tempfile.TemporaryDirectory() as folder:
      text = pathlib.Path(folder) / "text.txt"
      text.write_text((worlds.SOURCE / "tests/models/demo_text.txt").read_text()[:600])
      for device in ("cpu", "cuda"):
        done = worlds.run("eval", worlds.DEMO, "--text", text, "--json", "--device", device)
        self.assertEqual(done.returncode, 0, done.stderr)
        losses.append(json.loads(done.stdout)["perplexity"])
    self.assertAlmostEqual(losses[1] / losses[0], 1, delta=0.02)

  def test_bench(self):
    done = worlds.run("bench", worlds.DEMO, "--device", "cuda", "--json", "--repeats", "2",
                      "--warmup", "1", "--decode-tokens", "2", "--cells",
                      "prefill:1:16,decode:2:16")
    self.assertEqual(done.returncode, 0, done.stderr)
    found = json.loads(done.stdout)
    self.assertEqual([row["phase"] for row in found["results"]], ["prefill", "decode"])

  def test_ranks_hold_what_a_plan_without_a_gpu_predicts(self):
    for dtype in ("bf16", "int8", "int4", "fp8"):
      done = worlds.run("plan", worlds.DEMO, "--devices", "2x1GiB", "--device", "cuda", "--format",
                        dtype, "--tp", 2, "--json")
      planned = [rank["weights"] for rank in json.loads(done.stdout)[0]["ranks"]]
      debug = worlds.run("generate", worlds.DEMO, "x", "--max-tokens", 1, "--device", "cuda", "--tp",
                         2, "--dtype", dtype, env={"TANDEM_DEBUG": "1"})
      held = re.findall(r"weights: planned \d+ bytes, measured (\d+)", debug.stderr.decode())
      self.assertEqual(sorted(map(int, held)), sorted(planned), dtype)

  def test_weights_streamed_from_the_host_give_the_same_bits(self):
    for tp in (1, 2):
      args = (worlds.DEMO, prompt(), "--temperature", "0", "--max-tokens", 8, "--tp", tp,
              "--deterministic", *CUDA[:4])
      resident = worlds.generate(*args)
      stream = worlds.generate(*args, "--weights", "stream")
      self.assertEqual(stream["logits_hash"], resident["logits_hash"])
      for rank in range(tp):
        of = {name: (resident["ranks"][rank][name], stream["ranks"][rank][name])
              for name in ("planned_bytes", "planned_gpu")}
        self.assertGreater(of["planned_bytes"][1], of["planned_bytes"][0])
        self.assertLess(of["planned_gpu"][1], of["planned_gpu"][0])

  def test_bench_reports_the_rate_of_streamed_weights(self):
    done = worlds.run("bench", worlds.DEMO, "--device", "cuda", "--weights", "stream", "--json",
                      "--repeats", "1", "--warmup", "0", "--decode-tokens", "2", "--cells",
                      "decode:1:16")
    self.assertEqual(done.returncode, 0, done.stderr)
    row = json.loads(done.stdout)["results"][0]
    self.assertGreater(row["stream_gbps"], 0)
    self.assertGreater(row["stream_fraction"], 0)

  def test_doctor_tells_of_ways_that_do_not_work(self):
    done = worlds.run("doctor", "--tp", 2, "--device", "cuda", "--json")
    found = json.loads(done.stdout)
    ways = {row["way"]: row for row in found["all_reduce"]}
    self.assertIn("staged", ways)
    self.assertIn("error", ways["peer"])
    self.assertIn("error", ways["nccl"])

  def test_an_option_that_gpus_do_not_support_is_one_line(self):
    done = worlds.run("generate", worlds.DEMO, prompt(), "--device", "cuda", "--packed-cache", "/tmp")
    self.assertNotEqual(done.returncode, 0)
    lines = done.stderr.decode().strip().splitlines()
    self.assertEqual(len(lines), 1, lines)
    self.assertIn("--packed-cache", lines[0])


if __name__ == "__main__":
  unittest.main()
