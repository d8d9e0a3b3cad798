"""The clients under proto/examples, with stubs made from the .proto alone."""

import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import types
import unittest

import worlds

EXAMPLES = worlds.SOURCE / "proto/examples"
QUESTION = "Add 12 and 30."
ANSWER = "12 + 30 = 42"
TOKENS = tempfile.NamedTemporaryFile("w")
TOKENS.write("secret\n")
TOKENS.flush()


class Clients:
  """What every example must do; `command` is how to run it."""

  def ask(self, server, *flags, question=QUESTION, env=None, timeout=60):
    return subprocess.run([*self.command, *flags, server.address, question], capture_output=True,
                          timeout=timeout, env={**os.environ, **self.env, **(env or {})})

  def test_streams_an_answer_with_a_token(self):
    server = worlds.shared_server(worlds.DEMO, "--threads", 1, "--auth-token-file", TOKENS.name)
    done = self.ask(server, *self.flags(temperature=0), env={"TANDEM_TOKEN": "secret"})
    self.assertEqual(done.stdout.decode().strip(), ANSWER, done.stderr)
    done = self.ask(server, *self.flags(temperature=0))
    self.assertEqual(done.returncode, 1)
    self.assertIn("unauthenticated", done.stderr.decode().lower())

  def test_deadline_and_cancel(self):
    server = worlds.shared_server(worlds.DEMO, "--threads", 1, "--max-num-seqs", 1)
    # A long request runs, so that the question waits.
    stream = server.stub.Generate(worlds.pb.GenerateRequest(
        text="x", sampling=worlds.pb.SamplingParams(max_tokens=500, ignore_eos=True, n=60,
                                                    temperature=3.0)), timeout=120)
    next(iter(stream))
    done = self.ask(server, *self.flags(deadline=0.3))
    self.assertEqual(done.returncode, 1)
    self.assertRegex(done.stderr.decode().lower(), "deadline_?exceeded")
    done = self.ask(server, *self.flags(patience=0.3))
    self.assertEqual(done.returncode, 1)
    self.assertRegex(done.stderr.decode().lower(), "cancell?ed")
    stream.cancel()

  def test_retries_until_the_server_is_there(self):
    address = f"127.0.0.1:{worlds.free_port()}"  # the client asks before the server starts
    started = []

    def start():
      time.sleep(0.5)
      started.append(worlds.Server(worlds.DEMO, "--threads", 1, address=address,
                                   ready=False))
    thread = threading.Thread(target=start)
    thread.start()

    target = types.SimpleNamespace(address=address)
    try:
      deadline = time.monotonic() + 20
      while True:  # pauses between retries are random: several calls may be needed
        done = self.ask(target, *self.flags(temperature=0))
        if done.returncode == 0 or time.monotonic() > deadline:
          break
      self.assertEqual(done.stdout.decode().strip(), ANSWER, done.stderr)
    finally:
      thread.join()
      started[0].stop()


class Python(Clients, unittest.TestCase):

  command = [sys.executable, "-W", "ignore", str(EXAMPLES / "python/client.py")]
  env = {"PYTHONPATH": worlds.STUBS}

  def flags(self, **values):
    return [part for key, value in values.items() for part in (f"--{key}", str(value))]


class Go(Clients, unittest.TestCase):

  env = {}

  @classmethod
  def setUpClass(cls):
    tools = ("go", "protoc", "protoc-gen-go", "protoc-gen-go-grpc")
    missing = [t for t in tools if shutil.which(t) is None]
    if missing:
      raise unittest.SkipTest(f"not installed: {', '.join(missing)}")
    if not pathlib.Path("/usr/share/gocode/src/google.golang.org/grpc").exists():
      raise unittest.SkipTest("grpc-go is not installed (golang-google-grpc-dev)")
    cls.temp = tempfile.TemporaryDirectory()
    source = pathlib.Path(cls.temp.name) / "src"
    source.mkdir()
    proto = worlds.SOURCE / "proto"
    subprocess.run(["protoc", "-I", proto, f"--go_out={source}", f"--go-grpc_out={source}",
                    proto / "tandem/v1/inference.proto"], check=True)
    shutil.copytree(EXAMPLES / "go", source / "client")
    shutil.copy(worlds.SOURCE / "tests/e2e/go_codec.go", source / "client")
    binary = pathlib.Path(cls.temp.name) / "client"
    subprocess.run(["go", "build", "-o", binary, "client"], check=True, cwd=source,
                   env={**os.environ, "GO111MODULE": "off", "GOFLAGS": "",
                        "GOPATH": f"{cls.temp.name}:/usr/share/gocode",
                        "GOCACHE": f"{cls.temp.name}/cache"})
    cls.command = [str(binary)]
    cls.env = {"GRPC_GO_RETRY": "on"}

  @classmethod
  def tearDownClass(cls):
    cls.temp.cleanup()

  def flags(self, **values):
    return [part for key, value in values.items()
            for part in (f"-{key}", f"{value}s" if key in ("deadline", "patience") else str(value))]


if __name__ == "__main__":
  unittest.main()
