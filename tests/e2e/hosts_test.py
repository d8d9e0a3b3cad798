"""Worlds over two hosts made of network namespaces: the bits of one rank, and a cut link.

Each host is a network namespace of the test's own with a name of its own (a UTS namespace); a pair
of virtual interfaces joins them. mpirun runs in the first and starts ranks in the second through
an agent in the place of ssh. Needs root.
"""

import os
import pathlib
import shutil
import subprocess
import tempfile
import threading
import time
import unittest

import worlds
from worlds import grpc, pb

PROMPT = "<|bos|><|user|>Add 12 and 30.<|end|><|assistant|>"
GENERATE = ["generate", str(worlds.DEMO), PROMPT, "--temperature", "0", "--max-tokens", "24",
            "--threads", "1", "--json"]


def ip(*args):
  return subprocess.run(["ip", *args], check=True, capture_output=True)


class TwoHosts(unittest.TestCase):

  @classmethod
  def setUpClass(cls):
    if os.geteuid() != 0:
      raise unittest.SkipTest("network namespaces need root")
    if not shutil.which("ip") or not shutil.which("unshare"):
      raise unittest.SkipTest("ip or unshare is not installed")
    # mpirun packs names with digits; letters alone are what it hands over as they are.
    own = "".join(chr(ord("a") + int(digit)) for digit in str(os.getpid()))
    cls.hosts = [f"tandem-{own}-{letter}" for letter in "xy"]
    cls.addClassCleanup(cls.remove)
    try:
      for host in cls.hosts:
        ip("netns", "add", host)
      a, b = cls.hosts
      ip("-n", a, "link", "add", "wire", "type", "veth", "peer", "name", "wire", "netns", b)
    except subprocess.CalledProcessError as error:
      raise unittest.SkipTest(f"no network namespaces here: {error.stderr.decode()}") from None
    for number, host in enumerate(cls.hosts, 1):
      ip("-n", host, "address", "add", f"10.213.77.{number}/24", "dev", "wire")
      for link in ("lo", "wire"):
        ip("-n", host, "link", "set", link, "up")
      # mpirun and its daemons notice a cut when TCP gives up: by default after a quarter of an hour.
      ip("netns", "exec", host, "sh", "-c", "echo 3 > /proc/sys/net/ipv4/tcp_retries2")
    cls.folder = pathlib.Path(tempfile.mkdtemp(prefix="tandem-hosts-"))
    cls.agent = cls.folder / "agent"
    cls.agent.write_text("#!/bin/sh\n"
                         "# HOST COMMAND, as ssh would take them.\n"
                         "host=$1; shift\n"
                         'exec ip netns exec "$host" unshare --uts sh -c "hostname $host; $*"\n')
    cls.agent.chmod(0o755)

  @classmethod
  def remove(cls):
    for host in cls.hosts:
      pids = subprocess.run(["ip", "netns", "pids", host], capture_output=True).stdout.split()
      for pid in pids:
        subprocess.run(["kill", "-9", pid.decode()], capture_output=True)
      subprocess.run(["ip", "netns", "delete", host], capture_output=True)
    if hasattr(cls, "folder"):
      shutil.rmtree(cls.folder, ignore_errors=True)

  def mpirun(self, slots, by):
    """Command that starts ranks over both hosts, `slots` on each of them."""
    a, b = self.hosts
    inner = ["mpirun", "--allow-run-as-root", "--bind-to", "none", "--map-by", by,
             "--host", f"{a}:{slots[0]},{b}:{slots[1]}", "-np", str(sum(slots)),
             "--mca", "plm_rsh_agent", str(self.agent),
             "--mca", "btl_vader_single_copy_mechanism", "none",
             "--mca", "oob_tcp_keepalive_time", "2", "--mca", "oob_tcp_keepalive_intvl", "1",
             "--mca", "oob_tcp_keepalive_probes", "3", worlds.BINARY]
    return ["ip", "netns", "exec", a, "unshare", "--uts", "sh", "-c", f'hostname {a}; exec "$@"',
            "sh", *inner]

  def test_the_bits_of_one_rank(self):
    expected = worlds.generate(*GENERATE[1:-1])
    for slots, by, collectives in [((1, 1), "slot", "auto"), ((1, 2), "slot", "shm"),
                                   ((2, 1), "node", "shm"), ((2, 2), "slot", "shm"),
                                   ((2, 2), "node", "auto")]:
      with self.subTest(slots=slots, by=by, collectives=collectives):
        done = subprocess.run([*self.mpirun(slots, by), *GENERATE, "--collectives", collectives],
                              capture_output=True, timeout=60)
        self.assertEqual(done.returncode, 0, done.stderr.decode())
        found = worlds.json.loads(done.stdout)
        self.assertEqual(found["logits_hash"], expected["logits_hash"])
        self.assertEqual(len(found["ranks"]), sum(slots))

  def test_a_cut_link_ends_the_world(self):
    timeout = 3
    address = f"unix:{self.folder}/socket"
    # Ranks 0 and 2 on the first host, 1 and 3 on the second.
    with worlds.Server(worlds.DEMO, "--threads", 1, "--step-timeout", timeout,
                       command=self.mpirun((2, 2), "node"), address=address) as server:
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
      ip("-n", self.hosts[0], "link", "set", "wire", "down")
      cut = time.monotonic()
      thread.join(60)
      code, details, when = ends[0]
      self.assertEqual(code, grpc.StatusCode.UNAVAILABLE, details)
      self.assertLess(when - cut, timeout + 1, details)
      _, errors = server.process.communicate(timeout=30)
      self.assertNotEqual(server.process.returncode, 0)
      # Each side misses a rank of the other.
      self.assertRegex(errors.decode() + details, r"rank [13] has (not answered|been silent)")
      deadline = time.monotonic() + 15
      while time.monotonic() < deadline and self.pids(self.hosts[1]):
        time.sleep(0.1)
      self.assertEqual(self.pids(self.hosts[1]), b"")
    ip("-n", self.hosts[0], "link", "set", "wire", "up")

  @staticmethod
  def pids(host):
    return subprocess.run(["ip", "netns", "pids", host], capture_output=True).stdout


if __name__ == "__main__":
  unittest.main()
