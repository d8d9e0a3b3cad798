"""`tandem bench` and `--trace` over real worlds: the form of the results and their arithmetic."""

import json
import pathlib
import statistics
import tempfile
import unittest
import xml.etree.ElementTree

import worlds

QUICK = ["--repeats", "2", "--warmup", "1", "--decode-tokens", "4"]
RESULT = {"phase", "batch", "context", "tokens_per_s", "gbps", "bandwidth_fraction", "gops",
          "peak_fraction", "seconds", "steps", "parts", "runs", "runs_read_gbps", "runs_peak_gops"}


def run(*args, stdin=""):
  """(exit code, stdout, stderr) of `tandem bench` over the demo model."""
  done = worlds.run("bench", worlds.DEMO, *QUICK, *args, stdin=stdin.encode())
  return done.returncode, done.stdout.decode(), done.stderr.decode()


def bench(*args, stdin=""):
  """(stdout, stderr) of a run that must succeed."""
  code, out, errors = run(*args, stdin=stdin)
  if code != 0:
    raise AssertionError(f"exit {code}: {errors}")
  return out, errors


class Bench(unittest.TestCase):

  def check(self, out, cells):
    self.assertGreater(out["read_gbps"], 0)
    self.assertGreater(out["peak_gops"], 0)
    self.assertEqual([(r["phase"], r["batch"], r["context"]) for r in out["results"]], cells)
    for result in out["results"]:
      self.assertEqual(set(result), RESULT)
      self.assertGreater(result["tokens_per_s"], 0)
      # All repetitions do the same work. A fraction is relative to the limit that was measured
      # around its repetition.
      for speed, ceilings, fraction in (("gbps", "runs_read_gbps", "bandwidth_fraction"),
                                        ("gops", "runs_peak_gops", "peak_fraction")):
        fractions = [result[speed] * run / result["tokens_per_s"] / ceiling
                     for run, ceiling in zip(result["runs"], result[ceilings], strict=True)]
        self.assertAlmostEqual(result[fraction] / statistics.median(fractions), 1, delta=1e-3)
      # Every moment belongs to one part. The current part counts until it is read, a little after
      # the repetition's clock stops.
      self.assertAlmostEqual(sum(result["parts"].values()), result["seconds"], delta=1e-3)
      self.assertEqual(len(result["runs"]), 2)
      # Only the cell is timed.
      tokens = [speed * result["seconds"] for speed in result["runs"]]
      if result["phase"] == "decode":
        self.assertEqual(result["steps"], 4)
        self.assertTrue(any(abs(t - 4 * result["batch"]) < 1e-6 for t in tokens), tokens)
      else:
        self.assertEqual(result["steps"], 1)
        self.assertTrue(any(abs(t - result["batch"] * result["context"]) < 1e-6 for t in tokens))
      self.assertTrue(all(speed > 0 for speed in result["runs"]))

  def test_grid_at_two_degrees(self):
    for tp in (1, 2):
      with tempfile.TemporaryDirectory() as folder:
        plot, trace = f"{folder}/plot.svg", f"{folder}/trace.json"
        out = json.loads(bench("--json", "--batch", "1,3", "--context", "32", "--tp", tp,
                               "--plot", plot, "--trace", trace)[0])
        self.check(out, [("prefill", 1, 32), ("prefill", 3, 32), ("decode", 1, 32),
                         ("decode", 3, 32)])
        self.assertEqual(out["tp"], tp)
        self.assertEqual(len(out["ranks"]), tp)
        self.assertEqual(xml.etree.ElementTree.parse(plot).getroot().tag,
                         "{http://www.w3.org/2000/svg}svg")
        events = json.loads(pathlib.Path(trace).read_text())["traceEvents"]
        slices = [e for e in events if e["ph"] == "X"]
        self.assertEqual({e["pid"] for e in slices}, set(range(tp)))
        names = {e["name"] for e in slices}
        self.assertLessEqual({"qkv", "attention", "output", "ffn", "head", "sampling", "idle",
                              "scheduling"}, names)
        self.assertEqual("all_reduce" in names, tp > 1)
        self.assertTrue(all(e["ts"] >= 0 and e["dur"] >= 0 for e in slices))

  def test_phases_cells_and_table(self):
    out = json.loads(bench("--json", "--phase", "decode", "--batch", "2", "--context",
                           "16,40")[0])
    self.check(out, [("decode", 2, 16), ("decode", 2, 40)])
    out = json.loads(bench("--json", "--cells", "prefill:1:48,decode:4:16")[0])
    self.check(out, [("prefill", 1, 48), ("decode", 4, 16)])
    table = bench("--phase", "prefill", "--batch", "1", "--context", "16")[0]
    self.assertRegex(table, r"prefill +1 +16 +[0-9.]+ +[0-9.]+ +[0-9]+% +[0-9.]+ +[0-9]+%")

  def test_paced_rounds_wait_for_lines_of_standard_input(self):
    for tp in (1, 2):
      out, errors = bench("--json", "--paced", "--cells", "decode:1:16", "--tp", tp,
                          stdin="a\nb\nc\n")
      self.check(json.loads(out), [("decode", 1, 16)])
      self.assertIn("bench: round 3 of 3", errors)
    code, _, errors = run("--paced", "--cells", "decode:1:16", stdin="a\n")
    self.assertEqual(code, 65)
    self.assertIn("standard input ended after 1 rounds, expected a line for each of 3", errors)

  def test_bad_input_is_one_line(self):
    for args, code, words in (
        (["--cells", "decode:1"], 64, "found 'decode:1', expected PHASE:BATCH:CONTEXT"),
        (["--phase", "both"], 64, "--phase"),
        (["--plot", "/nonexistent/a.svg"], 65, "--plot /nonexistent/a.svg: cannot be written"),
        (["--trace", "/nonexistent/a.json"], 65, "--trace /nonexistent/a.json: cannot be written"),
        (["--context", "100000"], 65, "--context: found 100000, expected at most"),
        (["--batch", "16", "--context", "64", "--kv-memory", "512KiB"], 69,
         "bench: 16 sequences of 80 tokens, but the KV cache holds 256")):
      found, out, errors = run(*args)
      self.assertEqual(found, code, (args, errors))
      self.assertIn(words, errors)
      self.assertEqual(out, "")


class Trace(unittest.TestCase):

  def test_serve_writes_the_trace_after_a_drain(self):
    with tempfile.TemporaryDirectory() as folder:
      file = pathlib.Path(folder) / "trace.json"
      with worlds.Server(worlds.DEMO, "--tp", 2, "--trace", file) as server:
        server.generate(ids=[1, 2], max_tokens=3)
        code, errors = server.stop()
        self.assertEqual(code, 0, errors)
      events = json.loads(file.read_text())["traceEvents"]
      self.assertEqual({e["pid"] for e in events if e["name"] == "ffn"}, {0, 1})


if __name__ == "__main__":
  unittest.main()
