"""`tandem batch` over four hosts (hosts.py): replicas that are separate MPI jobs, one of which
loses a host, and one MPI world that is split into replicas."""

import os
import pathlib
import signal
import subprocess
import tempfile
import time
import unittest

import worlds
from batch_test import answers, read, rows, write
from hosts import Hosts


class FourHosts(unittest.TestCase):

  @classmethod
  def setUpClass(cls):
    cls.hosts = Hosts(4)
    cls.addClassCleanup(cls.hosts.remove)
    cls.temp = tempfile.TemporaryDirectory()
    cls.addClassCleanup(cls.temp.cleanup)
    cls.folder = pathlib.Path(cls.temp.name)
    cls.environment = {**os.environ, "OMPI_MCA_plm_rsh_agent": str(cls.hosts.agent)}
    cls.source = write(cls.folder / "in.jsonl", rows(120, long=True))
    done = worlds.run("batch", worlds.DEMO, "--input", cls.source, "--output",
                      cls.folder / "one.jsonl", "--max-num-seqs", 4)
    assert done.returncode == 0, done.stderr
    cls.expected = answers(cls.folder / "one.jsonl")

  def batch(self, output):
    return [worlds.BINARY, "batch", worlds.DEMO, "--input", self.source, "--output",
            self.folder / output, "--threads", "1", "--max-num-seqs", "2"]

  def start(self, output, *args):
    """The coordinator on the first host."""
    return subprocess.Popen(self.hosts.on(self.hosts.names[0], *self.batch(output), *args),
                            env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

  def wait_for_lines(self, process, count, output):
    path = self.folder / output
    deadline = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < deadline:
      if path.exists() and path.read_bytes().count(b"\n") >= count:
        return
      time.sleep(0.01)
    self.fail(f"no {count} rows in time: {process.communicate()[1].decode()}")

  def assert_all_gone(self, hosts):
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and any(self.hosts.pids(host) for host in hosts):
      time.sleep(0.1)
    self.assertEqual([self.hosts.pids(host) for host in hosts], [b""] * len(hosts))

  def test_rows_of_a_replica_that_lost_a_host_go_to_the_other(self):
    a, b, c, d = self.hosts.names
    process = self.start("cut.jsonl", "--hosts", ",".join(self.hosts.names), "--tp", 2)
    try:
      self.wait_for_lines(process, 10, "cut.jsonl")
      # Each replica runs on two hosts.
      for host in self.hosts.names:
        self.assertNotEqual(self.hosts.pids(host), b"")
      self.hosts.cut(d)
      output, errors = process.communicate(timeout=100)
    finally:
      self.hosts.mend(d)
      process.kill()
    self.assertEqual(process.returncode, 0, errors.decode())
    self.assertRegex(errors.decode(), r"replica 1 has died, 1 of 2 are left; its rows go to them")
    self.assertIn(f"replica 1 on {c}:1,{d}:1 has ended with", errors.decode())
    summary = worlds.json.loads(output)
    self.assertEqual((summary["replicas"], summary["replicas_lost"]), (2, 1))
    self.assertEqual(answers(self.folder / "cut.jsonl"), self.expected)
    self.assert_all_gone([a, b, c, d])

  def test_stopped_and_killed_coordinators_leave_no_process_on_any_host(self):
    args = ("--hosts", ",".join(f"{host}:2" for host in self.hosts.names[:2]), "--tp", 2)
    process = self.start("stop.jsonl", *args)
    self.wait_for_lines(process, 5, "stop.jsonl")
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    self.assertEqual(process.returncode, 75, errors.decode())
    self.assert_all_gone(self.hosts.names)
    process = self.start("stop.jsonl", *args)
    self.wait_for_lines(process, len(read(self.folder / "stop.jsonl")) + 5, "stop.jsonl")
    process.kill()
    process.communicate()
    self.assert_all_gone(self.hosts.names)
    process = self.start("stop.jsonl", *args)
    _, errors = process.communicate(timeout=60)
    self.assertEqual(process.returncode, 0, errors.decode())
    self.assertEqual(answers(self.folder / "stop.jsonl"), self.expected)

  def test_one_world_is_split_into_replicas_by_host(self):
    for slots, args, replicas in (((2, 2, 0, 0), (), 2), ((1, 1, 1, 1), ("--tp", "2"), 2),
                                  ((4, 2, 0, 0), ("--tp", "2"), 3)):
      with self.subTest(slots=slots, args=args):
        output = f"world{slots[0]}{len(args)}.jsonl"
        ranks = [count for count in slots if count]
        done = subprocess.run([*self.hosts.mpirun(ranks), *map(str, self.batch(output)), *args],
                              capture_output=True, timeout=100)
        self.assertEqual(done.returncode, 0, done.stderr.decode())
        self.assertEqual(worlds.json.loads(done.stdout)["replicas"], replicas)
        self.assertEqual(answers(self.folder / output), self.expected)
    done = subprocess.run([*self.hosts.mpirun([2, 1]), *map(str, self.batch("none.jsonl"))],
                          capture_output=True, timeout=60)
    self.assertEqual(done.returncode, 78, done.stderr.decode())
    self.assertIn(b"--tp: is needed to cut hosts of 2 and 1 ranks into replicas", done.stderr)

  def test_ssh_runs_in_batch_mode(self):
    ssh = self.hosts.folder / "bin/ssh"
    ssh.parent.mkdir()
    ssh.write_text(f'#!/bin/sh\necho "$@" >> {self.hosts.folder}/asked\n'
                   'while [ "$1" = -o ] || [ "$1" = -x ]; do [ "$1" = -o ] && shift; shift; done\n'
                   f'exec {self.hosts.agent} "$@"\n')
    ssh.chmod(0o755)
    environment = {**os.environ, "PATH": f"{ssh.parent}:{os.environ['PATH']}"}
    done = subprocess.run(
        self.hosts.on(self.hosts.names[0], worlds.BINARY, "generate", worlds.DEMO, "Add 1 and 2.",
                      "--temperature", "0", "--hosts", ",".join(self.hosts.names[:3])),
        env=environment, capture_output=True, timeout=60)
    self.assertEqual(done.returncode, 0, done.stderr.decode())
    for line in (self.hosts.folder / "asked").read_text().splitlines():
      self.assertIn("-o BatchMode=yes -o ConnectTimeout=10", line)

  def test_other_commands_run_on_hosts_too(self):
    prompt = ("generate", worlds.DEMO, "Add 12 and 30.", "--temperature", "0", "--json")
    done = subprocess.run(
        self.hosts.on(self.hosts.names[0], worlds.BINARY, *prompt, "--hosts",
                      ",".join(self.hosts.names[:3])),
        env=self.environment, capture_output=True, timeout=60)
    self.assertEqual(done.returncode, 0, done.stderr.decode())
    found = worlds.json.loads(done.stdout)
    self.assertEqual(len(found["ranks"]), 3)
    self.assertEqual(found["logits_hash"], worlds.generate(*prompt[1:-1])["logits_hash"])


if __name__ == "__main__":
  unittest.main()
