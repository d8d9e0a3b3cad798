"""Requests of allowed size that cost a server as much as they can: its memory stays bounded, and
health and short requests are answered meanwhile."""

import pathlib
import re
import threading
import time
import unittest

import worlds
from worlds import grpc, health_pb2, health_pb2_grpc, pb

# Beyond what the server has at rest. Generous: --preparation-memory is 128 MiB.
MOST_MIB = 200
# 390,000 messages used to leave 600 MiB behind.
MOST_LEFT_MIB = 50


def field(number, content):
  """A length-delimited field of protobuf."""
  length, varint = len(content), b""
  while length >= 128:
    varint += bytes([length % 128 + 128])
    length //= 128
  return bytes([number << 3 | 2]) + varint + bytes([length]) + content


class Memory:
  """The largest anonymous and shared memory of a process while the context is open."""

  def __init__(self, pid):
    self.status = pathlib.Path(f"/proc/{pid}/status")
    self.before = self.now()

  def now(self):
    kib = re.findall(r"Rss(?:Anon|Shmem):\s+(\d+) kB", self.status.read_text())
    return sum(int(k) for k in kib) / 1024

  def __enter__(self):
    self.peak, self.open = self.now(), True
    self.thread = threading.Thread(target=self.watch)
    self.thread.start()
    return self

  def watch(self):
    while self.open:
      self.peak = max(self.peak, self.now())
      time.sleep(0.005)

  def __exit__(self, *_):
    self.open = False
    self.thread.join()


class Flood(unittest.TestCase):

  def setUp(self):
    self.server = worlds.shared_server(worlds.DEMO, "--tp", 1, "--threads", 1)
    status = self.server.stub.GetServerStatus(pb.GetServerStatusRequest(), timeout=10)
    self.pid = status.ranks[0].pid
    self.assertEqual(status.ranks[0].planned.preparation, 128 << 20)

  def refusal(self, method, raw):
    path = f"/tandem.v1.InferenceService/{method}"
    stream = method == "Generate"
    kind = self.server.channel.unary_stream if stream else self.server.channel.unary_unary
    call = kind(path, request_serializer=None, response_deserializer=None)
    try:
      answer = call(raw, timeout=60)
      if stream:
        list(answer)
    except grpc.RpcError as error:
      return error.code(), error.details()
    return grpc.StatusCode.OK, ""

  def assert_given_back(self, memory):
    deadline = time.monotonic() + 20
    while memory.now() - memory.before > MOST_LEFT_MIB and time.monotonic() < deadline:
      time.sleep(0.1)
    self.assertLess(memory.now() - memory.before, MOST_LEFT_MIB)

  def test_no_request_takes_the_memory(self):
    bad = grpc.StatusCode.INVALID_ARGUMENT
    many = 390_000
    user = field(1, b"user")
    list_value = field(6, field(1, b"") * 1_900_000)
    requests = (
        ("Generate", field(3, field(1, field(1, b"user") + field(2, b"")) * many), bad,
         f"messages.messages: {many} messages, allowed: at most 4096"),
        ("Generate", field(3, field(1, user + field(7, b"") * 1_900_000)), bad, "content_parts"),
        ("Generate", field(3, field(1, user) + field(2, b"[" + b"[]," * 1_200_000 + b"[]]")), bad,
         "messages.tools_json"),
        ("Generate", field(3, field(1, user) + field(4, field(1, field(1, b"a") +
                                                              field(2, list_value)))), bad,
         "messages.template_variables"),
        ("Generate", field(4, field(15, b"") * 1_900_000), bad, "request"),
        ("Generate", field(4, field(11, b"") * 1_900_000), bad, "request"),
        ("Generate", field(1, b"a!b " * 900_000), bad, "estimated"),
        ("Generate", field(2, field(1, b"\x05" * 3_900_000)), bad, "estimated"),
        ("Generate", field(3, field(1, user + field(2, b"a!b " * 900_000))), bad, "messages"),
        ("Generate", field(3, field(1, user + field(2, b"<|end|>" * 500_000))), bad, "messages"),
        ("Detokenize", field(1, b"\x64" * 3_900_000), bad, "ids"),
        ("GetModel", b"\x78\x01" * 1_900_000, bad, "request"),
        ("GetServerStatus", b"\x7b\x7c" * 1_900_000, bad, "request"),
        ("Tokenize", b"\x7b\x7c" * 1_900_000, bad, "request"),
        ("Tokenize", field(1, b"a!b " * 900_000), None, ""),
    )
    memory = Memory(self.pid)
    for method, raw, code, words in requests:
      with self.subTest(method=method, words=words), memory:
        found, message = self.refusal(method, raw)
        if code is not None:
          self.assertEqual((found, words in message), (code, True), message)
      self.assertLess(memory.peak - memory.before, MOST_MIB, (method, words))
    self.assert_given_back(memory)
    self.assertEqual(self.server.generate("hello", max_tokens=2, temperature=0.0)[3]
                     .usage.completion_tokens, 2)

  def test_health_and_short_requests_are_answered_in_a_flood(self):
    text = b"The quick brown fox, 123 jumps! " * 110_000
    floods = [("Generate", field(1, text)), ("Tokenize", field(1, text)),
              ("Generate", field(3, field(1, field(1, b"user") + field(2, text))))]
    memory = Memory(self.pid)
    over, statuses = threading.Event(), []

    def flood(method, raw):
      with grpc.insecure_channel(self.server.address,
                                 options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
        call = (channel.unary_stream if method == "Generate" else channel.unary_unary)(
            f"/tandem.v1.InferenceService/{method}",
            request_serializer=None, response_deserializer=None)
        while not over.is_set():
          try:
            answer = call(raw, timeout=60)
            if method == "Generate":
              list(answer)
            statuses.append(grpc.StatusCode.OK)
          except grpc.RpcError as error:
            statuses.append(error.code())

    clients = [threading.Thread(target=flood, args=floods[i % 3]) for i in range(8)]
    with memory:
      for client in clients:
        client.start()
      try:
        for _ in range(20):
          # A connection of its own, as a balancer's check may be.
          with grpc.insecure_channel(self.server.address, options=[
              ("grpc.use_local_subchannel_pool", 1)]) as channel:
            answer = health_pb2_grpc.HealthStub(channel).Check(
                health_pb2.HealthCheckRequest(), timeout=5, wait_for_ready=True)
            self.assertEqual(answer.status, health_pb2.HealthCheckResponse.SERVING)
          last = self.server.generate("hello", max_tokens=1, temperature=0.0, timeout=20)[3]
          self.assertEqual(last.usage.completion_tokens, 1)
      finally:
        over.set()
        for client in clients:
          client.join()
    self.assertLess(memory.peak - memory.before, MOST_MIB)
    self.assert_given_back(memory)
    # Refused for what they are, or asked to come back; never anything else.
    self.assertTrue(statuses)
    self.assertLessEqual(set(statuses), {grpc.StatusCode.OK, grpc.StatusCode.INVALID_ARGUMENT,
                                         grpc.StatusCode.RESOURCE_EXHAUSTED})


if __name__ == "__main__":
  unittest.main()
