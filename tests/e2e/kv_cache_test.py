"""The held-out tasks with an int8 KV cache: what it costs in accuracy, and the same text at TP = 1
and TP = 3, where a rank holds other heads."""

import concurrent.futures
import json
import unittest

import worlds


class KvCache(unittest.TestCase):

  def answers(self, tp, kv_dtype):
    text = (worlds.SOURCE / "tests/models/demo_tasks.jsonl").read_text()
    tasks = [json.loads(line) for line in text.splitlines()]
    with worlds.Server(worlds.DEMO, "--tp", tp, "--threads", 1, "--kv-dtype",
                       kv_dtype) as server:
      with concurrent.futures.ThreadPoolExecutor(16) as pool:
        texts = list(pool.map(
            lambda task: server.generate(task["prompt"], temperature=0.0, max_tokens=96)[0],
            tasks))
      status, errors = server.stop()
      self.assertEqual(status, 0, errors)
    right = sum(text.strip() == task["answer"].strip() for task, text in zip(tasks, texts))
    return texts, right / len(tasks)

  def test_int8_loses_little_and_is_the_same_at_any_degree(self):
    _, stored = self.answers(1, "auto")
    alone, int8 = self.answers(1, "int8")
    sharded, _ = self.answers(3, "int8")
    self.assertEqual(alone, sharded)
    print(f"accuracy: {stored:.3f} as stored, {int8:.3f} with int8")
    # Four of the 500 tasks.
    self.assertGreaterEqual(int8, stored - 0.008)


if __name__ == "__main__":
  unittest.main()
