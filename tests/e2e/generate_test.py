"""`tandem generate` over real mpirun worlds: the right tokens, the same bits at every degree."""

import json
import pathlib
import shutil
import struct
import tempfile
import unittest

import worlds


class Stories(unittest.TestCase):

  def test_expected_ids_and_one_hash_at_every_degree(self):
    model = worlds.shared("models/stories260k")
    expected = json.loads((model / "expected.json").read_text())
    steps = len(expected["greedy_ids"])
    hashes = set()
    for tp in (1, 2, 3, 4, 5, 8):
      out = worlds.generate(model, "--prompt-ids", "1", "--max-tokens", steps,
                            "--temperature", "0", "--tp", tp, "--threads", 1)
      self.assertEqual(out["token_ids"], expected["greedy_ids"], f"TP {tp}")
      self.assertEqual(out["finish_reason"], "length")
      self.assertEqual(out["usage"]["completion_tokens"], steps)
      self.assertRegex(out["logits_hash"], "^[0-9a-f]{16}$")
      self.assertEqual(len(out["ranks"]), tp)
      for rank in out["ranks"]:
        self.assertLessEqual(rank["bytes_read"], rank["planned_bytes"])
        self.assertLessEqual(rank["peak_memory"], 1.05 * rank["planned_bytes"])
      hashes.add(out["logits_hash"])
    self.assertEqual(len(hashes), 1)

  def test_logits_after_the_last_token(self):
    model = worlds.shared("models/stories260k")
    expected = json.loads((model / "expected.json").read_text())
    steps = len(expected["greedy_ids"]) + 1  # its logits follow the last id
    with tempfile.NamedTemporaryFile() as file:
      worlds.generate(model, "--prompt-ids", "1", "--max-tokens", steps, "--temperature", "0",
                      "--tp", 2, "--logits", file.name)
      raw = file.read()
    vocab = len(expected["last_logits"])
    self.assertEqual(len(raw), 4 * vocab * steps)
    last = struct.unpack(f"<{vocab}f", raw[-4 * vocab:])
    # The expected values have five decimals. float32 stores a logit near 10 with an error of 1e-6,
    # and the sums of five layers of at most 172 terms lose a few times that.
    for found, right in zip(last, expected["last_logits"]):
      self.assertAlmostEqual(found, right, delta=1e-4)


class Demo(unittest.TestCase):

  def test_drafts_change_no_bit(self):
    # Sampled, with a penalty; the answer repeats itself, so that many drafts are right.
    args = ["The dog went to the park. The dog went to the", "--max-tokens", "100", "--ignore-eos",
            "--temperature", "0.7", "--presence-penalty", "0.1", "--seed", "5"]
    first = worlds.generate(worlds.DEMO, *args, "--speculate", "off")
    self.assertEqual(first["usage"]["draft_tokens"], 0)
    for tp, drafts in ((1, "16"), (3, "3"), (2, "auto")):
      out = worlds.generate(worlds.DEMO, *args, "--tp", tp, "--speculate", drafts)
      self.assertEqual(out["token_ids"], first["token_ids"])
      self.assertEqual(out["logits_hash"], first["logits_hash"])
      if drafts != "auto":
        self.assertGreater(out["usage"]["accepted_draft_tokens"], 20)

  def test_same_bits_at_any_degree_threads_and_world(self):
    tasks = (worlds.SOURCE / "tests/models/demo_tasks.jsonl").read_text()
    prompt = json.loads(tasks.splitlines()[0])
    args = [prompt["prompt"], "--max-tokens", "32", "--temperature", "0"]
    first = worlds.generate(worlds.DEMO, *args)
    for tp in (2, 3, 4):
      out = worlds.generate(worlds.DEMO, *args, "--tp", tp)
      self.assertEqual(out["logits_hash"], first["logits_hash"], f"TP {tp}")
      self.assertEqual(out["text"], first["text"])
    threads = worlds.generate(worlds.DEMO, *args, "--threads", "3")
    self.assertEqual(threads["logits_hash"], first["logits_hash"])
    scalar = worlds.generate(worlds.DEMO, *args, "--isa", "ref")
    self.assertEqual(scalar["logits_hash"], first["logits_hash"])
    joined = worlds.run(
        "mpirun", "--allow-run-as-root", "--oversubscribe", "--bind-to", "none", "-np", "2",
        worlds.BINARY, "generate", worlds.DEMO, *args, "--json", binary=False)
    self.assertEqual(joined.returncode, 0, joined.stderr)
    out = json.loads(joined.stdout)
    self.assertEqual(out["logits_hash"], first["logits_hash"])
    self.assertEqual(len(out["ranks"]), 2)

  def test_a_rank_with_other_options_is_named(self):
    for first, second, found in (
        (("--kv-dtype", "fp32"), ("--kv-dtype", "bf16"), "KV type BF16, rank 0 has KV type F32"),
        ((), ("--max-model-len", "128", "--shards", "2,1"),
         "--shards 2,1, rank 0 has --shards even; "
         "--max-model-len 128, rank 0 has --max-model-len 0")):
      generate = (worlds.BINARY, "generate", worlds.DEMO, "Add 1 and 2.", "--threads", 1)
      done = worlds.run("mpirun", "--allow-run-as-root", "--oversubscribe", "--bind-to", "none",
                        "-np", 1, *generate, *first, ":", "-np", 1, *generate, *second,
                        binary=False)
      self.assertEqual((done.returncode, done.stdout), (78, b""), done.stderr)
      self.assertIn(f"tandem: rank 1 differs from rank 0: it has {found}; give all ranks the same",
                    done.stderr.decode())

  def test_sampling_depends_only_on_the_seed(self):
    args = ["Once", "--max-tokens", "24", "--temperature", "1.5"]
    one = worlds.generate(worlds.DEMO, *args, "--seed", "7")
    two = worlds.generate(worlds.DEMO, *args, "--seed", "7", "--tp", "2")
    other = worlds.generate(worlds.DEMO, *args, "--seed", "8")
    self.assertEqual(one["token_ids"], two["token_ids"])
    self.assertNotEqual(one["token_ids"], other["token_ids"])

  def test_text_to_stdout_without_json(self):
    done = worlds.run("generate", worlds.DEMO, "Once", "--max-tokens", "8", "--temperature", "0",
                      "--tp", "2")
    self.assertEqual(done.returncode, 0, done.stderr)
    out = worlds.generate(worlds.DEMO, "Once", "--max-tokens", "8", "--temperature", "0")
    self.assertEqual(done.stdout.decode(), out["text"] + "\n")


class KvScales(unittest.TestCase):

  def test_scales_of_fp8_checkpoints_are_ignored_with_a_warning(self):
    model = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory())) / "model"
    shutil.copytree(worlds.SOURCE / "tests/golden/quantized/fp8_tensor", model)
    arguments = ["generate", model, "--prompt-ids", "5,6,7", "--max-tokens", 2, "--temperature", 0,
                 "--tp", 1, "--json"]
    plain = worlds.run(*arguments)
    self.assertEqual(plain.returncode, 0, plain.stderr)
    self.assertNotIn(b"--kv-dtype", plain.stderr)
    weights = model / "model.safetensors"
    data = weights.read_bytes()
    length, = struct.unpack_from("<Q", data)
    header = json.loads(data[8:8 + length])
    tensors = data[8 + length:]
    for name in ("kv_scale", "k_proj.k_scale", "v_proj.v_scale"):
      header["model.layers.0.self_attn." + name] = {
          "dtype": "F32", "shape": [], "data_offsets": [len(tensors), len(tensors) + 4]}
      tensors += struct.pack("<f", 0.5)
    text = json.dumps(header).encode()
    weights.write_bytes(struct.pack("<Q", len(text)) + text + tensors)
    scaled = worlds.run(*arguments)
    self.assertEqual(scaled.returncode, 0, scaled.stderr)
    self.assertEqual(scaled.stderr.count(b"KV scales are ignored: --kv-dtype"), 1)
    self.assertEqual(json.loads(scaled.stdout)["logits_hash"],
                     json.loads(plain.stdout)["logits_hash"])


class Tokenizer(unittest.TestCase):

  def test_stdin_byte_for_byte_and_back(self):
    for text in ("Hello world", "a\r\nb\n", "héllo 🙂", ""):
      done = worlds.run("tokenize", worlds.DEMO, "--json", stdin=text.encode())
      self.assertEqual(done.returncode, 0, done.stderr)
      ids = json.loads(done.stdout)["ids"]
      back = worlds.run("detokenize", worlds.DEMO, stdin=json.dumps({"ids": ids}).encode())
      self.assertEqual(back.stdout.decode(), text)

  def test_real_tokenizers(self):
    for name in ("llama-3", "qwen2"):
      folder = worlds.shared(f"tokenizers/{name}")
      for case in json.loads((folder / "cases.json").read_text())[:12]:
        done = worlds.run("tokenize", folder, "--json", stdin=case["text"].encode())
        self.assertEqual(json.loads(done.stdout)["ids"], case["ids"], case["text"])


if __name__ == "__main__":
  unittest.main()
