"""Sampling options of Generate, end to end: choices, stop texts, log-probabilities, defaults, error
details, the server's status; and that ended calls leave nothing behind."""

import concurrent.futures
import json
import math
import pathlib
import shutil
import tempfile
import threading
import time
import unittest

import worlds
from worlds import error_details_pb2, grpc, pb

PROMPT = "<|bos|><|user|>Add 12 and 30.<|end|><|assistant|>"
TWO_RANKS = (worlds.DEMO, "--tp", 2, "--threads", 1)
STORY = "<|bos|><|user|>Tell a story about a fox and a lamp.<|end|><|assistant|>"


def collect(server, prompt, timeout=60, **sampling):
  """One call: {choice: {text, token_ids, logprobs, last, parts}} and the last message."""
  request = pb.GenerateRequest(text=prompt, sampling=pb.SamplingParams(**sampling))
  choices, last = {}, None
  for message in server.stub.Generate(request, timeout=timeout):
    choice = choices.setdefault(message.choice, {"text": "", "token_ids": [], "logprobs": [],
                                                 "parts": [], "last": None})
    choice["text"] += message.text
    choice["parts"].append(message.text)
    choice["token_ids"] += message.token_ids
    choice["logprobs"] += message.logprobs
    choice["last"] = message
    last = message
  return choices, last


class Asking(unittest.TestCase):

  @classmethod
  def setUpClass(cls):
    cls.server = worlds.shared_server(*TWO_RANKS)

  def refused(self, code=grpc.StatusCode.INVALID_ARGUMENT, **sampling):
    with self.assertRaises(grpc.RpcError) as failed:
      collect(self.server, PROMPT, **sampling)
    self.assertEqual(failed.exception.code(), code, failed.exception.details())
    return failed.exception

  def test_stop_texts_across_tokens(self):
    whole, _ = collect(self.server, PROMPT, temperature=0.0, max_tokens=32)
    self.assertEqual(whole[0]["text"], "12 + 30 = 42")
    for stop in ("30 =", " = 4", "2 + 3", "12", "42"):
      for include in (False, True):
        got, last = collect(self.server, PROMPT, temperature=0.0, max_tokens=32, stop=[stop],
                            include_stop=include)
        expected = whole[0]["text"][:whole[0]["text"].index(stop) + (len(stop) if include else 0)]
        self.assertEqual(got[0]["text"], expected)
        self.assertEqual(last.finish_reason, pb.FINISH_REASON_STOP)
        self.assertEqual(last.stop_text, stop)
        self.assertEqual(last.usage.completion_tokens, len(got[0]["token_ids"]))
        # No message may contain text that a later one would have to take back.
        self.assertTrue(expected.startswith("".join(got[0]["parts"])))

  def test_a_stop_text_that_never_comes_changes_nothing(self):
    got, last = collect(self.server, PROMPT, temperature=0.0, max_tokens=32, stop=["42!", "xyz"])
    self.assertEqual(got[0]["text"], "12 + 30 = 42")
    self.assertEqual(last.WhichOneof("stopped_by"), "stop_token_id")

  def test_min_tokens_and_ignore_eos(self):
    got, last = collect(self.server, PROMPT, temperature=0.0, ignore_eos=True, max_tokens=40)
    self.assertEqual(len(got[0]["token_ids"]), 40)
    self.assertEqual(last.finish_reason, pb.FINISH_REASON_LENGTH)
    got, _ = collect(self.server, PROMPT, temperature=0.0, min_tokens=30, max_tokens=40)
    self.assertGreaterEqual(len(got[0]["token_ids"]), 30)

  def test_choices_share_the_prompt_and_differ(self):
    n = 6
    got, last = collect(self.server, STORY, temperature=1.5, seed=5, n=n, max_tokens=24,
                        ignore_eos=True)
    self.assertEqual(sorted(got), list(range(n)))
    self.assertGreater(len({tuple(c["token_ids"]) for c in got.values()}), 1)
    for choice in got.values():
      self.assertEqual(len(choice["token_ids"]), 24)
      self.assertEqual(choice["last"].finish_reason, pb.FINISH_REASON_LENGTH)
    self.assertEqual(last.usage.completion_tokens, n * 24)
    # A choice does not depend on how many others there are.
    again, _ = collect(self.server, STORY, temperature=1.5, seed=5, n=2, max_tokens=24,
                       ignore_eos=True)
    for i in range(2):
      self.assertEqual(again[i]["token_ids"], got[i]["token_ids"])

  def test_a_stop_text_ends_one_choice_only(self):
    got, last = collect(self.server, STORY, temperature=1.0, seed=3, n=8, max_tokens=60)
    words = [w for c in got.values() for w in c["text"].split()[3:6]]
    stop = max(set(words), key=words.count)
    cut, end = collect(self.server, STORY, temperature=1.0, seed=3, n=8, max_tokens=60, stop=[stop])
    for i, choice in got.items():
      self.assertEqual(cut[i]["text"], choice["text"].split(stop)[0])
    self.assertEqual(end.usage.completion_tokens,
                     sum(len(c["token_ids"]) for c in cut.values()))

  def test_logprobs(self):
    got, _ = collect(self.server, PROMPT, temperature=0.0, max_tokens=16, logprobs=5)
    answer = got[0]
    self.assertEqual([at.chosen.token_id for at in answer["logprobs"]], answer["token_ids"])
    for at in answer["logprobs"]:
      self.assertEqual(len(at.top), 5)
      values = [t.logprob for t in at.top]
      self.assertEqual(values, sorted(values, reverse=True))
      self.assertEqual(at.top[0].token_id, at.chosen.token_id)  # greedy
      self.assertLessEqual(sum(math.exp(v) for v in values), 1.0001)
    text = b"".join(at.chosen.token for at in answer["logprobs"][:-1]).decode()
    self.assertEqual(text, answer["text"])
    got, _ = collect(self.server, PROMPT, temperature=0.0, max_tokens=4, logprobs=0)
    self.assertEqual([len(at.top) for at in got[0]["logprobs"]], [0] * len(got[0]["token_ids"]))

  def test_penalties_and_biases_change_the_answer(self):
    plain, _ = collect(self.server, PROMPT, temperature=0.0, max_tokens=12)
    first = plain[0]["token_ids"][0]
    banned, _ = collect(self.server, PROMPT, temperature=0.0, max_tokens=12,
                        logit_bias={first: -100.0})
    self.assertNotIn(first, banned[0]["token_ids"])
    forced, _ = collect(self.server, PROMPT, temperature=0.0, max_tokens=5,
                        logit_bias={77: 100.0}, ignore_eos=True)
    self.assertEqual(forced[0]["token_ids"], [77] * 5)
    spread, _ = collect(self.server, PROMPT, temperature=0.0, max_tokens=60, ignore_eos=True,
                        repetition_penalty=100.0)
    self.assertEqual(len(set(spread[0]["token_ids"])), 60)
    for field in ("presence_penalty", "frequency_penalty"):
      drawn = {"temperature": 3.0, "seed": 1, "max_tokens": 100, "ignore_eos": True}
      other, _ = collect(self.server, STORY, **drawn, **{field: 2.0})
      still, _ = collect(self.server, STORY, **drawn)
      self.assertNotEqual(other[0]["token_ids"], still[0]["token_ids"])
    # min_p of 1 leaves only the most probable token.
    for seed in range(5):
      greedy, _ = collect(self.server, PROMPT, temperature=1.0, min_p=1.0, seed=seed, max_tokens=32)
      self.assertEqual(greedy[0]["text"], "12 + 30 = 42")

  def test_refusals_name_the_field_in_the_details(self):
    cases = {
        "sampling.temperature": {"temperature": -1.0},
        "sampling.top_k": {"top_k": -1},
        "sampling.top_p": {"top_p": 0.0},
        "sampling.min_p": {"min_p": 1.5},
        "sampling.repetition_penalty": {"repetition_penalty": 0.0},
        "sampling.presence_penalty": {"presence_penalty": 2.5},
        "sampling.frequency_penalty": {"frequency_penalty": float("nan")},
        "sampling.logit_bias[3]": {"logit_bias": {3: 101.0}},
        "sampling.max_tokens": {"max_tokens": 0},
        "sampling.min_tokens": {"min_tokens": 10, "max_tokens": 5},
        "sampling.stop_token_ids[0]": {"stop_token_ids": [-1]},
        "sampling.n": {"n": 0},
        "sampling.logprobs": {"logprobs": 21},
        "sampling.stop[1]": {"stop": ["a", ""]},
        "sampling.stop": {"stop": ["a"] * 17},
    }
    for field, sampling in cases.items():
      error = self.refused(**sampling)
      (bad,) = worlds.details(error)
      self.assertEqual(bad.field_violations[0].field, field)
      self.assertEqual(error.details(), f"{field}: {bad.field_violations[0].description}")
      self.assertIn("allowed: ", error.details())

  def test_status_of_the_server(self):
    collect(self.server, PROMPT, temperature=0.0)
    deadline = time.monotonic() + 10
    while True:  # the counts change a moment after the last message of a stream
      status = self.server.stub.GetServerStatus(pb.GetServerStatusRequest(), timeout=10)
      if status.running == 0 or time.monotonic() > deadline:
        break
    self.assertEqual((status.tp_degree, len(status.ranks)), (2, 2))
    self.assertEqual([r.rank for r in status.ranks], [0, 1])
    self.assertGreater(status.uptime.ToTimedelta().total_seconds(), 0)
    self.assertGreater(status.kv_blocks_total, 0)
    self.assertGreater(status.generated_tokens, 0)
    self.assertEqual((status.running, status.waiting), (0, 0))
    below = worlds.processes_of_group(self.server.process.pid)
    for rank in status.ranks:
      self.assertIn(rank.pid, below)
      planned = rank.planned
      self.assertEqual(planned.total, planned.weights + planned.kv + planned.workspace +
                       planned.communication + planned.process + planned.preparation +
                       planned.embedding)
      self.assertGreater(planned.weights, 0)
      self.assertGreater(rank.measured_bytes, planned.weights)

  def test_the_command_line_gives_the_same_answers(self):
    arguments = ["--temperature", "0", "--stop", " = ", "--include-stop", "--max-tokens", "20"]
    done = worlds.run("client", "--addr", self.server.address, PROMPT, *arguments, "--json",
                      "--n", "2", "--logprobs", "1")
    answer = json.loads(done.stdout)
    self.assertEqual([c["text"] for c in answer["choices"]], ["12 + 30 = "] * 2)
    self.assertEqual(answer["choices"][1]["stop"], " = ")
    self.assertEqual(len(answer["choices"][0]["logprobs"]), len(answer["choices"][0]["token_ids"]))
    self.assertEqual(worlds.generate(worlds.DEMO, PROMPT, *arguments)["text"], "12 + 30 = ")
    done = worlds.run("client", "--addr", self.server.address, PROMPT, "--min-p", "3")
    self.assertEqual(done.returncode, 65)
    self.assertIn(b"sampling.min_p", done.stderr)


class LeaveNothingBehind(unittest.TestCase):

  def resources(self, server):
    status = server.stub.GetServerStatus(pb.GetServerStatusRequest(), timeout=10)
    front = pathlib.Path(f"/proc/{status.ranks[0].pid}")
    return (status.kv_blocks_used, len(list((front / "fd").iterdir())),
            sum(rank.measured_bytes for rank in status.ranks))

  def settle(self, server):
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
      status = server.stub.GetServerStatus(pb.GetServerStatusRequest(), timeout=10)
      if (status.running, status.waiting, status.kv_blocks_used) == (0, 0, 0):
        return
      time.sleep(0.05)
    self.fail(f"still busy: {status}")

  def cancel_many(self, server, count, seed):
    def one(i):
      # Before the first token, after it, in the queue, between choices.
      request = pb.GenerateRequest(text=STORY, sampling=pb.SamplingParams(
          temperature=3.0, max_tokens=400, n=1 + i % 3, seed=seed, ignore_eos=True))
      call = server.stub.Generate(request, timeout=60)
      if i % 4 != 0:
        for _ in range(i % 4):
          next(iter(call))
      call.cancel()
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
      list(pool.map(one, range(count)))

  def test_two_thousand_cancels(self):
    server = worlds.shared_server(*TWO_RANKS)
    self.cancel_many(server, 400, seed=1)  # allocators and caches reach their size
    self.settle(server)
    blocks, descriptors, memory = self.resources(server)
    self.cancel_many(server, 2000, seed=2)
    self.settle(server)
    after_blocks, after_descriptors, after_memory = self.resources(server)
    self.assertEqual(after_blocks, blocks)
    self.assertEqual(after_descriptors, descriptors)
    # A leaked request would hold its prompt and answer: 2,000 times even 4 KiB are 8 MB.
    self.assertLess(after_memory - memory, 6 << 20)
    got, _ = collect(server, PROMPT, temperature=0.0)
    self.assertEqual(got[0]["text"], "12 + 30 = 42")

  def test_a_slow_reader_delays_nobody(self):
    server = worlds.shared_server(worlds.DEMO, "--tp", 1, "--threads", 1)
    request = pb.GenerateRequest(text=STORY, sampling=pb.SamplingParams(
        temperature=1.0, seed=1, max_tokens=450, ignore_eos=True, logprobs=20, n=16))
    slow_channel = grpc.insecure_channel(
        server.address, options=[("grpc.http2.lookahead_bytes", 1024),
                                 ("grpc.http2.bdp_probe", 0)])
    slow = worlds.pb_grpc.InferenceServiceStub(slow_channel).Generate(request, timeout=120)
    next(iter(slow))  # and reads no more
    for _ in range(10):
      got, _ = collect(server, PROMPT, temperature=0.0, timeout=30)
      self.assertEqual(got[0]["text"], "12 + 30 = 42")
    # The engine finishes the slow reader's sequences without waiting for it.
    self.settle(server)
    tokens = {i: 0 for i in range(16)}
    for message in slow:  # the tokens that waited come in few messages
      tokens[message.choice] += len(message.token_ids)
    self.assertGreaterEqual(sum(tokens.values()), 16 * 450 - 16)
    slow_channel.close()

  def test_a_full_queue_refuses_at_once_with_a_retry_delay(self):
    with worlds.Server(worlds.DEMO, "--threads", 1, "--max-queue", 4, "--max-num-seqs",
                       1) as server:
      request = pb.GenerateRequest(text=STORY, sampling=pb.SamplingParams(
          temperature=1.0, max_tokens=450, ignore_eos=True))
      calls = [server.stub.Generate(request, timeout=60) for _ in range(12)]
      refused = threading.Semaphore(0)
      errors = []

      def follow(call):
        try:
          for _ in call:
            pass
        except grpc.RpcError as error:
          errors.append(error)
          refused.release()
      threads = [threading.Thread(target=follow, args=(call,)) for call in calls]
      for thread in threads:
        thread.start()
      for _ in range(3):  # one runs, four wait, the others are refused meanwhile
        self.assertTrue(refused.acquire(timeout=10))
      for call in calls:
        call.cancel()
      for thread in threads:
        thread.join()
      full = [e for e in errors if e.code() == grpc.StatusCode.RESOURCE_EXHAUSTED]
      self.assertGreaterEqual(len(full), 3)
      (retry,) = worlds.details(full[0])
      self.assertIsInstance(retry, error_details_pb2.RetryInfo)
      self.assertGreater(retry.retry_delay.ToTimedelta().total_seconds(), 0)


class Defaults(unittest.TestCase):

  def test_generation_config_fills_what_is_unset(self):
    with tempfile.TemporaryDirectory() as folder:
      model = pathlib.Path(folder) / "model"
      shutil.copytree(worlds.DEMO, model)
      path = model / "generation_config.json"
      config = json.loads(path.read_text()) if path.exists() else {}

      def answers(count=6, **changes):
        path.write_text(json.dumps({**config, **changes}))
        with worlds.Server(model, "--threads", 1) as server:
          return {collect(server, STORY, max_tokens=12, seed=s)[0][0]["text"]
                  for s in range(count)}

      greedy = answers(do_sample=False, temperature=1.0)
      self.assertEqual(len(greedy), 1)
      self.assertEqual(answers(do_sample=True, temperature=5.0, top_k=1), greedy)
      self.assertEqual(answers(do_sample=True, temperature=5.0, top_p=1e-6), greedy)
      self.assertEqual(answers(do_sample=True, temperature=1.0, min_p=1.0), greedy)
      self.assertGreater(len(answers(do_sample=True, temperature=5.0, top_k=0, top_p=1.0)), 1)


if __name__ == "__main__":
  unittest.main()
