"""Ranks that die or stall under load: streams, health, the launcher and the next world."""

import os
import signal
import socket
import threading
import time
import unittest

import worlds
from worlds import grpc, health_pb2, pb

SERVING = health_pb2.HealthCheckResponse.SERVING
PROMPT = "<|bos|><|user|>Add 12 and 30.<|end|><|assistant|>"
TP = 3


class Load:
  """Streams that go on until the world ends; collects how each ended and when."""

  def __init__(self, server, streams=4):
    self.ends = []
    self.flowing = threading.Barrier(streams + 1)
    self.threads = [threading.Thread(target=self.stream, args=(server,)) for _ in range(streams)]
    for thread in self.threads:
      thread.start()
    self.flowing.wait(30)

  def stream(self, server):
    request = pb.GenerateRequest(text=PROMPT, sampling=pb.SamplingParams(
        temperature=20.0, max_tokens=450, ignore_eos=True))
    first = True
    while True:
      try:
        for _ in server.stub.Generate(request, timeout=60):
          if first:
            self.flowing.wait(30)
          first = False
      except grpc.RpcError as error:
        self.ends.append((error.code(), error.details(), time.monotonic()))
        return

  def wait(self):
    for thread in self.threads:
      thread.join(60)
    return self.ends


class Errors:
  """The lines that a server writes to stderr from now on."""

  def __init__(self, server):
    self.server = server
    self.begin = len(server.errors())

  def lines(self):
    return self.server.errors()[self.begin:].splitlines()

  def wait_for(self, text, seconds=20):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
      for line in self.lines():
        if text in line:
          return line
      time.sleep(0.02)
    raise AssertionError(f"no line with {text!r} in {self.lines()}")


def restarting_server(*args):
  """A server whose address stays the same when its world restarts, so that clients find it."""
  return worlds.Server(worlds.DEMO, *args, "--threads", 1,
                       address=f"127.0.0.1:{worlds.free_port()}")


def rank_pids(server, count=TP):
  """Pids of the ranks, in the order of ranks."""
  ranks = {}
  for pid in worlds.processes_of_group(server.process.pid):
    try:
      with open(f"/proc/{pid}/environ", "rb") as file:
        environment = dict(e.split(b"=", 1) for e in file.read().split(b"\0") if b"=" in e)
    except OSError:
      continue
    if b"OMPI_COMM_WORLD_RANK" in environment:
      ranks[int(environment[b"OMPI_COMM_WORLD_RANK"])] = pid
  if len(ranks) != count:
    raise AssertionError(f"found ranks {ranks}")
  return [ranks[r] for r in range(count)]


def wait_serving(server, but_not=(), seconds=30):
  """Waits until a world without the pids `but_not` serves."""
  deadline = time.monotonic() + seconds
  while time.monotonic() < deadline:
    try:
      if server.health() == SERVING and not set(rank_pids(server)) & set(but_not):
        return
    except (grpc.RpcError, AssertionError):
      pass
    time.sleep(0.1)
  raise AssertionError("the world did not come back")


class Loading(unittest.TestCase):

  def stopped(self, *args):
    """A server of two ranks, the second of which is stopped while it loads, and its pid."""
    for _ in range(10):
      # The address stays the same when the world restarts.
      server = worlds.Server(worlds.DEMO, "--tp", 2, "--threads", 1, *args, ready=False,
                             address=f"127.0.0.1:{worlds.free_port()}")
      deadline = time.monotonic() + 60
      pids = None
      while time.monotonic() < deadline:
        try:
          pids = pids or rank_pids(server, 2)
          host, port = server.address.split(":")
          socket.create_connection((host, int(port)), 1).close()
          break
        except (AssertionError, OSError):
          time.sleep(0.001)
      os.kill(pids[1], signal.SIGSTOP)
      time.sleep(0.5)
      if server.health() != SERVING:
        return server, pids
      os.kill(pids[1], signal.SIGCONT)  # it had loaded already: try again
      server.stop()
      server.__exit__()
    self.fail("it loads too fast")

  def test_a_rank_stopped_while_loading(self):
    server, pids = self.stopped("--start-timeout", 8)
    with server:
      errors = Errors(server)
      errors.wait_for("rank 1 has not answered rank 0 for 8s", 60)
      errors.wait_for("starting the world again", 60)
      deadline = time.monotonic() + 60
      while time.monotonic() < deadline:
        try:
          if server.health() == SERVING and not set(rank_pids(server, 2)) & set(pids):
            break
        except (grpc.RpcError, AssertionError):
          time.sleep(0.1)
      self.assertEqual(server.generate(PROMPT, temperature=0.0)[0], "12 + 30 = 42")

  def test_sigterm_while_loading_ends_without_a_drain(self):
    server, _ = self.stopped("--drain-timeout", 600)
    with server:
      server.process.send_signal(signal.SIGTERM)
      code, errors = server.wait(120)
      self.assertEqual(code, 0, errors)


class LostRanks(unittest.TestCase):

  def lose(self, server, rank, with_signal, bound):
    """One rank gets a signal under load: streams end in time, and the next world serves."""
    pids = rank_pids(server)
    errors = Errors(server)
    load = Load(server)
    lost = time.monotonic()
    os.kill(pids[rank], with_signal)
    ends = load.wait()
    self.assertEqual(len(ends), 4)
    for code, details, when in ends:
      self.assertEqual(code, grpc.StatusCode.UNAVAILABLE, details)
      self.assertLess(when - lost, bound, details)
    errors.wait_for("starting the world again")
    # The first line names the cause, before the launcher's decision.
    first = next(line for line in errors.lines() if line.startswith("tandem: "))
    wait_serving(server, but_not=pids)
    self.assertEqual(server.generate(PROMPT, temperature=0.0)[0], "12 + 30 = 42")
    return ends, first

  def test_each_rank_killed_under_load(self):
    with restarting_server("--tp", TP, "--max-restarts", 10) as server:
      errors = Errors(server)
      host = socket.gethostname()
      for rank in range(TP):
        ends, first = self.lose(server, rank, signal.SIGKILL, bound=5)
        self.assertIn(f"rank {rank} on {host}", first)
        if rank != 0:  # rank 0 is alive and sends the status
          for _, details, _ in ends:
            self.assertIn(f"rank {rank} on {host} has died", details)
      errors.wait_for("was killed by SIGKILL")
      server.process.send_signal(signal.SIGTERM)
      self.assertEqual(server.process.wait(30), 0)

  def test_each_rank_stopped_under_load_and_one_while_idle(self):
    timeout = 2
    with restarting_server("--tp", TP, "--max-restarts", 10, "--step-timeout", timeout) as server:
      for rank in range(TP):
        # The ranks notice within the timeout; mpirun takes a second or two to end a stopped one.
        _, first = self.lose(server, rank, signal.SIGSTOP, bound=timeout + 4)
        self.assertRegex(first, rf"rank {rank} has (not answered|been silent)")
      errors = Errors(server)
      pids = rank_pids(server)
      os.kill(pids[1], signal.SIGSTOP)
      self.assertIn("rank 1 has not answered", errors.wait_for("not answered", 10))
      wait_serving(server, but_not=pids)
      server.process.send_signal(signal.SIGTERM)
      self.assertEqual(server.process.wait(30), 0)

  def test_a_world_of_one_restarts(self):
    with restarting_server("--tp", 1) as server:
      errors = Errors(server)
      (rank,) = worlds.processes_of_group(server.process.pid)
      os.kill(rank, signal.SIGKILL)
      errors.wait_for("the rank was killed by SIGKILL")
      errors.wait_for("starting the world again")
      deadline = time.monotonic() + 20
      while time.monotonic() < deadline:
        try:
          self.assertEqual(server.generate(PROMPT, temperature=0.0)[0], "12 + 30 = 42")
          return
        except grpc.RpcError as error:
          self.assertEqual(error.code(), grpc.StatusCode.UNAVAILABLE)
          time.sleep(0.1)
      self.fail("the world did not come back")

  def test_a_crash_loop_gives_up(self):
    with worlds.Server(worlds.DEMO, "--tp", 2, "--threads", 1, "--max-restarts", 2) as server:
      errors = Errors(server)
      deadline = time.monotonic() + 60
      while server.process.poll() is None and time.monotonic() < deadline:
        for pid in worlds.processes_of_group(server.process.pid):
          try:
            with open(f"/proc/{pid}/environ", "rb") as file:
              if b"OMPI_COMM_WORLD_RANK=1" in file.read():
                os.kill(pid, signal.SIGKILL)
          except OSError:
            pass
        time.sleep(0.2)
      self.assertEqual(server.process.wait(60), 70)
      self.assertIn("giving up: 3 worlds in a row", errors.lines()[-1])

  def test_max_restarts_0_ends_at_the_first_failure(self):
    with worlds.Server(worlds.DEMO, "--tp", 2, "--threads", 1, "--max-restarts", 0) as server:
      os.kill(rank_pids(server, 2)[1], signal.SIGKILL)
      code, errors = server.wait(15)
      self.assertIn(code, (70, 137), errors)
      self.assertNotIn("starting the world", errors)

  def test_a_given_world_that_loses_a_rank_ends(self):
    mpirun = ["mpirun", "--allow-run-as-root", "--oversubscribe", "--bind-to", "none", "-np", "2",
              worlds.BINARY]
    with worlds.Server(worlds.DEMO, "--threads", 1, command=mpirun) as server:
      pids = rank_pids(server, 2)
      load = Load(server, streams=2)
      lost = time.monotonic()
      os.kill(pids[1], signal.SIGKILL)
      for code, details, when in load.wait():
        self.assertEqual(code, grpc.StatusCode.UNAVAILABLE, details)
        self.assertIn("rank 1", details)
        self.assertLess(when - lost, 5)
      code, errors = server.wait(15)
      self.assertNotEqual(code, 0, errors)


if __name__ == "__main__":
  unittest.main()
