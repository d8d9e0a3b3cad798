"""`tandem doctor` through the real binary, with ranks on CPUs."""

import json
import unittest

import worlds


class Doctor(unittest.TestCase):

  def test_ways_of_ranks_on_cpus_are_right_and_timed(self):
    for tp in (2, 3):
      done = worlds.run("doctor", "--tp", tp, "--json")
      self.assertEqual(done.returncode, 0, done.stderr)
      found = json.loads(done.stdout)
      self.assertEqual(found["ranks"], tp)
      rows = found["all_reduce"]
      self.assertEqual({row["way"] for row in rows}, {"shm", "mpi"})
      sizes = {row["bytes"] for row in rows}
      self.assertEqual(len(rows), 2 * len(sizes))
      for row in rows:
        self.assertNotIn("error", row)
        self.assertGreater(row["microseconds"], 0)
      for size in sizes:
        self.assertEqual(sum(row["fastest"] for row in rows if row["bytes"] == size), 1)

  def test_table(self):
    done = worlds.run("doctor", "--tp", 2)
    self.assertEqual(done.returncode, 0, done.stderr)
    lines = done.stdout.decode().splitlines()
    self.assertEqual(lines[0], "all-reduce of 2 ranks")
    self.assertEqual(len([line for line in lines if "right, fastest" in line]), 4)

  def test_one_rank_has_nothing_to_test(self):
    done = worlds.run("doctor", "--tp", 1)
    self.assertEqual(done.returncode, 78)
    self.assertIn(b"expected --tp 2 or more", done.stderr)

  def test_a_missing_device_is_reported_once(self):
    done = worlds.run("doctor", "--tp", 2, "--device", "cuda")
    if done.returncode == 0:
      self.skipTest("this machine has GPUs")
    lines = [line for line in done.stderr.decode().splitlines() if "cuda" in line.lower()]
    self.assertEqual(len(lines), 1, done.stderr)
    self.assertEqual(done.stdout, b"")


if __name__ == "__main__":
  unittest.main()
