"""scripts/gpu_check.sh without a GPU: its messages, and that its report survives whatever happens
to the stages. Small scripts replace GPUs and benchmarks."""

import json
import os
import pathlib
import signal
import subprocess
import tempfile
import time
import unittest

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
SCRIPT = ROOT / "scripts/gpu_check.sh"


def write_program(path, text):
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text("#!/bin/bash\n" + text)
  path.chmod(0o755)


class GpuCheck(unittest.TestCase):

  def setUp(self):
    folder = tempfile.TemporaryDirectory()
    self.addCleanup(folder.cleanup)
    self.folder = pathlib.Path(folder.name)
    self.report = self.folder / "report.txt"
    self.tools = self.folder / "tools"
    self.tools.mkdir()

  def gpu(self):
    write_program(
        self.tools / "nvidia-smi", 'case $1 in *=name) echo "A GPU";; *compute_cap) echo 9.0;; '
        "*) echo 1;; esac\n")

  def bench(self, text):
    write_program(self.folder / "build/tests/bench/decoder_bench", text)

  def command(self, *arguments):
    environment = dict(os.environ, PATH=f"{self.tools}:{os.environ['PATH']}")
    return subprocess.Popen(
        [SCRIPT, "--build", self.folder / "build", *arguments, self.report], env=environment,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)

  def run_script(self, *arguments):
    process = self.command(*arguments)
    out, error = process.communicate(timeout=60)
    return process.returncode, out, error

  def records(self):
    return [json.loads(line) for line in self.report.read_text().splitlines()
            if line.startswith("{")]

  def test_without_a_gpu_it_exits_with_77(self):
    write_program(self.tools / "nvidia-smi", "exit 9\n")
    code, _, error = self.run_script()
    self.assertEqual(code, 77)
    self.assertEqual(len(error.strip().splitlines()), 1)
    self.assertIn("no GPU", error)
    code, _, error = self.run_script("--build-only")
    self.assertEqual(code, 64)
    self.assertIn("--arch", error)

  def test_records_and_table_of_each_bench_are_in_the_report(self):
    self.gpu()
    self.bench('[[ $1 == --json ]] && echo \'{"what":"decode","batch":1}\' >> "$2"; echo a table\n')
    code, out, _ = self.run_script("--stages", "bench")
    self.assertEqual(code, 0, out)
    text = self.report.read_text()
    self.assertIn("A GPU", text)
    self.assertIn("a table", text)
    what = [record["what"] for record in self.records()]
    self.assertEqual(what, ["gpu", "decode", "stage"])
    self.assertEqual(self.records()[-1]["status"], "passed")

  def test_a_failure_does_not_stop_the_rest(self):
    self.gpu()
    self.bench('echo "$*"; [[ $* != *deterministic* ]] || { echo broken; exit 3; }\n')
    code, out, _ = self.run_script("--stages", "deterministic,shards")
    self.assertEqual(code, 1, out)
    status = {record["stage"]: record["status"] for record in self.records()
              if record["what"] == "stage"}
    self.assertEqual(status["bench deterministic"], "failed with 3")
    self.assertEqual(status["a rank of 8 alone"], "passed")
    self.assertIn("broken", self.report.read_text())

  def test_stages_without_time_left_are_skipped(self):
    self.gpu()
    self.bench("exit 0\n")
    code, _, _ = self.run_script("--stages", "bench", "--minutes", "0")
    self.assertEqual(code, 0)
    self.assertEqual(self.records()[-1]["status"], "skipped")

  def test_a_kill_keeps_the_results_so_far(self):
    self.gpu()
    self.bench('if [[ $* == *graphs,issued* ]]; then echo \'{"what":"decode"}\' >> "$2"; else sleep 60; fi\n')
    process = self.command("--stages", "bench,deterministic")
    for _ in range(200):
      if self.report.exists() and "bench deterministic" in self.report.read_text():
        break
      time.sleep(0.1)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate(timeout=30)
    self.assertIn("decode", [record["what"] for record in self.records()])
    # A second call keeps the first one's report.
    self.run_script("--stages", "bench")
    self.assertIn("bench deterministic", (self.folder / "report.txt.previous").read_text())


if __name__ == "__main__":
  unittest.main()
