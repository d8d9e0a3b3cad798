"""`tandem plan` reads only headers: the keys of its JSON, exit codes; unequal shards give the same
bits."""

import json
import math
import pathlib
import struct
import tempfile
import unittest

import worlds

GIB = 1 << 30


def write_8b(folder: pathlib.Path) -> None:
  """Llama-3.1-8B in BF16 in a sparse file: 16 GB that take no disk space."""
  config = {
      "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu",
      "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
      "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 128256,
      "max_position_embeddings": 131072, "rms_norm_eps": 1e-5, "rope_theta": 500000.0,
      "torch_dtype": "bfloat16", "tie_word_embeddings": False}
  (folder / "config.json").write_text(json.dumps(config))
  shapes = {"model.embed_tokens.weight": [128256, 4096], "lm_head.weight": [128256, 4096],
            "model.norm.weight": [4096]}
  for layer in range(32):
    for name, shape in {
        "input_layernorm": [4096], "post_attention_layernorm": [4096],
        "self_attn.q_proj": [4096, 4096], "self_attn.k_proj": [1024, 4096],
        "self_attn.v_proj": [1024, 4096], "self_attn.o_proj": [4096, 4096],
        "mlp.gate_proj": [14336, 4096], "mlp.up_proj": [14336, 4096],
        "mlp.down_proj": [4096, 14336]}.items():
      shapes[f"model.layers.{layer}.{name}.weight"] = shape
  header, offset = {}, 0
  for name, shape in shapes.items():
    size = 2 * math.prod(shape)
    header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [offset, offset + size]}
    offset += size
  text = json.dumps(header).encode()
  text += b" " * (-len(text) % 8)
  with open(folder / "model.safetensors", "wb") as file:
    file.write(struct.pack("<Q", len(text)) + text)
    file.truncate(8 + len(text) + offset)


class Plan(unittest.TestCase):

  @classmethod
  def setUpClass(cls):
    cls.temp = tempfile.TemporaryDirectory()
    cls.model = pathlib.Path(cls.temp.name)
    write_8b(cls.model)

  @classmethod
  def tearDownClass(cls):
    cls.temp.cleanup()

  def plan(self, *args):
    return worlds.run("plan", self.model, *args)

  def rows(self, *args):
    done = self.plan(*args, "--json")
    self.assertIn(done.returncode, (0, 69), done.stderr)
    return {(row["format"], row["tp"]): row for row in json.loads(done.stdout)}

  def test_json(self):
    rows = self.rows("--devices", "2x24GiB,1x16GiB", "--context", "32768", "--streams", "16")
    self.assertEqual(set(rows), {(f, t) for f in ("fp32", "bf16", "int8", "int4", "fp8")
                                 for t in (1, 2, 3)})
    for (_, tp), row in rows.items():
      self.assertEqual(set(row), {"format", "tp", "ranks", "fits", "decode_tokens_per_s"})
      self.assertEqual(len(row["ranks"]), tp)
      # 128 KiB per token with any split.
      self.assertEqual(sum(rank["kv"] for rank in row["ranks"]), 131072 * 32768 * 16)
      for rank in row["ranks"]:
        self.assertEqual(set(rank), {"weights", "embedding", "kv", "workspace",
                                     "communication", "free"})
      self.assertEqual(row["fits"], all(rank["free"] >= 0 for rank in row["ranks"]))
    self.assertFalse(rows["int4", 3]["fits"])
    weights = {key: sum(r["weights"] for r in row["ranks"]) for key, row in rows.items()}
    # Without the embedding, which the ranks share as it is stored.
    for row in rows.values():
      self.assertAlmostEqual(sum(r["embedding"] for r in row["ranks"]) / GIB, 0.978, delta=0.01)
    self.assertAlmostEqual(weights["fp32", 1] / GIB, 29.915 - 1.957, delta=0.01)
    self.assertAlmostEqual(weights["bf16", 1] / GIB, 14.958 - 0.978, delta=0.01)
    self.assertLess(weights["int4", 1], weights["int8", 1])
    self.assertLess(weights["int8", 1], weights["bf16", 1])

  def test_table_recommends_with_a_reason(self):
    done = self.plan("--devices", "2x24GB")
    self.assertEqual(done.returncode, 0, done.stderr)
    text = done.stdout.decode()
    self.assertIn("fp32 29.92 GiB, bf16 14.96 GiB", text)
    self.assertRegex(text, r"Recommended: bf16 at TP = 2: .*times as fast as TP = 1")

  def test_exit_code_for_scripts(self):
    for devices, args, code in (("1x24GiB", (), 0), ("1x4GiB", (), 69),
                                ("2x10GiB", ("--format", "bf16", "--tp", "2"), 0),
                                ("2x10GiB", ("--format", "bf16", "--tp", "1"), 69),
                                ("2x10GiB", ("--tp", "3"), 65), ("2y10", (), 65),
                                ("1x24GiB", ("--context", "200000"), 65)):
      done = self.plan("--devices", devices, *args)
      self.assertEqual(done.returncode, code, (devices, args, done.stderr))
      if code == 65:
        self.assertEqual(done.stderr.count(b"\n"), 1)

  def test_one_requested_format(self):
    for fmt in ("fp32", "bf16", "int8", "int4", "fp8"):
      for args in ((), ("--device", "cuda"), ("--weights", "stream")):
        done = self.plan("--devices", "1x64GiB", "--format", fmt, *args)
        self.assertEqual(done.returncode, 0, (fmt, args, done.stderr))
        self.assertRegex(done.stdout.decode(), rf"Recommended: {fmt} .*at TP = 1: ")
        done = self.plan("--devices", "1x128MiB", "--format", fmt, *args)
        self.assertEqual(done.returncode, 69, (fmt, args, done.stderr))
        self.assertRegex(done.stdout.decode(), rf"Not possible: nothing fits: the nearest, {fmt} ")

  def test_fp8_is_held_in_16_bits_on_cpus(self):
    self.assertEqual(self.rows("--devices", "64GiB")["fp8", 1]["ranks"],
                     self.rows("--devices", "64GiB")["bf16", 1]["ranks"])
    on_gpu = self.rows("--devices", "64GiB", "--device", "cuda")
    self.assertLess(on_gpu["fp8", 1]["ranks"][0]["weights"],
                    0.6 * on_gpu["bf16", 1]["ranks"][0]["weights"])
    stored = worlds.SOURCE / "tests/golden/quantized/fp8_block"
    for args, name in (((), r"fp8 \(held in 16 bits on CPUs\)"), (("--device", "cuda"), "fp8")):
      done = worlds.run("plan", stored, "--devices", "4GiB", *args)
      self.assertRegex(done.stdout.decode(),
                       f"Recommended: {name} at TP = 1: the format that is stored fits")

  def test_a_cache_larger_than_64_bits(self):
    with tempfile.TemporaryDirectory() as name:
      folder = pathlib.Path(name)
      config = json.loads((self.model / "config.json").read_text())
      config["max_position_embeddings"] = 1 << 30
      (folder / "config.json").write_text(json.dumps(config))
      (folder / "model.safetensors").symlink_to(self.model / "model.safetensors")
      for streams, code in ((1000000, 65), (1000, 69)):
        done = worlds.run("plan", folder, "--devices", "24GiB", "--streams", streams, "--context",
                          (1 << 30) - 16)
        self.assertEqual(done.returncode, code, done.stderr)
      done = worlds.run("plan", folder, "--devices", "24GiB", "--streams", 1000000, "--context",
                        1 << 30)
      self.assertRegex(done.stderr.decode(), r"^tandem: --context, --streams: found .*\n$")

  def test_plot(self):
    with tempfile.TemporaryDirectory() as folder:
      picture = pathlib.Path(folder, "plan.svg")
      self.assertEqual(self.plan("--devices", "4x16GiB", "--plot", picture).returncode, 0)
      self.assertIn("<svg", picture.read_text())
      done = self.plan("--devices", "4x16GiB", "--plot", f"{folder}/none/plan.svg")
      self.assertEqual(done.returncode, 74)

  def test_ranks_hold_what_the_plan_predicts(self):
    args = ("--max-tokens", "4", "--temperature", "0", "--prompt-ids", "1,2,3")
    for tp in (1, 2, 3):
      done = worlds.run("plan", worlds.DEMO, "--devices", f"{tp}x1GiB", "--json", "--format", "bf16",
                        "--tp", tp)
      planned = [rank["weights"] + rank["embedding"] for rank in json.loads(done.stdout)[0]["ranks"]]
      debug = worlds.run("generate", worlds.DEMO, *args, "--tp", tp, "--json",
                         env={"TANDEM_DEBUG": "1"})
      held = json.loads(debug.stdout)["ranks"]
      lines = [line for line in debug.stderr.decode().splitlines() if "measured" in line]
      self.assertEqual(len(lines), 4 * tp)  # weights, embedding, KV cache and workspace of each
      for line in lines:
        self.assertNotIn("warn", line)
      for mine, rank in zip(planned, held):
        self.assertGreater(mine, 0)
        self.assertLess(abs(mine - rank["bytes_read"]), 0.3 * mine)

  def test_a_large_rank_takes_the_planned_memory(self):
    with tempfile.TemporaryDirectory() as folder:
      make_zeros(pathlib.Path(folder))
      prompt = ",".join(str(i % 4000) for i in range(500))  # fills the workspace
      for tp in (1, 2):
        out = worlds.generate(folder, "--prompt-ids", prompt, "--max-tokens", 2, "--temperature",
                              "0", "--tp", tp, "--threads", 2 // tp)
        held = [rank["peak_memory"] / rank["planned_bytes"] for rank in out["ranks"]]
        self.assertEqual(len(held), tp)
        self.assertGreater(sum(rank["planned_bytes"] for rank in out["ranks"]), 300 << 20)
        for ratio in held:
          self.assertLessEqual(ratio, 1.05, held)
          self.assertGreaterEqual(ratio, 0.95, held)


def make_zeros(folder):
  """A Llama of 380 MB whose weights are all zero, in a sparse file."""
  hidden, ffn, kv, layers, vocab = 2048, 5632, 512, 4, 4000
  (folder / "config.json").write_text(json.dumps({
      "architectures": ["LlamaForCausalLM"], "model_type": "llama", "torch_dtype": "bfloat16",
      "hidden_size": hidden, "intermediate_size": ffn, "num_hidden_layers": layers,
      "num_attention_heads": 16, "num_key_value_heads": 4, "head_dim": 128, "vocab_size": vocab,
      "max_position_embeddings": 2048, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
      "hidden_act": "silu", "tie_word_embeddings": False, "bos_token_id": 1, "eos_token_id": 2}))
  shapes = {"model.embed_tokens": (vocab, hidden), "lm_head": (vocab, hidden),
            "model.norm": (hidden,)}
  for i in range(layers):
    layer = f"model.layers.{i}."
    shapes |= {layer + "input_layernorm": (hidden,), layer + "post_attention_layernorm": (hidden,),
               layer + "self_attn.q_proj": (hidden, hidden), layer + "self_attn.k_proj": (kv, hidden),
               layer + "self_attn.v_proj": (kv, hidden), layer + "self_attn.o_proj": (hidden, hidden),
               layer + "mlp.gate_proj": (ffn, hidden), layer + "mlp.up_proj": (ffn, hidden),
               layer + "mlp.down_proj": (hidden, ffn)}
  header, end = {}, 0
  for name, shape in shapes.items():
    begin, end = end, end + 2 * math.prod(shape)
    header[name + ".weight"] = {"dtype": "BF16", "shape": shape, "data_offsets": [begin, end]}
  text = json.dumps(header).encode()
  with (folder / "model.safetensors").open("wb") as file:
    file.write(len(text).to_bytes(8, "little") + text)
    file.truncate(8 + len(text) + end)


class Workspace(unittest.TestCase):

  def test_logits_are_planned_for_the_tokens_of_a_step(self):
    planned = []
    for sequences in (64, 4096):
      with worlds.Server(worlds.DEMO, "--max-batched-tokens", 64, "--max-num-seqs",
                         sequences) as server:
        status = server.stub.GetServerStatus(worlds.pb.GetServerStatusRequest(), timeout=10)
        planned.append([rank.planned.workspace for rank in status.ranks])
    self.assertEqual(planned[0], planned[1])


class Shards(unittest.TestCase):

  def test_same_bits_with_any_shards(self):
    args = ("Once", "--max-tokens", "16", "--temperature", "0")
    even = worlds.generate(worlds.DEMO, *args)
    for tp, shards in ((2, "auto"), (2, "3,1"), (3, "1,5,2"), (3, "1,1,1000")):
      out = worlds.generate(worlds.DEMO, *args, "--tp", tp, "--shards", shards)
      self.assertEqual(out["logits_hash"], even["logits_hash"], shards)
      if shards == "3,1":
        read = [rank["bytes_read"] for rank in out["ranks"]]
        self.assertGreater(read[0], 2 * read[1])

  def test_refusals(self):
    for shards in ("1,2,3", "0,1", "a,b", "1,", "-1,1"):
      done = worlds.run("generate", worlds.DEMO, "x", "--tp", 2, f"--shards={shards}")
      self.assertEqual(done.returncode, 65, done.stderr)
      self.assertIn(b"--shards: found", done.stderr)


if __name__ == "__main__":
  unittest.main()
