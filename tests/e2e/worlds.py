"""Helpers of the end-to-end tests: the real binary, real mpirun worlds, a gRPC client.

The tests beside this file are plain unittest. CTest passes the binary and the stubs (generated from
the .proto files alone) in the environment; by hand they are those of the release build.
"""

import contextlib
import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
import unittest

SOURCE = pathlib.Path(__file__).resolve().parent.parent.parent
BINARY = os.environ.get("TANDEM_BINARY", str(SOURCE / "build/release/tandem"))
STUBS = os.environ.get("TANDEM_PYTHON_STUBS", str(SOURCE / "build/release/tests/e2e/stubs"))
sys.path.insert(0, STUBS)

try:
  import grpc

  # The health stubs live in a package named like the library's.
  grpc.__path__.append(STUBS + "/grpc")
  import google

  google.__path__ = [*google.__path__, STUBS + "/google"]
  from google.rpc import error_details_pb2, status_pb2
  from grpc.health.v1 import health_pb2, health_pb2_grpc
  from tandem.v1 import inference_pb2 as pb
  from tandem.v1 import inference_pb2_grpc as pb_grpc
except ModuleNotFoundError as missing:
  print(f"worlds.py: the Python module {missing.name} is missing; scripts/install_packages.sh "
        "installs gRPC, the build target python_stubs makes the stubs", file=sys.stderr)
  sys.exit(69)

SHARED = pathlib.Path(os.environ.get("TANDEM_SHARED", SOURCE.parent / "shared"))
DEMO = SOURCE / "tests/models/demo"
GOLDEN = SOURCE / "tests/golden/logits"


def details(error: grpc.RpcError):
  """The google.rpc details that a failed call carries, unpacked."""
  for key, value in error.trailing_metadata() or ():
    if key == "grpc-status-details-bin":
      status = status_pb2.Status.FromString(value)
      found = []
      for any_message in status.details:
        for kind in (error_details_pb2.BadRequest, error_details_pb2.RetryInfo):
          if any_message.Is(kind.DESCRIPTOR):
            found.append(kind())
            any_message.Unpack(found[-1])
      return found
  return []


def shared(path: str) -> pathlib.Path:
  """A file of the folder `shared` beside the project; skips the test where it is missing."""
  full = SHARED / path
  if not full.exists():
    raise unittest.SkipTest(f"{full} is missing")
  return full


def documented_metrics():
  """The table of docs/monitoring.md: (name, labels, type) of each metric."""
  rows = re.findall(r"^\| `(tandem_\w+)(?:\{(.*?)\})?` \| (\w+) \|",
                    (SOURCE / "docs/monitoring.md").read_text(), re.MULTILINE)
  return [(name, set(re.findall(r"\w+", labels)), kind) for name, labels, kind in rows]


def run(*args, timeout=120, stdin=None, env=None, binary=True):
  """Runs `tandem ARGS`; returns the finished process with text outputs."""
  command = ([BINARY] if binary else []) + [str(a) for a in args]
  return subprocess.run(command, input=stdin, capture_output=True, timeout=timeout,
                        env={**os.environ, **(env or {})})


def generate(model, *args, timeout=120):
  """`tandem generate MODEL ARGS --json` -> the object; raises with stderr on failure."""
  done = run("generate", model, *args, "--json", timeout=timeout)
  if done.returncode != 0:
    raise AssertionError(f"exit {done.returncode}: {done.stderr.decode()}")
  return json.loads(done.stdout)


def free_port() -> int:
  """A port that was free a moment ago: another process may take it before the test does.

  Only for an address that must be known before its server starts, or that must stay the same when
  its world restarts. Other servers listen on port 0, and the test reads the port from their log.
  """
  with socket.socket() as s:
    s.bind(("127.0.0.1", 0))
    return s.getsockname()[1]


def processes_of_group(leader: int):
  """The pids of all live processes below `leader`, from /proc."""
  parents = {}
  for entry in pathlib.Path("/proc").iterdir():
    if not entry.name.isdigit():
      continue
    with contextlib.suppress(OSError, IndexError, ValueError):
      stat = (entry / "stat").read_text()
      fields = stat.rsplit(")", 1)[1].split()
      if fields[0] != "Z":
        parents[int(entry.name)] = int(fields[1])
  found, frontier = [], [leader]
  while frontier:
    parent = frontier.pop()
    for pid, its_parent in parents.items():
      if its_parent == parent:
        found.append(pid)
        frontier.append(pid)
  return found


class Server:
  """`tandem serve` with a client; a context manager that stops it with SIGTERM.

  `address` is what it listens on. The default, port 0, takes a free port and reads it from the log.
  """

  def __init__(self, model, *args, address="127.0.0.1:0", ready=True, command=None):
    self.log = tempfile.NamedTemporaryFile(prefix="tandem_serve_")
    self.process = subprocess.Popen(
        [*(command or [BINARY]), "serve", str(model), "--listen", address,
         *[str(a) for a in args]], stdout=subprocess.DEVNULL, stderr=self.log)
    try:
      self.address = self.logged(r"listening on (\S+)") if address.endswith(":0") else address
    except BaseException:
      self.process.kill()
      raise
    self.channel = grpc.insecure_channel(
        self.address, options=[("grpc.initial_reconnect_backoff_ms", 100)])
    self.stub = pb_grpc.InferenceServiceStub(self.channel)
    self.health_stub = health_pb2_grpc.HealthStub(self.channel)
    if ready:
      self.wait_ready()

  def errors(self) -> str:
    """What it has written to stderr so far."""
    return pathlib.Path(self.log.name).read_text(errors="replace")

  def logged(self, pattern, seconds=60) -> str:
    """The group of `pattern` in stderr, as soon as it is there."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
      ended = self.process.poll() is not None
      found = re.search(pattern, self.errors())
      if found:
        return found[1]
      if ended:
        break
      time.sleep(0.005)
    raise AssertionError(f"no {pattern!r} in the log of serve: {self.errors()}")

  def health(self, service=""):
    return self.health_stub.Check(health_pb2.HealthCheckRequest(service=service),
                                  timeout=5, wait_for_ready=True).status

  def wait_ready(self, seconds=60):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
      if self.process.poll() is not None:
        raise AssertionError(f"serve ended with {self.process.returncode}: {self.errors()}")
      with contextlib.suppress(grpc.RpcError):
        if self.health() == health_pb2.HealthCheckResponse.SERVING:
          return
      time.sleep(0.05)
    raise AssertionError("not serving in time")

  def generate(self, text=None, ids=None, timeout=60, **sampling):
    """Consumes one stream: (text, token ids, finish reason, last message)."""
    request = pb.GenerateRequest(sampling=pb.SamplingParams(**sampling))
    if ids is not None:
      request.token_ids.ids.extend(ids)
    else:
      request.text = text
    out_text, out_ids, reason, last = "", [], 0, None
    for message in self.stub.Generate(request, timeout=timeout):
      out_text += message.text
      out_ids += message.token_ids
      reason = message.finish_reason or reason
      last = message
    return out_text, out_ids, reason, last

  def wait(self, seconds=30):
    """Waits until the process has ended: (exit status, stderr)."""
    try:
      self.process.wait(seconds)
    except subprocess.TimeoutExpired:
      self.process.kill()
      self.process.wait()
      raise AssertionError(f"serve did not end in {seconds} s: {self.errors()}") from None
    return self.process.returncode, self.errors()

  def stop(self, seconds=30):
    """SIGTERM; returns (exit status, stderr)."""
    if self.process.poll() is None:
      self.process.send_signal(signal.SIGTERM)
    try:
      return self.wait(seconds)
    finally:
      self.channel.close()

  def __enter__(self):
    return self

  def __exit__(self, *_):
    try:
      self.stop()
    finally:
      self.log.close()


_shared_servers = {}


def shared_server(model, *args, kind=Server):
  """A serving world of this configuration, shared by all tests of the file that ask for it.

  The first to ask starts it. A test that ended it leaves the next one a new world. When the tests
  of the file are done, each shared server must stop with exit code 0.
  """
  key = (kind, str(model), *[str(a) for a in args])
  server = _shared_servers.get(key)
  if server is None or server.process.poll() is not None:
    if not _shared_servers:
      unittest.addModuleCleanup(_stop_shared_servers)
    server = _shared_servers[key] = kind(model, *args)
  server.wait_ready()
  return server


def _stop_shared_servers():
  failed = []
  while _shared_servers:
    key, server = _shared_servers.popitem()
    with server:
      status, errors = server.stop()
    if status != 0:
      failed.append(f"{key}: exit {status}: {errors}")
  if failed:
    raise AssertionError("\n".join(failed))
