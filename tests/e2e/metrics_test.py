"""The metrics endpoint of `tandem serve`: the values that Prometheus reads against the requests
made. Prometheus' own client parses the text; promtool checks it if it is installed."""

import contextlib
import http.client
import math
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import unittest
import urllib.error
import urllib.request

from prometheus_client.parser import text_string_to_metric_families

import worlds
from worlds import grpc, pb

PROMPT = "<|bos|><|user|>Add 12 and 30.<|end|><|assistant|>"
ONES = {"build_info", "model_info"}


class Scrape:
  """One answer of the endpoint: values by name and labels, types by name; names without prefix."""

  def __init__(self, address):
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=10) as answer:
      assert answer.status == 200
      assert answer.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
      self.text = answer.read().decode()
    self.kinds = dict(re.findall(r"^# TYPE tandem_(\w+) (\w+)$", self.text, re.MULTILINE))
    self.helps = dict(re.findall(r"^# HELP tandem_(\w+) (.+)$", self.text, re.MULTILINE))
    self.values = {}
    for family in text_string_to_metric_families(self.text):
      for sample in family.samples:
        key = (sample.name.removeprefix("tandem_"), frozenset(sample.labels.items()))
        assert sample.name.startswith("tandem_"), sample
        assert key not in self.values, f"twice: {key}"
        self.values[key] = sample.value

  def get(self, name, **labels):
    return self.values[name, frozenset((key, str(value)) for key, value in labels.items())]

  def labels(self, name):
    return [dict(labels) for found, labels in self.values if found == name]

  def cumulative(self):
    """The values that may only grow."""
    parts = ("_bucket", "_count", "_sum")
    return {key: value for key, value in self.values.items()
            if self.kinds.get(key[0]) == "counter" or key[0].endswith(parts)}


class Server(worlds.Server):
  """A server with a metrics endpoint at `metrics`."""

  def __init__(self, model, *args, metrics="127.0.0.1:0", ready=True, **kwargs):
    super().__init__(model, "--metrics-listen", metrics, *args, ready=False, **kwargs)
    self.metrics = self.logged(r"metrics at (\S+)") if metrics.endswith(":0") else metrics
    if ready:
      self.wait_ready()

  def scrape(self):
    return Scrape(self.metrics)

  def quiet(self, seconds=20):
    """A scrape after the last request has left the engine."""
    deadline = time.monotonic() + seconds
    while True:
      status = self.stub.GetServerStatus(pb.GetServerStatusRequest(), timeout=10)
      if status.running + status.waiting == 0 or time.monotonic() > deadline:
        return self.scrape()
      time.sleep(0.02)


class Serving(unittest.TestCase):
  """One world of two ranks for all tests that do not end it."""

  @classmethod
  def setUpClass(cls):
    cls.server = worlds.shared_server(worlds.DEMO, "--tp", 2, "--threads", 1, kind=Server)

  def changes(self, ask):
    """What the values grew by while `ask` ran: a function of name and labels."""
    before = self.server.quiet()
    ask()
    after = self.server.quiet()
    return lambda name, **labels: after.get(name, **labels) - before.get(name, **labels)

  def test_counters_match_the_requests(self):
    answers = []

    def ask():
      for sampling in ({}, {"max_tokens": 4}, {"n": 3, "temperature": 9.0, "seed": 5,
                                              "max_tokens": 7, "ignore_eos": True},
                       {"max_tokens": 1}):
        request = pb.GenerateRequest(
            text=PROMPT, sampling=pb.SamplingParams(**{"temperature": 0.0, **sampling}))
        answers.append(list(self.server.stub.Generate(request, timeout=60)))

    start = time.monotonic()
    grew = self.changes(ask)
    took = time.monotonic() - start
    usages = [messages[-1].usage for messages in answers]
    choices = 1 + 1 + 3 + 1
    tokens = sum(len(message.token_ids) for messages in answers for message in messages)
    self.assertEqual(tokens, sum(usage.completion_tokens for usage in usages))
    prompt = usages[0].prompt_tokens

    self.assertEqual(grew("request_success_total", finished_reason="stop"), 1)
    self.assertEqual(grew("request_success_total", finished_reason="length"), 3)
    self.assertEqual(sum(grew("request_failures_total", **labels) for labels in
                         self.server.scrape().labels("request_failures_total")), 0)
    self.assertEqual(grew("generation_tokens_total"), tokens)
    self.assertEqual(grew("prefix_cache_queries_total"), choices * prompt)
    self.assertEqual(grew("prompt_tokens_total") + grew("prefix_cache_hits_total"),
                     choices * prompt)
    self.assertEqual(grew("num_preemptions_total"), 0)

    for name, count in (("time_to_first_token_seconds", choices),
                        ("request_queue_time_seconds", choices),
                        ("inter_token_latency_seconds", tokens - choices),
                        ("e2e_request_latency_seconds", 4),
                        ("request_prompt_tokens", 4),
                        ("request_generation_tokens", 4)):
      self.assertEqual(grew(f"{name}_count"), count, name)
    self.assertEqual(grew("request_prompt_tokens_sum"), 4 * prompt)
    self.assertEqual(grew("request_generation_tokens_sum"), tokens)
    # The last token of a choice is sampled, but never an input of a step. Drafts that were wrong are.
    wrong = (grew("spec_decode_num_draft_tokens_total") -
             grew("spec_decode_num_accepted_tokens_total"))
    self.assertEqual(grew("iteration_tokens_sum"),
                     grew("prompt_tokens_total") + tokens - choices + wrong)
    self.assertLessEqual(grew("e2e_request_latency_seconds_sum"), took)
    self.assertLessEqual(grew("time_to_first_token_seconds_sum"),
                         3 * grew("e2e_request_latency_seconds_sum"))
    self.assertLessEqual(grew("request_queue_time_seconds_sum"),
                         grew("time_to_first_token_seconds_sum"))
    self.assertGreater(grew("inter_token_latency_seconds_sum"), 0)
    self.assertGreater(grew("step_seconds_total", part="all_reduce", rank=0), 0)
    self.assertGreater(grew("step_seconds_total", part="ffn", rank=0), 0)

  def test_failures_by_status(self):
    def ask():
      for _ in range(2):
        with self.assertRaises(grpc.RpcError):
          self.server.generate(PROMPT, temperature=-1.0)
      with self.assertRaises(grpc.RpcError):
        self.server.generate("Once", temperature=20.0, max_tokens=480, ignore_eos=True,
                             timeout=0.005)
      request = pb.GenerateRequest(text=PROMPT, sampling=pb.SamplingParams(
          temperature=2.0, max_tokens=400, ignore_eos=True))
      call = self.server.stub.Generate(request, timeout=60)
      next(iter(call))
      call.cancel()

    before = self.server.quiet()
    ask()
    expected = {"INVALID_ARGUMENT": 2, "given up": 2}
    deadline = time.monotonic() + 10
    while True:  # the server learns of a cancel later than the caller
      after = self.server.quiet()
      grew = {labels["code"]: after.get("request_failures_total", **labels) -
              before.get("request_failures_total", **labels)
              for labels in after.labels("request_failures_total")}
      # At a deadline the client's cancel may arrive before the server's own deadline.
      late = grew.pop("DEADLINE_EXCEEDED")
      self.assertIn(late, (0, 1))
      grew["given up"] = late + grew.pop("CANCELLED")
      grew = {code: count for code, count in grew.items() if count}
      if grew == expected or time.monotonic() > deadline:
        break
    self.assertEqual(grew, expected)
    for labels in after.labels("request_success_total"):
      self.assertEqual(after.get("request_success_total", **labels),
                       before.get("request_success_total", **labels))

  def test_gauges_while_a_stream_runs(self):
    request = pb.GenerateRequest(text=PROMPT, sampling=pb.SamplingParams(
        temperature=2.0, max_tokens=400, ignore_eos=True))
    call = self.server.stub.Generate(request, timeout=60)
    next(iter(call))
    during = self.server.scrape()
    for _ in call:
      pass
    after = self.server.quiet()
    self.assertEqual(during.get("num_requests_running"), 1)
    self.assertEqual(after.get("num_requests_running"), 0)
    blocks = during.get("kv_cache_blocks")
    used = during.get("kv_cache_usage_perc") * blocks
    self.assertAlmostEqual(used, round(used), 6)
    self.assertGreaterEqual(round(used), 1)
    self.assertEqual(after.get("kv_cache_usage_perc"), 0)
    self.assertEqual(after.get("num_requests_running_limit"), 64)

  def test_values_only_grow_and_histograms_add_up(self):
    self.server.generate(PROMPT, temperature=0.0)  # all metrics exist after the first step
    first = self.server.quiet()
    self.server.generate(PROMPT, temperature=0.0)
    second = self.server.quiet()
    self.assertEqual(first.kinds, second.kinds)
    self.assertEqual(set(first.cumulative()), set(second.cumulative()))
    for key, value in second.cumulative().items():
      self.assertGreaterEqual(value, first.cumulative()[key], key)
    histograms = [name for name, kind in second.kinds.items() if kind == "histogram"]
    self.assertEqual(len(histograms), 7)
    for name in histograms:
      counts = sorted((float(labels["le"]), second.get(f"{name}_bucket", **labels))
                      for labels in second.labels(f"{name}_bucket"))
      self.assertEqual(counts[-1], (math.inf, second.get(f"{name}_count")), name)
      self.assertEqual([c for _, c in counts], sorted(c for _, c in counts), name)
      self.assertGreater(second.get(f"{name}_sum"), 0, name)

  def test_ranks_and_what_is_served(self):
    scrape = self.server.scrape()
    version = worlds.run("--version").stdout.decode().split()[1]
    (build,) = scrape.labels("build_info")
    self.assertEqual(build["version"], version)
    self.assertRegex(build["build"], r"^[0-9a-f]{8,}$")
    model = scrape.labels("model_info")
    self.assertEqual([(m["model"], m["architecture"], m["tp"]) for m in model],
                     [("demo", "LlamaForCausalLM", "2")])
    for name in ONES:
      self.assertEqual(scrape.get(name, **scrape.labels(name)[0]), 1)
    self.assertEqual(scrape.get("model_loaded"), 1)
    self.assertEqual(scrape.get("draining"), 0)
    self.assertEqual(scrape.get("restarts_total"), 0)
    status = self.server.stub.GetServerStatus(pb.GetServerStatusRequest(), timeout=10)
    for rank in status.ranks:
      where = {"rank": rank.rank, "host": rank.host}
      self.assertEqual(scrape.get("rank_up", **where), 1)
      for purpose in ("weights", "embedding", "kv", "workspace", "communication", "process",
                      "preparation"):
        self.assertEqual(scrape.get("rank_memory_planned_bytes", purpose=purpose, **where),
                         getattr(rank.planned, purpose))
      now = scrape.get("rank_memory_bytes", **where)
      self.assertAlmostEqual(now / rank.measured_bytes, 1, delta=0.1)
      self.assertGreaterEqual(scrape.get("rank_memory_peak_bytes", **where), now)
    self.assertEqual(len(scrape.labels("rank_up")), 2)
    self.server.generate(PROMPT, temperature=0.0, max_tokens=2)
    self.assertLess(self.server.scrape().get("rank_heartbeat_age_seconds"), 10)

  def test_the_table_in_the_documentation(self):
    self.server.generate(PROMPT, temperature=0.0, max_tokens=2)
    scrape = self.server.scrape()
    self.assertEqual(set(scrape.kinds), set(scrape.helps))
    rows = [(name.removeprefix("tandem_"), labels, kind)
            for name, labels, kind in worlds.documented_metrics()]
    self.assertEqual({name: kind for name, _, kind in rows}, scrape.kinds)
    self.assertEqual(len(rows), len(scrape.kinds))
    for name, labels, kind in rows:
      sample = scrape.labels(f"{name}_bucket" if kind == "histogram" else name)[0]
      self.assertEqual(labels, set(sample) - {"le"}, name)

  def test_promtool_finds_no_fault(self):
    if not shutil.which("promtool"):
      self.skipTest("promtool (Debian: prometheus) is not installed")
    done = subprocess.run(["promtool", "check", "metrics"], input=self.server.scrape().text,
                          capture_output=True, text=True)
    self.assertEqual((done.returncode, done.stdout + done.stderr), (0, ""))

  def test_other_paths_and_methods(self):
    def ask(method, path, body=None):
      connection = http.client.HTTPConnection(self.server.metrics, timeout=10)
      with contextlib.closing(connection):
        connection.request(method, path, body=body)
        answer = connection.getresponse()
        return answer.status, answer.read(), answer.headers

    for path in ("/", "/metric", "/metrics/", "/metricsfoo", "/../metrics", "/%00"):
      self.assertEqual(ask("GET", path)[0], 404, path)
    self.assertEqual(ask("GET", "/metrics?name=x")[0], 200)
    status, body, headers = ask("HEAD", "/metrics")
    self.assertEqual((status, body), (200, b""))
    self.assertGreater(int(headers["Content-Length"]), 1000)
    for method in ("POST", "PUT", "DELETE"):
      status, _, headers = ask(method, "/metrics", b"x" * 10)
      self.assertEqual((status, headers["Allow"]), (405, "GET, HEAD"), method)
    with socket.create_connection(self.server.metrics.split(":"), timeout=10) as raw:
      raw.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\nX: " + b"y" * 100_000)
      self.assertRegex(raw.recv(100), rb"^HTTP/1.1 4\d\d ")
    # Connections that send nothing do not block the next one.
    with contextlib.ExitStack() as stack:
      for _ in range(8):
        stack.enter_context(socket.create_connection(self.server.metrics.split(":")))
      self.assertEqual(self.server.scrape().get("model_loaded"), 1)


class Lifecycle(unittest.TestCase):

  def test_while_the_model_is_loading(self):
    # A tokenizer that comes through a pipe keeps the server loading until it is written.
    with tempfile.TemporaryDirectory() as folder:
      for path in worlds.DEMO.iterdir():
        if path.name != "tokenizer.json":
          os.symlink(path, f"{folder}/{path.name}")
      os.mkfifo(f"{folder}/tokenizer.json")
      with Server(folder, "--tp", 1, "--threads", 1, ready=False) as server:
        with open(f"{folder}/tokenizer.json", "wb") as pipe:  # opens when the server does
          scrape = server.scrape()
          with self.assertRaises(grpc.RpcError) as failed:
            server.generate("Once")
          self.assertEqual(failed.exception.code(), grpc.StatusCode.UNAVAILABLE)
          refused = server.scrape()
          pipe.write((worlds.DEMO / "tokenizer.json").read_bytes())
        self.assertEqual(scrape.get("model_loaded"), 0)
        self.assertEqual(len(scrape.labels("build_info")), 1)
        self.assertEqual(refused.get("request_failures_total", code="UNAVAILABLE"), 1)
        # Metrics without a known value are omitted.
        for name in ("num_requests_running", "kv_cache_usage_perc", "rank_up",
                     "time_to_first_token_seconds_count"):
          self.assertEqual(scrape.labels(name), [])
        server.wait_ready()
        self.assertEqual(server.scrape().get("model_loaded"), 1)
        # A single rank has no peer whose heartbeats could age.
        self.assertEqual(server.scrape().labels("rank_heartbeat_age_seconds"), [])

  def test_a_drain_can_be_watched_to_its_end(self):
    with Server(worlds.DEMO, "--tp", 1, "--threads", 1) as server:
      request = pb.GenerateRequest(text=PROMPT, sampling=pb.SamplingParams(
          temperature=0.0, max_tokens=480, ignore_eos=True))
      call = server.stub.Generate(request, timeout=30)
      next(iter(call))
      server.process.send_signal(signal.SIGTERM)
      seen = []
      while server.process.poll() is None:
        with contextlib.suppress(OSError, http.client.HTTPException):
          seen.append(server.scrape())
      self.assertGreater(sum(1 for _ in call), 0)
      code, errors = server.wait()
      self.assertEqual(code, 0, errors)
      draining = [scrape for scrape in seen if scrape.get("draining") == 1]
      self.assertGreater(len(draining), 0)
      self.assertEqual(draining[0].get("num_requests_running"), 1)
      with self.assertRaises(urllib.error.URLError):
        server.scrape()

  def test_restarts_are_counted(self):
    # Addresses that stay the same when the world restarts.
    with Server(worlds.DEMO, "--tp", 2, "--threads", 1,
                address=f"127.0.0.1:{worlds.free_port()}",
                metrics=f"127.0.0.1:{worlds.free_port()}") as server:
      for restarts in (1, 2):
        status = server.stub.GetServerStatus(pb.GetServerStatusRequest(), timeout=10)
        os.kill(status.ranks[1].pid, signal.SIGKILL)
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
          with contextlib.suppress(OSError, http.client.HTTPException):
            scrape = server.scrape()
            ranks = [scrape.get("rank_up", **labels) for labels in scrape.labels("rank_up")]
            if scrape.get("restarts_total") == restarts and ranks:
              break
          time.sleep(0.05)
        self.assertEqual(scrape.get("restarts_total"), restarts)
        self.assertEqual(ranks, [1, 1])
        server.wait_ready()

  def test_a_given_world_counts_no_restarts(self):
    mpirun = ["mpirun", "--allow-run-as-root", "--oversubscribe", "--bind-to", "none", "-np", "2",
              worlds.BINARY]
    with Server(worlds.DEMO, "--threads", 1, command=mpirun) as server:
      self.assertEqual(server.scrape().labels("restarts_total"), [])
      server.process.send_signal(signal.SIGUSR1)
      server.wait()

  def test_without_the_option_no_port_is_open(self):
    with worlds.Server(worlds.DEMO, "--tp", 1) as server:
      (rank,) = server.stub.GetServerStatus(pb.GetServerStatusRequest(), timeout=10).ranks
      files = f"/proc/{rank.pid}/fd"
      links = [os.readlink(f"{files}/{name}") for name in os.listdir(files)]
      inodes = {link[8:-1] for link in links if link.startswith("socket:")}
      with open("/proc/net/tcp") as four, open("/proc/net/tcp6") as six:
        listening = [line.split() for file in (four, six) for line in file]
      self.assertEqual(sum(f[3] == "0A" and f[9] in inodes for f in listening), 1)

  def test_an_address_that_cannot_be_used_is_one_line(self):
    with socket.socket() as taken:
      taken.bind(("127.0.0.1", 0))
      taken.listen()
      used = f"127.0.0.1:{taken.getsockname()[1]}"
      for address, code, told in ((used, 69, f"metrics: cannot listen on {used}: Address already"),
                                  ("192.0.2.1:9464", 69, "cannot listen on 192.0.2.1:9464"),
                                  ("9464", 65, 'metrics: listen address "9464": expected HOST:PORT '
                                               "or [IPv6]:PORT"),
                                  ("unix:/tmp/x", 65, "expected HOST:PORT or [IPv6]:PORT"),
                                  ("127.0.0.1:66000", 65, "expected HOST:PORT")):
        for tp in (1, 2):
          with tempfile.TemporaryDirectory() as folder:
            done = worlds.run("serve", worlds.DEMO, "--tp", tp, "--listen", f"unix:{folder}/socket",
                              "--metrics-listen", address)
          lines = done.stderr.decode().strip().splitlines()
          self.assertEqual((len(lines), done.returncode), (1, code), lines)
          self.assertIn(told, lines[0])

  def test_port_0_is_logged_and_ipv6_works(self):
    with worlds.Server(worlds.DEMO, "--tp", 1, "--metrics-listen", "[::1]:0") as server:
      address = server.logged(r"metrics at (\[::1\]:[1-9]\d*)\n")
      self.assertEqual(Scrape(address).get("model_loaded"), 1)


if __name__ == "__main__":
  unittest.main()
