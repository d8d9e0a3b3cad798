"""The load guard of a served world: its thresholds act, are logged, and change no answer."""

import concurrent.futures
import time
import unittest

import worlds
from worlds import pb

# A block has 16 tokens. The bytes of a token depend on the model, so the test counts blocks.
PROMPTS = [[1] + [3 + (7 * i + j) % 200 for j in range(5 + i)] for i in range(12)]


class Watch(unittest.TestCase):

  def status(self, server):
    return server.stub.GetServerStatus(pb.GetServerStatusRequest(), timeout=10)

  def answers(self, server, tokens):
    """All prompts at once; token ids by prompt."""
    with concurrent.futures.ThreadPoolExecutor(len(PROMPTS)) as pool:
      return list(pool.map(
          lambda i: server.generate(ids=PROMPTS[i], temperature=0.0, ignore_eos=True,
                                    max_tokens=tokens(i))[1], range(len(PROMPTS))))

  def until(self, server, condition, seconds=20):
    deadline = time.monotonic() + seconds
    while True:
      status = self.status(server)
      if condition(status.watch) or time.monotonic() > deadline:
        return status.watch
      time.sleep(0.2)

  def test_batch_and_blocks(self):
    def tokens(i):
      return 200 if i % 2 else 8  # short answers leave holes between the blocks of long ones

    with worlds.Server(worlds.DEMO, "--threads", 1, "--watch-kv", "1,1", "--watch-fragmentation",
                       "1,1", "--watch-latency", "1e6,1e6") as server:
      expected = self.answers(server, tokens)
      watch = self.status(server).watch
      self.assertEqual((watch.batch_reductions, watch.compactions), (0, 0))
      self.assertEqual(watch.max_running, 64)
      self.assertEqual(watch.itl, pb.WatchStatus.LATENCY_NORMAL)
      block = self.status(server).ranks[0].planned.kv // self.status(server).kv_blocks_total

    # A long answer takes 13 or 14 of 20 blocks: two that meet pass the upper threshold.
    for tp in (1, 2):
      with worlds.Server(worlds.DEMO, "--tp", tp, "--threads", 1, "--max-model-len", 256,
                         "--kv-memory", 20 * block, "--watch-kv", "0.5,0.8",
                         "--watch-fragmentation", "0.02,0.05", "--watch-latency",
                         "1e6,1e6") as server:
        for _ in range(20):  # the holes depend on the order of the requests
          self.assertEqual(self.answers(server, tokens), expected)
          watch = self.until(server, lambda w: w.batch_growths > 0)
          if watch.compactions > 0:
            break
        self.assertGreater(watch.batch_reductions, 0)
        self.assertGreater(watch.batch_growths, 0)
        self.assertGreater(watch.compactions, 0)
        self.assertGreater(watch.blocks_moved, 0)
        _, errors = server.stop()
      self.assertRegex(errors, r"warning rank 0: batch reduced to \d+ of \d+ sequences: "
                               r"\d+\.\d % of the KV blocks are held, over 80\.0 %")
      self.assertRegex(errors, r"info rank 0: batch may grow to \d+ sequences")
      self.assertRegex(errors, r"info rank 0: KV cache is compacted: \d+ of the lowest \d+ blocks "
                               r"are free, fragmentation \d+\.\d %, over 5\.0 %")

  def test_latency(self):
    # Every token takes more than a nanosecond, so the alarm is raised.
    with worlds.Server(worlds.DEMO, "--threads", 1, "--watch-latency", "1e-9,1e-9") as server:
      for _ in range(2):  # the alarm needs twenty first tokens
        self.answers(server, lambda i: 12)
      time.sleep(1.1)
      self.answers(server, lambda i: 4)
      watch = self.until(server, lambda w: w.latency_alarms >= 2)
      self.assertEqual(watch.itl, pb.WatchStatus.LATENCY_ALARM)
      self.assertEqual(watch.ttft, pb.WatchStatus.LATENCY_ALARM)
      self.assertEqual(watch.latency_alarms, 2)
      self.assertGreater(watch.itl_p95.ToTimedelta().total_seconds(), 0)
      self.assertGreater(watch.ttft_p95.ToTimedelta().total_seconds(), 0)
      _, errors = server.stop()
    self.assertRegex(errors, r"error rank 0: inter-token latency: 95 % are within \d+ ms, alarm")
    self.assertRegex(errors, r"error rank 0: time to first token: 95 % are within \d+ ms, alarm")

  def test_thresholds_out_of_order_are_refused(self):
    for wrong in ("0.9,0.8", "0.5", "0.5,1.5", "a,b"):
      done = worlds.run("serve", worlds.DEMO, "--watch-kv", wrong)
      self.assertEqual(done.returncode, 64, wrong)
      self.assertIn(b"--watch-kv", done.stderr)


if __name__ == "__main__":
  unittest.main()
