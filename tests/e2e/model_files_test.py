"""What happens to a model's files under a running server does not change its answers. With streamed
weights the packed file is checked each time that it is read: a step fails, or its answer is right."""

import os
import pathlib
import random
import shutil
import tempfile
import unittest

import worlds

PROMPT = "Once upon a time"


class ModelFiles(unittest.TestCase):

  def setUp(self):
    folder = tempfile.TemporaryDirectory()
    self.addCleanup(folder.cleanup)
    self.folder = pathlib.Path(folder.name)
    self.model = self.folder / "model"
    self.cache = self.folder / "cache"
    shutil.copytree(worlds.DEMO, self.model)
    self.weights = self.model / "model.safetensors"

  def answers(self, server):
    """Of many tokens of the vocabulary, so that many rows of the embedding are looked up."""
    found = [server.generate(PROMPT, temperature=0, max_tokens=12)[1]]
    for begin in range(3, 60, 19):
      found.append(server.generate(ids=list(range(begin, begin + 19)), temperature=0,
                                   max_tokens=12)[1])
    return found

  def test_answers_stay_the_same(self):
    for tp in (1, 2):
      for weights in ("resident", "stream"):
        shutil.copyfile(worlds.DEMO / "model.safetensors", self.weights)
        more = ("--packed-cache", self.cache, "--weights", weights) if weights == "stream" else ()
        with worlds.Server(self.model, "--tp", tp, "--threads", 1, *more) as server:
          expected = self.answers(server)
          size = self.weights.stat().st_size
          with self.weights.open("r+b") as file:
            file.write(random.Random(tp).randbytes(size))
          self.assertEqual(self.answers(server), expected, (tp, weights, "overwritten"))
          os.truncate(self.weights, 4096)
          self.assertEqual(self.answers(server), expected, (tp, weights, "cut"))
          os.truncate(self.weights, 0)
          self.assertEqual(self.answers(server), expected, (tp, weights, "empty"))
          self.weights.unlink()
          self.assertEqual(self.answers(server), expected, (tp, weights, "deleted"))
          self.weights.write_bytes(b"another")
          self.assertEqual(self.answers(server), expected, (tp, weights, "replaced"))
          status, errors = server.stop()
          self.assertEqual(status, 0, errors)

  def test_a_packed_file_that_changes_under_a_stream(self):
    """The step fails with a line that names the file; the next world makes it again."""
    for tp in (1, 2):
      for change in ("overwritten", "cut"):
        shutil.rmtree(self.cache, ignore_errors=True)
        with worlds.Server(self.model, "--tp", tp, "--threads", 1, "--packed-cache", self.cache,
                           "--weights", "stream",
                           address=f"127.0.0.1:{worlds.free_port()}") as server:
          server.wait_ready()
          expected = self.answers(server)
          file = next(self.cache.iterdir())
          whole = file.read_bytes()
          if change == "cut":
            os.truncate(file, 8192)
          else:
            with file.open("r+b") as out:
              out.seek(4096)
              out.write(random.Random(tp).randbytes(len(whole) - 4096))
          try:
            # What of the first layer had been read before may finish one step.
            self.assertEqual(self.answers(server), expected)
            self.fail("the file was not read again")
          except worlds.grpc.RpcError as error:
            self.assertEqual(error.code(), worlds.grpc.StatusCode.UNAVAILABLE)
          server.wait_ready(60)
          self.assertEqual(self.answers(server), expected)
          self.assertIn(str(file), server.errors())
          self.assertEqual(file.read_bytes(), whole)

  def test_a_packed_file_that_is_deleted_or_replaced_stays_open(self):
    with worlds.Server(self.model, "--threads", 1, "--packed-cache", self.cache, "--weights",
                       "stream") as server:
      expected = self.answers(server)
      file = next(self.cache.iterdir())
      file.unlink()
      self.assertEqual(self.answers(server), expected)
      file.write_bytes(b"another")
      self.assertEqual(self.answers(server), expected)


if __name__ == "__main__":
  unittest.main()
