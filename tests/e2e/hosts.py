"""Hosts made of network namespaces, each with its own name (a UTS namespace), on one switch. An
agent replaces ssh and starts processes on them. Needs root."""

import os
import pathlib
import shutil
import subprocess
import tempfile
import unittest


def ip(*args):
  return subprocess.run(["ip", *args], check=True, capture_output=True)


class Hosts:
  """So many hosts, until remove(); skips the test where they cannot be made."""

  def __init__(self, count):
    if os.geteuid() != 0:
      raise unittest.SkipTest("network namespaces need root")
    if not shutil.which("ip") or not shutil.which("unshare"):
      raise unittest.SkipTest("ip or unshare is not installed")
    # mpirun encodes host names that contain digits. It passes letters on unchanged.
    own = "".join(chr(ord("a") + int(digit)) for digit in str(os.getpid()))
    self.names = [f"tandem-{own}-{chr(ord('q') + i)}" for i in range(count)]
    self.switch = f"tandem-{own}-switch"
    self.folder = pathlib.Path(tempfile.mkdtemp(prefix="tandem-hosts-"))
    try:
      for name in (self.switch, *self.names):
        ip("netns", "add", name)
      ip("-n", self.switch, "link", "add", "bridge", "type", "bridge")
      ip("-n", self.switch, "link", "set", "bridge", "up")
      for number, host in enumerate(self.names, 1):
        port = f"port{number}"
        ip("-n", host, "link", "add", "wire", "type", "veth", "peer", "name", port, "netns",
           self.switch)
        ip("-n", self.switch, "link", "set", port, "master", "bridge", "up")
        ip("-n", host, "address", "add", f"10.213.77.{number}/24", "dev", "wire")
        for link in ("lo", "wire"):
          ip("-n", host, "link", "set", link, "up")
        # mpirun and its daemons notice a cut link when TCP gives up: by default after 15 minutes.
        ip("netns", "exec", host, "sh", "-c", "echo 3 > /proc/sys/net/ipv4/tcp_retries2")
    except subprocess.CalledProcessError as error:
      self.remove()
      raise unittest.SkipTest(f"no network namespaces here: {error.stderr.decode()}") from None
    self.agent = self.folder / "agent"
    self.agent.write_text("#!/bin/sh\n"
                          "# HOST COMMAND, as ssh would take them.\n"
                          "host=$1; shift\n"
                          'exec ip netns exec "$host" unshare --uts sh -c "hostname $host; $*"\n')
    self.agent.chmod(0o755)

  def remove(self):
    for host in self.names:
      for pid in self.pids(host).split():
        subprocess.run(["kill", "-9", pid.decode()], capture_output=True)
    for name in (*self.names, self.switch):
      subprocess.run(["ip", "netns", "delete", name], capture_output=True)
    shutil.rmtree(self.folder, ignore_errors=True)

  @staticmethod
  def on(host, *command):
    """The command line that runs a command on a host."""
    return ["ip", "netns", "exec", host, "unshare", "--uts", "sh", "-c",
            f'hostname {host}; exec "$@"', "sh", *map(str, command)]

  @staticmethod
  def cut(host):
    ip("-n", host, "link", "set", "wire", "down")

  @staticmethod
  def mend(host):
    ip("-n", host, "link", "set", "wire", "up")

  @staticmethod
  def pids(host):
    return subprocess.run(["ip", "netns", "pids", host], capture_output=True).stdout

  def mpirun(self, slots, by="slot"):
    """A foreign mpirun on the first host, with so many ranks on each host."""
    places = ",".join(f"{host}:{count}" for host, count in zip(self.names, slots))
    return self.on(
        self.names[0], "mpirun", "--allow-run-as-root", "--bind-to", "none", "--map-by", by,
        "--host", places, "-np", sum(slots), "--mca", "plm_rsh_agent", self.agent,
        "--mca", "btl_vader_single_copy_mechanism", "none",
        "--mca", "oob_tcp_keepalive_time", "2", "--mca", "oob_tcp_keepalive_intvl", "1",
        "--mca", "oob_tcp_keepalive_probes", "3")
