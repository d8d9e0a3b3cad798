"""TLS, client certificates, bearer tokens, and the limits on connections and requests."""

import contextlib
import os
import pathlib
import resource
import signal
import socket
import struct
import subprocess
import tempfile
import time
import unittest

import worlds
from worlds import grpc, health_pb2, health_pb2_grpc, pb, pb_grpc

PROMPT = "<|bos|><|user|>Add 12 and 30.<|end|><|assistant|>"
ANSWER = "12 + 30 = 42"
LONG = pb.GenerateRequest(text=PROMPT, sampling=pb.SamplingParams(
    temperature=1.0, max_tokens=480, ignore_eos=True))


def openssl(folder, *args):
  subprocess.run(["openssl", *args], cwd=folder, check=True, capture_output=True)


def make_certificates(folder):
  """A CA, certificates of a server and a client that it signed, and one that it did not."""
  openssl(folder, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=ca",
          "-keyout", "ca.key", "-out", "ca.pem")
  for name in ("server", "client", "other"):
    openssl(folder, "req", "-newkey", "rsa:2048", "-nodes", "-subj", f"/CN={name}",
            "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1",
            "-keyout", f"{name}.key", "-out", f"{name}.csr")
    openssl(folder, "x509", "-req", "-in", f"{name}.csr", "-CA", "ca.pem", "-CAkey", "ca.key",
            "-CAcreateserial", "-days", "2", "-copy_extensions", "copy", "-out", f"{name}.pem")
  openssl(folder, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj",
          "/CN=stranger", "-keyout", "stranger.key", "-out", "stranger.pem")


class Secure(unittest.TestCase):

  @classmethod
  def setUpClass(cls):
    cls.temp = tempfile.TemporaryDirectory()
    cls.folder = pathlib.Path(cls.temp.name)
    make_certificates(cls.folder)

  @classmethod
  def tearDownClass(cls):
    cls.temp.cleanup()

  def file(self, name):
    return str(self.folder / name)

  def bytes_of(self, name):
    return (self.folder / name).read_bytes()

  @contextlib.contextmanager
  def stub(self, server, root="ca.pem", pair=None):
    credentials = grpc.ssl_channel_credentials(
        self.bytes_of(root), *(self.bytes_of(f"{pair}.{kind}") if pair else None
                               for kind in ("key", "pem")))
    with grpc.secure_channel(server.address, credentials) as channel:
      yield pb_grpc.InferenceServiceStub(channel), health_pb2_grpc.HealthStub(channel)

  def ask(self, stub, metadata=()):
    request = pb.GenerateRequest(text=PROMPT, sampling=pb.SamplingParams(temperature=0.0))
    return "".join(m.text for m in stub.Generate(request, timeout=20, metadata=metadata))

  def wait_serving(self, health):
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
      with contextlib.suppress(grpc.RpcError):
        if health.Check(health_pb2.HealthCheckRequest(), timeout=5, wait_for_ready=True).status == (
            health_pb2.HealthCheckResponse.SERVING):
          return
      time.sleep(0.05)
    self.fail("not serving")

  def test_tls(self):
    server = worlds.Server(worlds.DEMO, "--threads", 1, "--tls-cert", self.file("server.pem"),
                           "--tls-key", self.file("server.key"), ready=False)
    with server:
      with self.stub(server) as (stub, health):
        self.wait_serving(health)
        self.assertEqual(self.ask(stub), ANSWER)
      with self.assertRaises(grpc.RpcError) as failed:  # in plain text
        server.generate(PROMPT, timeout=5)
      self.assertEqual(failed.exception.code(), grpc.StatusCode.UNAVAILABLE)
      with self.stub(server, root="stranger.pem") as (stub, _):
        with self.assertRaises(grpc.RpcError):
          self.ask(stub)
      done = worlds.run("client", "--addr", server.address, "--tls-ca", self.file("ca.pem"), PROMPT,
                        "--temperature", "0")
      self.assertEqual(done.stdout.decode().strip(), ANSWER, done.stderr)
      done = worlds.run("client", "--addr", server.address, PROMPT)
      self.assertEqual(done.returncode, 69)

  def test_client_certificates(self):
    server = worlds.Server(worlds.DEMO, "--threads", 1, "--tls-cert", self.file("server.pem"),
                           "--tls-key", self.file("server.key"), "--tls-client-ca",
                           self.file("ca.pem"), ready=False)
    with server:
      with self.stub(server, pair="client") as (stub, health):
        self.wait_serving(health)
        self.assertEqual(self.ask(stub), ANSWER)
      for pair in (None, "stranger"):
        with self.stub(server, pair=pair) as (stub, _):
          with self.assertRaises(grpc.RpcError) as failed:
            self.ask(stub)
          self.assertEqual(failed.exception.code(), grpc.StatusCode.UNAVAILABLE)
      done = worlds.run("client", "--addr", server.address, "--tls-ca", self.file("ca.pem"),
                        "--tls-cert", self.file("client.pem"), "--tls-key",
                        self.file("client.key"), PROMPT, "--temperature", "0")
      self.assertEqual(done.stdout.decode().strip(), ANSWER, done.stderr)

  def test_a_renewed_certificate_is_used_without_a_restart(self):
    for kind in ("pem", "key"):
      (self.folder / f"shown.{kind}").write_bytes(self.bytes_of(f"server.{kind}"))
    server = worlds.Server(worlds.DEMO, "--threads", 1, "--tls-cert", self.file("shown.pem"),
                           "--tls-key", self.file("shown.key"), ready=False)
    with server:
      with self.stub(server) as (_, health):
        self.wait_serving(health)
      (self.folder / "shown.key").write_bytes(self.bytes_of("other.key"))
      time.sleep(1.1)  # the server has looked at the files by now
      with self.stub(server) as (stub, _):
        self.assertEqual(self.ask(stub), ANSWER)  # with the old pair, as long as the two differ
      self.assertIn("belongs to another certificate", server.errors())
      (self.folder / "shown.pem").write_bytes(self.bytes_of("other.pem"))
      deadline = time.monotonic() + 30
      shown = ""
      while "other" not in shown and time.monotonic() < deadline:
        done = subprocess.run(["openssl", "s_client", "-connect", server.address, "-alpn", "h2"],
                              input=b"", capture_output=True)
        shown = next(l for l in done.stdout.decode(errors="replace").splitlines() if l.startswith("subject="))
        time.sleep(0.5)
      self.assertIn("other", shown)

  def test_bad_files_end_the_start_with_one_line(self):
    (self.folder / "no.pem").write_text("nothing")
    cases = [
        (["--tls-cert", "server.pem"], "--tls-key"),
        (["--tls-cert", "missing.pem", "--tls-key", "server.key"], "missing.pem"),
        (["--tls-cert", "no.pem", "--tls-key", "server.key"], "no.pem"),
        (["--tls-cert", "server.pem", "--tls-key", "no.pem"], "no.pem"),
        (["--tls-cert", "server.pem", "--tls-key", "other.key"], "other.key"),
        (["--tls-client-ca", "ca.pem"], "--tls-cert"),
        (["--auth-token-file", "missing.txt"], "missing.txt"),
        (["--auth-token-file", "empty.txt"], "empty.txt"),
    ]
    (self.folder / "empty.txt").write_text("# none\n\n")
    for arguments, named in cases:
      arguments = [a if a.startswith("--") else self.file(a) for a in arguments]
      done = worlds.run("serve", worlds.DEMO, "--listen", f"unix:{self.folder}/socket", *arguments,
                        timeout=30)
      self.assertEqual(done.returncode, 78, (arguments, done.stderr))
      (line,) = done.stderr.decode().strip().splitlines()
      self.assertIn(named, line)

  def test_tokens(self):
    tokens = self.folder / "tokens.txt"
    tokens.write_text("# who may call\nfirst-token\nsecond-token\n")
    with worlds.Server(worlds.DEMO, "--threads", 1, "--auth-token-file", tokens) as server:
      def code_of(metadata):
        try:
          server.stub.GetModel(pb.GetModelRequest(), timeout=10, metadata=metadata)
          self.ask(server.stub, metadata)
          return grpc.StatusCode.OK
        except grpc.RpcError as error:
          return error.code()
      for token, code in (("first-token", "OK"), ("second-token", "OK"),
                          ("first-toke", "UNAUTHENTICATED"), ("", "UNAUTHENTICATED")):
        found = code_of((("authorization", f"Bearer {token}"),))
        self.assertEqual(found, grpc.StatusCode[code], token)
      self.assertEqual(code_of(()), grpc.StatusCode.UNAUTHENTICATED)
      for call, request in ((server.stub.Tokenize, pb.TokenizeRequest(text="x")),
                            (server.stub.Detokenize, pb.DetokenizeRequest(ids=[1])),
                            (server.stub.GetServerStatus, pb.GetServerStatusRequest())):
        with self.assertRaises(grpc.RpcError) as failed:
          call(request, timeout=10)
        self.assertEqual(failed.exception.code(), grpc.StatusCode.UNAUTHENTICATED)
      # Health probes need no token.
      self.assertEqual(server.health(), health_pb2.HealthCheckResponse.SERVING)
      # A changed file takes effect at once.
      tokens.write_text("third-token\n")
      self.assertEqual(code_of((("authorization", "Bearer third-token"),)), grpc.StatusCode.OK)
      self.assertEqual(code_of((("authorization", "Bearer first-token"),)),
                       grpc.StatusCode.UNAUTHENTICATED)
      done = worlds.run("client", "--addr", server.address, "--token-file", tokens, PROMPT,
                        "--temperature", "0")
      self.assertEqual(done.stdout.decode().strip(), ANSWER, done.stderr)
      # Something that is no file holds up neither calls nor the drain.
      tokens.unlink()
      os.mkfifo(tokens)
      self.assertEqual(code_of((("authorization", "Bearer fourth-token"),)),
                       grpc.StatusCode.UNAUTHENTICATED)
      self.assertEqual(code_of((("authorization", "Bearer third-token"),)), grpc.StatusCode.OK)
      server.process.send_signal(signal.SIGTERM)
      self.assertEqual(server.process.wait(timeout=20), 0)


class Limits(unittest.TestCase):

  @classmethod
  def setUpClass(cls):
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # for a test's own connections

  def limited_server(self):
    return worlds.shared_server(worlds.DEMO, "--threads", 1, "--max-message-bytes", "64KiB",
                                "--max-streams", 2)

  def test_a_request_too_long(self):
    server = self.limited_server()
    with self.assertRaises(grpc.RpcError) as failed:
      server.generate("x" * 70000)
    self.assertEqual(failed.exception.code(), grpc.StatusCode.RESOURCE_EXHAUSTED)
    self.assertEqual(server.generate(PROMPT, temperature=0.0)[0], ANSWER)

  def test_streams_survive_the_end_of_an_old_connection(self):
    with worlds.Server(worlds.DEMO, "--threads", 1, "--max-connection-age", "0.3",
                       "--max-connection-age-grace", 30) as server:
      # Longer than the age of several connections: a call either finishes on the old connection
      # or gets a new one.
      begin = time.monotonic()
      while time.monotonic() < begin + 2:
        tokens = sum(len(m.token_ids) for m in server.stub.Generate(LONG, timeout=60))
        self.assertEqual(tokens, 480)

  def test_a_client_that_pings_too_often_is_disconnected(self):
    server = self.limited_server()
    restless = grpc.insecure_channel(server.address, options=[
        ("grpc.keepalive_time_ms", 100), ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0), ("grpc.use_local_subchannel_pool", 1)])
    watch = health_pb2_grpc.HealthStub(restless).Watch(
        health_pb2.HealthCheckRequest(), timeout=30)
    with self.assertRaises(grpc.RpcError) as caught:
      for _ in watch:
        pass
    self.assertEqual(caught.exception.code(), grpc.StatusCode.UNAVAILABLE)
    self.assertIn("too many pings", caught.exception.details().lower())
    restless.close()
    # Other clients are not disturbed.
    self.assertEqual(len(server.generate("Add 1 and 2.", max_tokens=3, ignore_eos=True)[1]), 3)

  def test_floods_of_connections_do_not_make_it_deaf(self):
    low = ["prlimit", "--nofile=512:1024", worlds.BINARY]
    with worlds.Server(worlds.DEMO, "--threads", 1, command=low) as server:
      (rank,) = server.stub.GetServerStatus(pb.GetServerStatusRequest(), timeout=10).ranks
      with open(f"/proc/{rank.pid}/limits") as limits:
        self.assertRegex(limits.read(), r"Max open files +1024 +1024 ")
      address = server.address.split(":")
      stream = server.stub.Generate(LONG, timeout=60)
      tokens = len(next(stream).token_ids)
      for _ in range(3000):
        with socket.create_connection(address) as raw:
          raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
      with contextlib.ExitStack() as stack:
        for _ in range(1100):
          stack.enter_context(socket.create_connection(address))
        # Another stream on the connection that is open; a new connection finds no room.
        self.assertEqual(self.ask_on(server.channel), 3)
        server.logged("(new connections are closed: 768 are open)", 9)
      with grpc.insecure_channel(server.address,
                                 options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
        self.assertEqual(self.ask_on(channel), 3)
      self.assertEqual(tokens + sum(len(m.token_ids) for m in stream), 480)

  def ask_on(self, channel):
    request = pb.GenerateRequest(text=PROMPT, sampling=pb.SamplingParams(
        max_tokens=3, ignore_eos=True))
    call = pb_grpc.InferenceServiceStub(channel).Generate(request, timeout=5)
    return sum(len(m.token_ids) for m in call)

  def test_streams_of_one_connection(self):
    calls = [self.limited_server().stub.Generate(LONG, timeout=60) for _ in range(5)]
    # Two run; the others wait in the client and are served later.
    for call in calls:
      self.assertEqual(sum(len(m.token_ids) for m in call), 480)

  def test_unix_sockets_and_ipv6(self):
    with tempfile.TemporaryDirectory() as folder:
      for address in (f"unix:{folder}/socket", "[::1]:0"):
        if address.startswith("[") and not os.path.exists("/proc/sys/net/ipv6"):
          self.skipTest("no IPv6 here")
        with worlds.Server(worlds.DEMO, "--threads", 1, address=address, ready=False) as server:
          done = worlds.run("client", "--addr", server.address, "--wait-ready", "20", PROMPT,
                            "--temperature", "0")
          self.assertEqual(done.stdout.decode().strip(), ANSWER, done.stderr)


if __name__ == "__main__":
  unittest.main()
