"""Worlds over two hosts (hosts.py): the bits of one rank, and a cut link."""

import subprocess
import threading
import time
import unittest

import worlds
from hosts import Hosts
from worlds import grpc, pb

PROMPT = "<|bos|><|user|>Add 12 and 30.<|end|><|assistant|>"
GENERATE = ["generate", str(worlds.DEMO), PROMPT, "--temperature", "0", "--max-tokens", "24",
            "--threads", "1", "--json"]


def ip(*args):
  return subprocess.run(["ip", *args], check=True, capture_output=True)


class TwoHosts(unittest.TestCase):

  @classmethod
  def setUpClass(cls):
    cls.hosts = Hosts(2)
    cls.addClassCleanup(cls.hosts.remove)

  def test_ranks_on_two_hosts_give_the_bits_of_one_rank(self):
    expected = worlds.generate(*GENERATE[1:-1])
    for slots, by, collectives in [((1, 1), "slot", "auto"), ((1, 2), "slot", "shm"),
                                   ((2, 1), "node", "shm"), ((2, 2), "slot", "shm"),
                                   ((2, 2), "node", "auto")]:
      with self.subTest(slots=slots, by=by, collectives=collectives):
        done = subprocess.run([*self.hosts.mpirun(slots, by), worlds.BINARY, *GENERATE, "--collectives", collectives],
                              capture_output=True, timeout=60)
        self.assertEqual(done.returncode, 0, done.stderr.decode())
        found = worlds.json.loads(done.stdout)
        self.assertEqual(found["logits_hash"], expected["logits_hash"])
        self.assertEqual(len(found["ranks"]), sum(slots))

  def test_a_cut_link_ends_the_world(self):
    timeout = 3
    address = f"unix:{self.hosts.folder}/socket"
    # Ranks 0 and 2 on the first host, 1 and 3 on the second.
    with worlds.Server(worlds.DEMO, "--threads", 1, "--step-timeout", timeout,
                       command=[*self.hosts.mpirun((2, 2), "node"), worlds.BINARY],
                       address=address) as server:
      ends = []
      flowing = threading.Event()

      def stream():
        request = pb.GenerateRequest(text=PROMPT, sampling=pb.SamplingParams(
            temperature=20.0, max_tokens=450, ignore_eos=True))
        while not ends:
          try:
            for _ in server.stub.Generate(request, timeout=60):
              flowing.set()
          except grpc.RpcError as error:
            ends.append((error.code(), error.details(), time.monotonic()))

      thread = threading.Thread(target=stream)
      thread.start()
      self.assertTrue(flowing.wait(30))
      self.addCleanup(self.hosts.mend, self.hosts.names[0])
      self.hosts.cut(self.hosts.names[0])
      cut = time.monotonic()
      thread.join(60)
      code, details, when = ends[0]
      self.assertEqual(code, grpc.StatusCode.UNAVAILABLE, details)
      self.assertLess(when - cut, timeout + 4, details)
      code, errors = server.wait()
      self.assertNotEqual(code, 0)
      # Each side reports that a rank of the other side is silent, or that it has died.
      self.assertRegex(errors + details,
                       r"rank [13]( on \S+)? has (not answered|been silent|died)")
      deadline = time.monotonic() + 15
      while time.monotonic() < deadline and self.hosts.pids(self.hosts.names[1]):
        time.sleep(0.1)
      self.assertEqual(self.hosts.pids(self.hosts.names[1]), b"")


if __name__ == "__main__":
  unittest.main()
