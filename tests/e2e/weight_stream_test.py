"""--weights stream over real worlds: the bits of resident weights at every degree, in the planned
memory."""

import json
import os
import pathlib
import subprocess
import tempfile
import unittest

import plan_test
import worlds


def peak_of(*args):
  """(the object that generate prints, the largest process's peak of all pages in bytes)."""
  process = subprocess.Popen([worlds.BINARY, *map(str, args)], stdout=subprocess.PIPE,
                             stderr=subprocess.PIPE)
  out = process.stdout.read()
  errors = process.stderr.read()
  _, status, usage = os.wait4(process.pid, 0)
  process.returncode = os.waitstatus_to_exitcode(status)
  process.stdout.close()
  process.stderr.close()
  assert process.returncode == 0, errors.decode()
  return json.loads(out), usage.ru_maxrss * 1024


class WeightStream(unittest.TestCase):

  def setUp(self):
    folder = tempfile.TemporaryDirectory()
    self.addCleanup(folder.cleanup)
    self.folder = pathlib.Path(folder.name)
    self.cache = self.folder / "cache"

  def test_same_bits_at_every_degree(self):
    for dtype in ("bf16", "int4"):
      args = ("Once", "--max-tokens", 12, "--temperature", "0", "--threads", 1, "--dtype", dtype,
              "--speculate", "off")
      expected = worlds.generate(worlds.DEMO, *args)
      for tp in (1, 2, 3):
        out = worlds.generate(worlds.DEMO, *args, "--tp", tp, "--packed-cache", self.cache,
                              "--weights", "stream")
        self.assertEqual(out["token_ids"], expected["token_ids"], (dtype, tp))
        self.assertEqual(out["logits_hash"], expected["logits_hash"], (dtype, tp))
        # Each step reads the rank's layers again, which are about four fifths of its shard. (With
        # drafts there are fewer steps.)
        for mine, once in zip(out["ranks"], worlds.generate(
            worlds.DEMO, *args, "--tp", tp, "--packed-cache", self.cache)["ranks"]):
          self.assertGreater(mine["bytes_read"], 4 * once["bytes_read"])

  def test_memory_is_that_of_two_layers(self):
    model = self.folder / "model"
    model.mkdir()
    plan_test.make_zeros(model)
    args = ("generate", model, "--prompt-ids", "1,2,3", "--max-tokens", 4, "--temperature", "0",
            "--threads", 1, "--json", "--packed-cache", self.cache, "--kv-memory", "16MiB")
    resident, resident_peak = peak_of(*args)  # makes the file
    stream, peak = peak_of(*args, "--weights", "stream")
    self.assertEqual(stream["logits_hash"], resident["logits_hash"])
    planned = stream["ranks"][0]["planned_bytes"]
    self.assertLess(planned, 0.7 * resident["ranks"][0]["planned_bytes"])
    self.assertLess(stream["ranks"][0]["peak_memory"], 1.05 * planned)
    # All pages of the process, with the program and its libraries: 64 MiB in `tandem plan`.
    self.assertLess(peak, planned + (64 << 20))
    self.assertGreater(resident_peak, 1.3 * peak)

  def test_refusals(self):
    done = worlds.run("generate", worlds.DEMO, "x", "--weights", "stream")
    self.assertEqual(done.returncode, 64, done.stderr)
    self.assertEqual(done.stderr.count(b"\n"), 1, done.stderr)
    self.assertIn(b"--packed-cache", done.stderr)
    file = self.folder / "file"
    file.write_text("kept")
    for tp in (1, 2):
      done = worlds.run("generate", worlds.DEMO, "x", "--weights", "stream", "--packed-cache",
                        file / "cache", "--tp", tp)
      self.assertNotEqual(done.returncode, 0)
      self.assertIn(b"--weights stream: ", done.stderr)
      self.assertIn(b"Not a directory", done.stderr)

  def test_plan(self):
    args = ("plan", worlds.DEMO, "--devices", "1x1GiB", "--format", "bf16", "--json")
    resident = json.loads(worlds.run(*args).stdout)[0]
    stream = json.loads(worlds.run(*args, "--weights", "stream", "--stream-bandwidth", "1").stdout)[0]
    self.assertNotIn("streamed", resident["ranks"][0])
    self.assertLess(stream["ranks"][0]["weights"], stream["ranks"][0]["streamed"])
    self.assertLess(stream["decode_tokens_per_s"], resident["decode_tokens_per_s"])


if __name__ == "__main__":
  unittest.main()
