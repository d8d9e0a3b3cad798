"""A Slurm whose only node is this host, from Debian's packages: munged, slurmctld and slurmd with
their files in a temporary folder. Needs root."""

import os
import pathlib
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import unittest

import worlds

PROGRAMS = ("munged", "slurmctld", "slurmd", "srun", "sbatch")


class Slurm:
  """Runs until stop(); skips the test where it does not start. `environment` leads to it."""

  def __init__(self, cpus=4):
    if os.geteuid() != 0:
      raise unittest.SkipTest("slurmd needs root")
    missing = [program for program in PROGRAMS if not shutil.which(program)]
    if missing:
      raise unittest.SkipTest(f"{', '.join(missing)} not installed")
    self.folder = pathlib.Path(tempfile.mkdtemp(prefix="tandem-slurm-"))
    self.folder.chmod(0o755)
    for name in ("state", "spool"):
      (self.folder / name).mkdir()
    (self.folder / "munge.key").write_bytes(os.urandom(128))
    (self.folder / "munge.key").chmod(0o600)
    host = socket.gethostname().split(".")[0]
    settings = {
        "ClusterName": "tandem", "SlurmctldHost": f"{host}(127.0.0.1)", "SlurmUser": "root",
        "AuthType": "auth/munge", "AuthInfo": f"socket={self.folder}/munge.socket",
        "StateSaveLocation": f"{self.folder}/state", "SlurmdSpoolDir": f"{self.folder}/spool",
        "SlurmctldPidFile": f"{self.folder}/slurmctld.pid",
        "SlurmdPidFile": f"{self.folder}/slurmd.pid",
        "SlurmctldLogFile": f"{self.folder}/slurmctld.log",
        "SlurmdLogFile": f"{self.folder}/slurmd.log",
        # Slurm's daemons read their ports from the file: they cannot take free ones by themselves.
        "SlurmctldPort": worlds.free_port(), "SlurmdPort": worlds.free_port(),
        "ProctrackType": "proctrack/linuxproc", "TaskPlugin": "task/none",
        "SelectType": "select/cons_tres", "SelectTypeParameters": "CR_CPU",
        "SwitchType": "switch/none", "JobAcctGatherType": "jobacct_gather/none",
        "MpiDefault": "none", "ReturnToService": 2,
        # The node may claim more CPUs than the host has.
        "SlurmdParameters": "config_overrides",
    }
    (self.folder / "slurm.conf").write_text(
        "".join(f"{name}={value}\n" for name, value in settings.items()) +
        f"NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} State=UNKNOWN\n"
        f"PartitionName=all Nodes={host} Default=YES MaxTime=INFINITE State=UP\n")
    self.environment = {**os.environ, "SLURM_CONF": f"{self.folder}/slurm.conf"}
    try:
      self.run("munged", "--force", f"--socket={self.folder}/munge.socket",
               f"--key-file={self.folder}/munge.key", f"--pid-file={self.folder}/munged.pid",
               f"--log-file={self.folder}/munged.log", f"--seed-file={self.folder}/munged.seed")
      for daemon in ("slurmctld", "slurmd"):
        self.run(daemon, "-c", "-f", f"{self.folder}/slurm.conf")
      deadline = time.monotonic() + 20
      while self.run("sinfo", "-h", "-o", "%T") != "idle":
        if time.monotonic() > deadline:
          raise subprocess.SubprocessError("the node does not get idle")
        time.sleep(0.1)
    except subprocess.SubprocessError as error:
      told = getattr(error, "stderr", "") or ""
      self.stop()
      raise unittest.SkipTest(f"Slurm does not start here: {error} {told}") from None

  def run(self, *command, timeout=120):
    """Standard output, stripped; raises with a status other than 0."""
    done = subprocess.run([str(word) for word in command], env=self.environment, text=True,
                          capture_output=True, timeout=timeout, check=True)
    return done.stdout.strip()

  def state(self, job):
    """PENDING, RUNNING, COMPLETED, ... and the exit code, as "0:0"."""
    shown = dict(word.split("=", 1) for word in self.run(
        "scontrol", "-o", "show", "job", job).split() if "=" in word)
    return shown["JobState"], shown["ExitCode"]

  def wait_for(self, job, states, seconds=240):
    deadline = time.monotonic() + seconds
    while (found := self.state(job))[0] not in states:
      if time.monotonic() > deadline:
        raise AssertionError(f"job {job} is {found}, not {states}")
      time.sleep(0.1)
    return found

  def stop(self):
    for daemon in ("slurmd", "slurmctld", "munged"):
      file = self.folder / f"{daemon}.pid"
      if not file.exists():
        continue
      pid = int(file.read_text())
      try:
        os.kill(pid, signal.SIGTERM)
        for _ in range(50):
          os.kill(pid, 0)
          time.sleep(0.1)
        os.kill(pid, signal.SIGKILL)
      except ProcessLookupError:
        pass
    shutil.rmtree(self.folder, ignore_errors=True)
