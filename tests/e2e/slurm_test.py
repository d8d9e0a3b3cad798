"""`tandem batch` in a Slurm of one node (slurm.py): steps of srun, the warning signal with requeue,
and the end of the allocation."""

import json
import os
import pathlib
import re
import subprocess
import tempfile
import time
import unittest

import worlds
from batch_test import answers, rows, write
from slurm import Slurm


class OneNode(unittest.TestCase):

  @classmethod
  def setUpClass(cls):
    cls.slurm = Slurm()
    cls.addClassCleanup(cls.slurm.stop)
    cls.temp = tempfile.TemporaryDirectory()
    cls.addClassCleanup(cls.temp.cleanup)
    cls.folder = pathlib.Path(cls.temp.name)
    cls.source = write(cls.folder / "in.jsonl", rows(60, long=True))
    done = worlds.run("batch", worlds.DEMO, "--input", cls.source, "--output",
                      cls.folder / "one.jsonl")
    assert done.returncode == 0, done.stderr
    cls.expected = answers(cls.folder / "one.jsonl")
    # Work for minutes. The first rows are the longest, and the ones that are compared.
    head = [dict(row, max_tokens=400, ignore_eos=True) for row in rows(40)]
    tail = [dict(row, id=f"more-{i}", max_tokens=300, ignore_eos=True)
            for i, row in enumerate(rows(12000))]
    cls.endless = write(cls.folder / "endless.jsonl", head + tail)
    short = write(cls.folder / "head.jsonl", head)
    done = worlds.run("batch", worlds.DEMO, "--input", short, "--output", cls.folder / "head-out")
    assert done.returncode == 0, done.stderr
    cls.head = answers(cls.folder / "head-out")

  def batch(self, output, *args, source=None):
    return [worlds.BINARY, "batch", str(worlds.DEMO), "--input", str(source or self.source),
            "--output", str(self.folder / output), "--threads", "1", "--max-num-seqs", "2",
            *map(str, args)]

  def script(self, name, text, *options):
    path = self.folder / f"{name}.sh"
    path.write_text("#!/bin/bash\n" + text)
    return self.slurm.run("sbatch", "--parsable", f"--output={self.folder}/{name}.log",
                          f"--chdir={self.folder}", *options, path)

  def log(self, name):
    return (self.folder / f"{name}.log").read_text()

  def test_steps_of_srun(self):
    for tasks, args, replicas in ((4, ("--tp", 2), 2), (2, (), 1)):
      output = f"srun{tasks}.jsonl"
      done = subprocess.run(["srun", "--mpi=pmix", f"--ntasks={tasks}", *self.batch(output, *args)],
                            env=self.slurm.environment, capture_output=True, timeout=240)
      self.assertEqual(done.returncode, 0, done.stderr.decode())
      self.assertEqual(json.loads(done.stdout)["replicas"], replicas)
      self.assertEqual(answers(self.folder / output), self.expected)
    done = subprocess.run(["srun", "--mpi=none", "--ntasks=2", *self.batch("none.jsonl")],
                          env=self.slurm.environment, capture_output=True, timeout=240)
    self.assertEqual(done.returncode, 78)
    self.assertIn(b"use srun --mpi=pmix", done.stderr)

  def test_replicas_of_a_batch_script(self):
    job = self.script("hosts", "exec " + " ".join(self.batch("hosts.jsonl", "--tp", 2)) +
                      ' --hosts "$(scontrol show hostnames | sed s/$/:4/ | paste -sd,)"\n',
                      "--ntasks=4", "--time=5")
    self.assertEqual(self.slurm.wait_for(job, ("COMPLETED", "FAILED")), ("COMPLETED", "0:0"),
                     self.log("hosts"))
    self.assertIn('"replicas":2', self.log("hosts"))
    self.assertEqual(answers(self.folder / "hosts.jsonl"), self.expected)

  def test_a_job_resumes_after_a_warning_signal_and_after_its_time_limit(self):
    # One minute is the shortest limit that Slurm has. One job gets a warning signal within half a
    # minute. The other gets none and ends by itself half a minute before its limit. Both run at the
    # same time.
    variables = {"PATH": f"{self.folder}:{os.environ['PATH']}", "MODEL": str(worlds.DEMO),
                 "INPUT": str(self.endless), "OUTPUT": str(self.folder / "warned.jsonl"), "TP": "1"}
    # The script as users have it, with a `tandem` that stops early the second time.
    (self.folder / "tandem").write_text(
        f"#!/bin/bash\nexec {worlds.BINARY} \"$@\" --threads 1 --max-num-seqs 2 "
        "${SLURM_RESTART_COUNT:+--time-limit 1}\n")
    (self.folder / "tandem").chmod(0o755)
    self.slurm.environment.update(variables)
    warned = self.slurm.run("sbatch", "--parsable", f"--output={self.folder}/warned.log",
                            "--time=1", "--signal=B:USR1@59",
                            worlds.SOURCE / "scripts/deploy/batch-requeue.sbatch")
    limited = self.script("limited", "exec " + " ".join(
        self.batch("limited.jsonl", source=self.endless)) + "\n", "--time=1")
    began = time.monotonic()
    self.assertEqual(self.slurm.wait_for(limited, ("COMPLETED", "FAILED", "TIMEOUT")),
                     ("FAILED", "75:0"), self.log("limited"))
    self.assertLess(time.monotonic() - began, 58)  # before the limit itself
    self.assertIn("stopping, the time limit is near", self.log("limited"))
    self.slurm.wait_for(warned, ("PENDING",))
    self.assertIn("stopping, asked by SIGUSR1", self.log("warned"))
    # Slurm would delay a requeued job by two minutes.
    self.slurm.run("scontrol", "update", f"JobId={warned}", "StartTime=now")
    deadline = time.monotonic() + 240
    while not re.search(r'"resumed":[1-9]', self.log("warned")):  # until it has stopped and been requeued again
      self.assertLess(time.monotonic(), deadline, self.log("warned"))
      time.sleep(0.1)
    self.slurm.run("scancel", warned)
    for output in ("limited.jsonl", "warned.jsonl"):
      done = worlds.run(*self.batch(output, "--time-limit", 1, source=self.endless)[1:])
      self.assertEqual(done.returncode, 75, done.stderr)
      self.assertGreater(json.loads(done.stdout)["resumed"], 40)
      found = answers(self.folder / output)
      self.assertEqual({key: found[key] for key in self.head}, self.head)


if __name__ == "__main__":
  unittest.main()
