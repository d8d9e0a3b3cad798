"""`tandem quantize` and `tandem eval` through the real binary."""

import array
import json
import math
import pathlib
import resource
import shutil
import signal
import struct
import subprocess
import tempfile
import unittest

import worlds

TEXT = worlds.SOURCE / "tests/models/demo_text.txt"
CALIBRATION = worlds.SOURCE / "tests/models/demo_calibration.txt"
EVAL_GOLDEN = worlds.SOURCE / "tests/golden/eval/demo.json"


def run(*arguments, **options):
  return subprocess.run([worlds.BINARY, *map(str, arguments)], capture_output=True, text=True,
                        timeout=120, **options)


class Folder(unittest.TestCase):

  def setUp(self):
    self.folder = pathlib.Path(tempfile.mkdtemp(prefix="tandem_quantize_"))
    self.addCleanup(shutil.rmtree, self.folder)
    self.short = self.folder / "short.txt"
    self.short.write_text(TEXT.read_text()[:1500])

  def evaluate(self, model, *arguments):
    done = run("eval", model, "--json", *arguments)
    self.assertEqual(done.returncode, 0, done.stderr)
    return json.loads(done.stdout)


class Quantize(Folder):

  def test_folder_is_complete(self):
    out = self.folder / "out"
    done = run("quantize", worlds.DEMO, out, "--dtype", "int4", "--calibration", CALIBRATION,
               "--calibration-tokens", 2000)
    self.assertEqual(done.returncode, 0, done.stderr)
    self.assertIn(f"{out}: 1.1 MiB of weights, 0.301 of the source's 3.6 MiB", done.stdout)
    self.assertEqual(sorted(path.name for path in self.folder.iterdir()), ["out", "short.txt"])
    config = json.loads((out / "config.json").read_text())
    quantization = config.pop("quantization_config")
    self.assertEqual(config, json.loads((worlds.DEMO / "config.json").read_text()))
    self.assertEqual(quantization["quant_method"], "compressed-tensors")
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
      self.assertEqual((out / name).read_bytes(), (worlds.DEMO / name).read_bytes())
    # It gives the same bits at any degree, close to those of its source.
    hashes = set()
    for tp in (1, 2, 3):
      found = self.evaluate(out, "--text", self.short, "--tp", tp, "--threads", 1,
                            "--reference", worlds.DEMO)
      hashes.add((found["logits_hash"], found["nll"]))
      self.assertLess(found["reference"]["kl_divergence"], 0.05)
      self.assertGreater(found["reference"]["same_top_token"], 0.9)
    self.assertEqual(len(hashes), 1)
    # A second time, with another number of threads, it writes the same bytes.
    again = self.folder / "again"
    done = run("quantize", worlds.DEMO, again, "--calibration", CALIBRATION,
               "--calibration-tokens", 2000, "--threads", 1)
    self.assertEqual(done.returncode, 0, done.stderr)
    for path in out.iterdir():
      self.assertEqual(path.read_bytes(), (again / path.name).read_bytes(), path.name)

  def refused(self, code, line, *arguments, **options):
    done = run("quantize", *arguments, **options)
    self.assertEqual(done.returncode, code, done.stderr)
    self.assertEqual(done.stdout, "")
    self.assertEqual(done.stderr.count("\n"), 1, done.stderr)
    self.assertIn(line, done.stderr)

  def test_mistakes_are_one_line(self):
    out = self.folder / "out"
    for code, line, arguments in (
        (65, "--dtype: found 'int5', expected int8 or int4", ["--dtype", "int5"]),
        (65, "--head-dtype: found 'x'", ["--head-dtype", "x"]),
        (65, "--method: found 'awq', expected rtn, search or gptq", ["--method", "awq"]),
        (65, "--method gptq: found no --calibration", ["--method", "gptq"]),
        (65, "--zero-points: found them with --dtype int8", ["--dtype", "int8", "--zero-points"]),
        (65, "missing.txt: cannot open", ["--calibration", self.folder / "missing.txt"]),
        (65, "--group-size: found 33, expected a number that shares", ["--group-size", 33]),
        (64, "--group-size", ["--group-size", 4])):
      self.refused(code, line, worlds.DEMO, out, *arguments)
    self.assertFalse(out.exists())
    self.assertEqual([path.name for path in self.folder.iterdir()], ["short.txt"])

  def test_nothing_is_overwritten(self):
    out = self.folder / "out"
    out.mkdir()
    (out / "mine").write_text("kept")
    self.refused(65, "out: found something there, expected nothing", worlds.DEMO, out)
    self.assertEqual((out / "mine").read_text(), "kept")

  def test_other_files_that_cannot_be_copied_are_skipped(self):
    model, out = self.folder / "model", self.folder / "out"
    shutil.copytree(worlds.DEMO, model)
    (model / "a\\b").write_text("no plain name")
    with (model / "video.mp4").open("wb") as file:
      file.truncate((64 << 20) + 1)
    done = run("quantize", model, out, "--method", "rtn")
    self.assertEqual(done.returncode, 0, done.stderr)
    self.assertEqual(done.stderr.count("\n"), 1, done.stderr)
    self.assertIn("video.mp4: found 67108865 bytes, expected at most 67108864", done.stderr)
    names = {path.name for path in out.iterdir()}
    self.assertIn("tokenizer.json", names)
    self.assertTrue(names.isdisjoint({"a\\b", "video.mp4"}), names)

  def test_quantized_sources_are_refused(self):
    model = self.folder / "model"
    shutil.copytree(worlds.DEMO, model)
    config = json.loads((model / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "gptq"}
    (model / "config.json").write_text(json.dumps(config))
    self.refused(78, "quantization_config: found one, expected none", model, self.folder / "out")

  def test_full_disk_leaves_nothing(self):
    def small_files():
      signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
      resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
    self.refused(74, "writing failed", worlds.DEMO, self.folder / "out", preexec_fn=small_files)
    self.assertEqual([path.name for path in self.folder.iterdir()], ["short.txt"])


class Evaluate(Folder):

  def test_transformers_perplexity_at_every_degree(self):
    golden = json.loads(EVAL_GOLDEN.read_text())
    hashes = set()
    for case in golden["cases"]:
      found = self.evaluate(worlds.DEMO, "--text", TEXT, "--context", case["context"],
                            "--stride", case["stride"], "--kv-dtype", "fp32")
      self.assertEqual(found["tokens"], golden["tokens"])
      # make_eval_golden.py derives golden["slack"].
      self.assertAlmostEqual(found["nll"], case["nll"], delta=golden["slack"])
      self.assertAlmostEqual(found["perplexity"], math.exp(found["nll"]), places=6)
      bits = found["nll"] * found["tokens"] / math.log(2) / found["bytes"]
      self.assertAlmostEqual(found["bits_per_byte"], bits, places=9)
    for tp in (1, 2, 3):
      found = self.evaluate(worlds.DEMO, "--text", self.short, "--tp", tp, "--threads", 1)
      hashes.add((found["logits_hash"], found["nll"]))
    self.assertEqual(len(hashes), 1)

  def test_reference(self):
    # Another model with the same vocabulary: other rotary frequencies.
    other = self.folder / "other"
    shutil.copytree(worlds.DEMO, other)
    config = json.loads((other / "config.json").read_text())
    config["rope_theta"] = 9000.0
    (other / "config.json").write_text(json.dumps(config))
    text = ["--text", self.short, "--context", 100]
    model, reference = self.folder / "model.bin", self.folder / "reference.bin"
    first = self.evaluate(worlds.DEMO, *text, "--logits", reference)
    found = self.evaluate(other, *text, "--logits", model, "--reference", worlds.DEMO, "--tp", 2)
    again = self.evaluate(other, *text, "--reference-logits", reference)
    self.assertEqual(found["reference"], again["reference"])
    self.assertEqual(found["reference"]["perplexity"], first["perplexity"])
    vocab = config["vocab_size"]
    broken = self.folder / "broken.bin"
    data = bytearray(reference.read_bytes())
    struct.pack_into("<f", data, 4 * (3 * vocab + 5), math.nan)
    broken.write_bytes(data)
    done = run("eval", worlds.DEMO, *text, "--reference-logits", broken)
    self.assertEqual(done.returncode, 65, done.stderr)
    self.assertIn("broken.bin: row 3: found a logit that is not a finite number", done.stderr)
    self.assertEqual(done.stderr.count("\n"), 1, done.stderr)

    def rows(path):
      values = array.array("f", path.read_bytes())
      self.assertEqual(len(values), found["tokens"] * vocab)
      return [values[i:i + vocab] for i in range(0, len(values), vocab)]

    divergences, same = [], 0
    for p, q in zip(rows(reference), rows(model)):
      p_sum, q_sum = (math.log(math.fsum(map(math.exp, row))) for row in (p, q))
      divergences.append(math.fsum(
          math.exp(a - p_sum) * ((a - p_sum) - (b - q_sum)) for a, b in zip(p, q)))
      same += p.index(max(p)) == q.index(max(q))
    compared = found["reference"]
    self.assertAlmostEqual(compared["kl_divergence"], sum(divergences) / len(divergences))
    self.assertGreater(compared["kl_divergence"], 1e-4)
    rank = math.ceil(0.99 * len(divergences)) - 1
    self.assertAlmostEqual(compared["kl_divergence_p99"], sorted(divergences)[rank])
    self.assertEqual(compared["same_top_token"], same / len(divergences))

    alone = self.evaluate(worlds.DEMO, *text, "--reference", worlds.DEMO)["reference"]
    self.assertEqual((alone["kl_divergence"], alone["same_top_token"]), (0, 1))

  def test_mistakes_are_one_line(self):
    empty = self.folder / "empty.txt"
    empty.write_text("")
    for code, line, arguments in (
        (64, "--text", []),
        (65, "empty.txt: found no text", ["--text", empty]),
        (65, "expected a file", ["--text", self.folder]),
        (65, "--context: found 600, expected at most 512", ["--text", self.short, "--context", 600]),
        (65, "--stride: found 65, expected at most --context",
         ["--text", self.short, "--context", 64, "--stride", 65]),
        (65, "short.txt: size: found 1500 bytes, expected",
         ["--text", self.short, "--reference-logits", self.short]),
        (65, ", the vocabulary of",
         ["--text", self.short, "--context", 16, "--reference", worlds.GOLDEN / "llama_gqa"])):
      done = run("eval", worlds.DEMO, *arguments)
      self.assertEqual(done.returncode, code, (line, done.stderr))
      self.assertIn(line, done.stderr)
      self.assertEqual(done.stderr.count("\n"), 1, done.stderr)


if __name__ == "__main__":
  unittest.main()
