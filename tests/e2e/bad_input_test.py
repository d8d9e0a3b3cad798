"""Bad input: one line that names the file or field, the right exit code, and all ranks end."""

import concurrent.futures
import contextlib
import itertools
import json
import os
import pathlib
import shutil
import socket
import struct
import subprocess
import tempfile
import time
import unittest

import worlds
from worlds import grpc, pb

# Exit codes, as runtime/rank/exit_code.h has them.
USAGE, DATA, UNAVAILABLE, IO, CONFIG = 64, 65, 69, 74, 78

TINY = worlds.GOLDEN / "llama_gqa"
SHARDED = worlds.GOLDEN / "llama_sharded"
MARK = "TANDEM_BAD_INPUT_TEST"  # in the environment of all processes that a case starts
SECONDS = 45  # far more than needed: the machine may be busy
HEADER = "model.safetensors"

_counter = itertools.count()


def survivors(mark: str):
  """Live processes that were started with this mark in their environment."""
  found = []
  for entry in pathlib.Path("/proc").iterdir():
    if not entry.name.isdigit():
      continue
    with contextlib.suppress(OSError):
      environment = (entry / "environ").read_bytes().split(b"\0")
      state = (entry / "stat").read_text().rsplit(")", 1)[1].split()[0]
      if f"{MARK}={mark}".encode() in environment and state != "Z":
        found.append(int(entry.name))
  return found


class Ended:
  """One finished command and what it left."""

  def __init__(self, *args, stdin=None, stdout=subprocess.PIPE, command=None):
    mark = f"{os.getpid()}.{next(_counter)}"
    begin = time.monotonic()
    self.args = [os.fsdecode(a) if isinstance(a, bytes) else str(a) for a in args]
    done = subprocess.run([*(command or [worlds.BINARY]), *args], input=stdin, stdout=stdout,
                          stderr=subprocess.PIPE, timeout=60, env={**os.environ, MARK: mark})
    self.seconds = time.monotonic() - begin
    self.code = done.returncode
    self.out = done.stdout or b""
    self.err = done.stderr.decode(errors="backslashreplace")
    deadline = time.monotonic() + 2
    while (left := survivors(mark)) and time.monotonic() < deadline:
      time.sleep(0.02)  # a killed process takes a moment to be gone
    self.left = left


def generate(folder, *args, tp=2, prompt=("--prompt-ids", "1"), **how):
  return Ended("generate", str(folder), *prompt, "--tp", str(tp), "--max-tokens", "2",
               "--temperature", "0", "--json", *args, **how)


def read_header(path):
  data = path.read_bytes()
  size = struct.unpack("<Q", data[:8])[0]
  return json.loads(data[8:8 + size]), data[8 + size:]


def write_header(path, header, data):
  text = header if isinstance(header, bytes) else json.dumps(header).encode()
  path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def repack(path, change):
  """Rewrites a file with a dict of name -> (dtype, shape, bytes) that `change` edits."""
  header, data = read_header(path)
  header.pop("__metadata__", None)
  tensors = {name: (t["dtype"], t["shape"], data[t["data_offsets"][0]:t["data_offsets"][1]])
             for name, t in header.items()}
  change(tensors)
  header, body = {}, b""
  for name, (dtype, shape, content) in tensors.items():
    header[name] = {"dtype": dtype, "shape": shape,
                    "data_offsets": [len(body), len(body) + len(content)]}
    body += content
  write_header(path, header, body)


class BadInput(unittest.TestCase):
  """Helpers of the cases."""

  def setUp(self):
    folder = tempfile.TemporaryDirectory()
    self.addCleanup(folder.cleanup)
    self.temp = pathlib.Path(folder.name)

  def copy(self, of=TINY):
    to = self.temp / f"model{next(_counter)}"
    # File by file, writable: the original may come from a read-only tree.
    to.mkdir()
    for file in of.iterdir():
      shutil.copyfile(file, to / file.name)
    return to

  def edited(self, field, value, of=TINY, file="config.json"):
    """A copy in which one field, perhaps "outer.inner", has another value; ... drops it."""
    folder = self.copy(of)
    root = json.loads((folder / file).read_text())
    *outer, last = field.split(".")
    at = root
    for name in outer:
      at = at[name]
    if value is ...:
      at.pop(last, None)
    else:
      at[last] = value
    (folder / file).write_text(json.dumps(root))
    return folder

  def check(self, ended, code, *words):
    """One line with these words, this code, nothing on stdout, nobody left."""
    told = f"{ended.args}: exit {ended.code} in {ended.seconds:.1f} s, stderr:\n{ended.err}"
    self.assertEqual(ended.code, code, told)
    lines = ended.err.splitlines()
    self.assertEqual(len(lines), 1, told)
    self.assertTrue(lines[0].startswith("tandem: "), told)
    self.assertTrue(ended.err.endswith("\n"), told)
    for word in words:
      self.assertIn(word, lines[0], told)
    self.assertEqual(ended.out, b"", told)
    self.assertLess(ended.seconds, SECONDS, told)
    self.assertEqual(ended.left, [], told)

  def check_all(self, cases, prompt=("--prompt-ids", "1")):
    """cases: (folder, or a function that runs, code, words...), several at a time."""
    def start(numbered):
      number, (what, *_) = numbered
      # Only every third folder with two ranks: how ranks agree on an error does not depend on the
      # error.
      return what() if callable(what) else generate(what, tp=1 if number % 3 else 2,
                                                    prompt=prompt)
    with concurrent.futures.ThreadPoolExecutor(3) as pool:
      for case, ended in zip(cases, pool.map(start, enumerate(cases))):
        with self.subTest(case[1:]):
          self.check(ended, *case[1:])


class Checkpoint(BadInput):

  def test_cut_short_and_appended(self):
    size = (TINY / HEADER).stat().st_size
    header_end = 8 + struct.unpack("<Q", (TINY / HEADER).read_bytes()[:8])[0]
    cases = []
    for length, code in ((0, DATA), (5, DATA), (8, DATA), (200, DATA), (header_end, DATA),
                         (header_end + 10, DATA), (size - 1, DATA)):
      folder = self.copy()
      os.truncate(folder / HEADER, length)
      cases.append((folder, code, HEADER, "found", "expected"))
    folder = self.copy()
    with (folder / HEADER).open("ab") as file:
      file.write(b"x")
    cases.append((folder, DATA, HEADER, f"found {size + 1} bytes", f"expected {size}"))
    self.check_all(cases)

  def test_headers(self):
    good, data = read_header(TINY / HEADER)
    names = sorted(good, key=lambda n: good[n]["data_offsets"] if n != "__metadata__" else [0, 0])
    names = [n for n in names if n != "__metadata__"]

    def with_tensor(name, **fields):
      return {**good, name: {**good[name], **fields}}

    begin, end = good[names[3]]["data_offsets"]
    text = json.dumps(good).encode()
    twice = text[:-1] + b"," + json.dumps({names[0]: good[names[0]]}).encode()[1:]
    cases = []
    for header, words in (
        (b"not json", ["header", "'{'"]),
        (b'{"a": ', ["byte"]),
        (text + b"\0", ["NUL"]),
        (text + b"\0garbage", ["NUL"]),
        (twice, [names[0], "appears twice"]),
        (b'{"a":' * 100000, ["nested deeper"]),
        (b'{"' + b"a" * 1000 + b'": 1}', ["expected an object"]),
        (b"{}", ["size: found"]),
        (with_tensor(names[3], data_offsets=[begin - 4, end - 4]), [names[3], "overlap"]),
        (with_tensor(names[3], data_offsets=[0, end - begin]), ["overlap"]),
        (with_tensor(names[3], data_offsets=[begin, end + 4]), [names[3], "data_offsets"]),
        (with_tensor(names[3], data_offsets=[end, begin]), [names[3], "[begin, end]"]),
        (with_tensor(names[3], data_offsets=[-4, 4]), [names[3], "[begin, end]"]),
        (with_tensor(names[3], data_offsets=[begin]), [names[3], "[begin, end]"]),
        (with_tensor(names[-1], data_offsets=[2**40, 2**40 + 4]), [names[-1], "data_offsets"]),
        (with_tensor(names[0], shape=[2**62, 2**62]), [names[0], "2^64"]),
        (with_tensor(names[0], shape=[-1, 4]), [names[0], "shape"]),
        (with_tensor(names[0], shape=[1.5, 4]), [names[0], "shape"]),
        (with_tensor(names[0], dtype="F31"), [names[0], "dtype", "F31"]),
        ({k: v for k, v in good.items() if k != names[2]}, ["hole"]),
    ):
      folder = self.copy()
      write_header(folder / HEADER, header, data)
      cases.append((folder, DATA, str(folder / HEADER), *words))
    folder = self.copy()  # claims 100 GB
    claim = 100 << 30
    (folder / HEADER).write_bytes(struct.pack("<Q", claim) + text + data)
    cases.append((folder, DATA, str(folder / HEADER), f"header length: found {claim}"))
    folder = self.copy()
    (folder / HEADER).write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    cases.append((folder, DATA, HEADER, "Git LFS"))
    self.check_all(cases)

  def test_tensors_against_the_config(self):
    cases = []

    def broken(change, *words):
      folder = self.copy()
      repack(folder / HEADER, change)
      cases.append((folder, DATA, str(folder), *words))

    names = [n for n in read_header(TINY / HEADER)[0] if n != "__metadata__"]
    gone = ["model.norm.weight", "model.layers.0.self_attn.q_proj.weight",
            "model.layers.1.mlp.up_proj.weight"]

    def drop(tensors):
      for name in gone:
        del tensors[name]

    def narrow(tensors):
      dtype, shape, content = tensors[names[0]]
      tensors[names[0]] = (dtype, [shape[0], shape[1] // 2], content[:len(content) // 2])

    def wide(tensors):
      _, shape, _ = tensors["model.norm.weight"]
      tensors["model.norm.weight"] = ("I64", shape, bytes(8 * shape[0]))

    broken(drop, *gone, "expected all")
    broken(lambda t: t.update({"model.layers.0.extra.weight": ("F32", [1], bytes(4))}),
           "model.layers.0.extra.weight", "expected none")
    broken(wide, HEADER, "model.norm.weight", "found I64", "BF16")
    broken(narrow, HEADER, names[0], "shape: found")
    broken(lambda t: t.clear(), "expected all")
    folder = self.edited("vocab_size", 97)
    cases.append((folder, DATA, "shape", "expected [97, "))
    folder = self.edited("num_hidden_layers", 3)
    cases.append((folder, DATA, "model.layers.2.", "expected all"))
    folder = self.edited("num_hidden_layers", 1)
    cases.append((folder, DATA, "model.layers.1.", "expected none"))
    self.check_all(cases)

  def test_index(self):
    name = "model.safetensors.index.json"
    first = json.loads((SHARDED / name).read_text())["weight_map"]
    tensor = next(iter(first))
    cases = []
    for value in ("../model.safetensors", "/etc/passwd", "a/b.safetensors", "..", "",
                  "a\0b", 7, None):
      folder = self.copy(SHARDED)
      index = {"weight_map": {**first, tensor: value}}
      (folder / name).write_text(json.dumps(index))
      cases.append((folder, DATA, name, tensor, "same folder"))
    for index, words in (
        ({"weight_map": {**first, tensor: "model-00009-of-00004.safetensors"}},
         ["no file", "model-00009-of-00004.safetensors"]),
        ({"weight_map": {**first, tensor: first[max(first, key=lambda t: first[t] != first[tensor])]}},
         [tensor, "found it in"]),
        ({"weight_map": {t: f for t, f in first.items() if t != tensor}}, [tensor]),
        ({"weight_map": {**first, "ghost": first[tensor]}}, ["ghost", "no file"]),
        ({"weight_map": {}}, ["weight_map"]),
        ({"weight_map": []}, ["weight_map"]),
        ({}, ["weight_map", "found nothing"]),
        ([], ["weight_map"]),
    ):
      folder = self.copy(SHARDED)
      (folder / name).write_text(json.dumps(index))
      cases.append((folder, DATA, name, *words))
    for text, word in ((b"", "byte 0"), (b"{", "byte"), (b'{"weight_map":' * 100000, "deeper"),
                       ((SHARDED / name).read_bytes() + b"\0x", "NUL")):
      folder = self.copy(SHARDED)
      (folder / name).write_bytes(text)
      cases.append((folder, DATA, name, word))
    folder = self.copy(SHARDED)
    (folder / "model-00002-of-00004.safetensors").unlink()
    cases.append((folder, DATA, name, "model-00002-of-00004.safetensors"))
    self.check_all(cases)

  def test_no_weights(self):
    bare = self.copy()
    (bare / HEADER).unlink()
    pickled = self.copy()
    (pickled / HEADER).rename(pickled / "pytorch_model.bin")
    folder = self.copy()
    (folder / HEADER).unlink()
    (folder / HEADER).mkdir()
    self.check_all([(bare, DATA, str(bare), "model.safetensors"),
                    (pickled, DATA, "pytorch_model.bin", "convert"),
                    (folder, DATA, HEADER)])


class Config(BadInput):

  def test_absurd_numbers(self):
    cases = []
    for field in ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
                  "num_key_value_heads", "vocab_size", "max_position_embeddings", "head_dim"):
      for value in (-1, 0, 1e30, 1.9, "64", 2**63, [1], True):
        folder = self.edited(field, value)
        run = lambda folder=folder: generate(folder, tp=1)
        cases.append((run, DATA, "config.json", field, "found", "expected an integer"))
    for field, value in (("num_key_value_heads", 4), ("head_dim", 7), ("rms_norm_eps", -1),
                         ("rms_norm_eps", 1e30), ("rms_norm_eps", "x"), ("rope_theta", 0),
                         ("rope_theta", -5), ("rope_theta", "x"), ("eos_token_id", -1),
                         ("eos_token_id", "x"), ("eos_token_id", [1, "x"]), ("bos_token_id", 1e9),
                         ("tie_word_embeddings", "yes"), ("architectures", []),
                         ("architectures", "LlamaForCausalLM"), ("architectures", ...),
                         ("hidden_size", ...), ("model_type", "qwen3")):
      cases.append((self.edited(field, value), DATA, "config.json", field, "found", "expected"))
    self.check_all(cases)

  def test_what_is_not_supported_is_named(self):
    cases = []
    for field, value in (
        ("architectures", ["MixtralForCausalLM"]), ("quantization_config", {"quant_method": "hqq"}),
        ("rope_scaling", {"rope_type": "longrope", "factor": 2.0}), ("hidden_act", "gelu"),
        ("sliding_window", 4096), ("num_local_experts", 8), ("torch_dtype", "float8_e4m3fn"),
        ("partial_rotary_factor", 0.5)):
      cases.append((self.edited(field, value), CONFIG, "config.json", field.split(".")[0], "found",
                    "expected"))
    for value in ({"rope_type": "llama3", "factor": 8.0}, {"rope_type": "linear", "factor": -1},
                  {"rope_type": "yarn"}, "linear", {"rope_type": 3}):
      cases.append((self.edited("rope_scaling", value), DATA, "config.json", "rope_scaling"))
    self.check_all(cases)

  def test_text_that_is_not_json(self):
    cases = []
    for file in ("config.json", "generation_config.json", "tokenizer.json"):
      text = (worlds.DEMO / file).read_bytes()
      first = next(iter(json.loads(text)))
      twice = text.rstrip()[:-1] + f', "{first}": 1}}'.encode()
      for broken, word in ((b"", "byte 0"), (b"[" * 1000000, "nested deeper"),
                           (text.rstrip() + b"\0garbage", "NUL"), (text[:len(text) // 2], "byte"),
                           (twice, "appears twice"), (b"\xff\xfe", "byte"), (b"[]", "found")):
        folder = self.copy(worlds.DEMO)
        (folder / file).write_bytes(broken)
        cases.append((folder, DATA, str(folder / file), word))
    self.check_all(cases, prompt=["hello"])

  def test_bad_generation_config(self):
    cases = []
    for field, value in (("temperature", -1), ("temperature", "hot"), ("top_p", -1), ("top_p", 2),
                         ("top_k", -5), ("top_k", 1.5), ("eos_token_id", -2)):
      cases.append((self.edited(field, value, worlds.DEMO, "generation_config.json"), DATA,
                    "generation_config.json", field, "found", "expected"))
    self.check_all(cases)


class Folder(BadInput):

  def test_folders(self):
    empty = self.temp / "empty"
    empty.mkdir()
    no_config = self.copy()
    (no_config / "config.json").unlink()
    unreadable = self.copy()
    (unreadable / "config.json").unlink()
    os.mkfifo(unreadable / "config.json")  # the program must not wait for a writer
    dangling = self.copy()
    (dangling / HEADER).unlink()
    (dangling / HEADER).symlink_to(self.temp / "nowhere")
    self.check_all([
        (self.temp / "none", DATA, str(self.temp / "none"), "found no"),
        (TINY / "config.json", DATA, "config.json", "folder"),
        (empty, DATA, str(empty), "config.json"),
        (no_config, DATA, str(no_config / "config.json")),
        (unreadable, DATA, str(unreadable / "config.json"), "no regular file"),
        (dangling, DATA, str(dangling), "model.safetensors"),
        (lambda: generate(""), DATA, "model"),
        (lambda: generate("no-such-org/no-such-name"), DATA, "no-such-org/no-such-name"),
        (lambda: generate("../../etc"), DATA, "../../etc"),
    ])

  def test_serve_ends_with_all_ranks(self):
    none = self.temp / "none"
    cut = self.copy()
    os.truncate(cut / HEADER, 300)
    unknown = self.edited("architectures", ["MixtralForCausalLM"])

    def serve(folder):
      # Not port 0: it adds a line to the log.
      return Ended("serve", str(folder), "--tp", "2", "--listen",
                   f"unix:{self.temp}/socket{next(_counter)}")

    self.check_all([(lambda: serve(none), DATA, str(none)),
                    (lambda: serve(cut), DATA, HEADER, "header length"),
                    (lambda: serve(unknown), CONFIG, "MixtralForCausalLM")])

  def test_tokenizers(self):
    cases = []
    for field, value, words in (
        ("model.type", "Unigram", ["model", "Unigram"]), ("model.type", "WordPiece", ["WordPiece"]),
        ("model.vocab", ..., ["vocab"]), ("model.vocab", {"a": -1}, ["vocab"]),
        ("model.vocab", {"a": 1 << 40}, ["vocab"]), ("model.merges", [["q", "zzz"]], ["merges"]),
        ("model.merges", "x", ["merges"]), ("model", ..., ["model"]),
        ("pre_tokenizer", {"type": "Magic"}, ["pre_tokenizer", "Magic"]),
        ("decoder", {"type": "WordPiece"}, ["decoder", "WordPiece"]),
        ("normalizer", {"type": "Magic"}, ["normalizer", "Magic"]),
        ("added_tokens", [{"id": -1}], ["added_tokens"]),
        ("post_processor", {"type": "Magic"}, ["post_processor", "Magic"])):
      folder = self.edited(field, value, worlds.DEMO, "tokenizer.json")
      cases.append((folder, DATA, str(folder / "tokenizer.json"), *words))
    self.check_all(cases, prompt=["hello"])

  def test_text_that_the_tokenizer_cannot_take(self):
    cases = []
    folder = self.copy()  # it has no tokenizer.json
    cases.append((lambda: generate(folder, prompt=["hello"]), CONFIG, str(folder), "--prompt-ids"))
    cases.append((lambda: Ended("tokenize", str(folder), "--json", stdin=b"x"), DATA, str(folder),
                  "tokenizer.json"))
    cases.append((lambda: Ended("tokenize", str(worlds.DEMO), stdin=b"\xff"), DATA, "UTF-8",
                  "byte 0"))
    for ids in (b'{"ids":[-1]}', b'{"ids":[99999]}', b'{"ids":"x"}', b"{}", b'{"ids":[1]}\0',
                b"1 x", b'{"ids":[1.5]}', b"[" * 100000, b"4294967297"):
      cases.append((lambda ids=ids: Ended("detokenize", str(worlds.DEMO), stdin=ids), DATA))
    self.check_all(cases)


class Options(BadInput):

  def test_prompts(self):
    def of(*prompt, tp=2, more=()):
      return lambda: generate(worlds.DEMO, *more, prompt=prompt, tp=tp)

    long_prompt = ",".join(["5"] * 600)
    self.check_all([
        (of(b"caf\xe9"), DATA, "UTF-8", "byte 3"),
        (of(b"caf\xe9", tp=1), DATA, "UTF-8", "byte 3"),
        (of(""), DATA, "prompt"),
        (lambda: generate(worlds.DEMO, prompt=["-"], stdin=b""), DATA, "prompt"),
        (lambda: generate(worlds.DEMO, prompt=["-"], stdin=b"\xf0\x9f"), DATA, "UTF-8"),
        (of("--prompt-ids", "1,740"), DATA, "740", "0 to 739", "[1]"),
        (of("--prompt-ids", "-1"), DATA, "-1", "0 to 739"),
        (of("--prompt-ids=-1", tp=1), DATA, "-1", "0 to 739"),
        (of("--prompt-ids", long_prompt), DATA, "600 tokens", "511"),
        (of("--prompt-ids", long_prompt, tp=1), DATA, "600 tokens", "511"),
        (of("--prompt-ids", "1,2,3,4", more=["--max-model-len", "4"]), DATA, "4 tokens", "3"),
        (of("word " * 3000), DATA, "tokens", "511"),
        (of("--prompt-ids", "5000000000"), USAGE, "--prompt-ids", "5000000000"),
        (of("--prompt-ids", "1,x"), USAGE, "--prompt-ids"),
        (of("--prompt-ids", ""), USAGE, "--prompt-ids"),
        (of("hello", "--prompt-ids", "1"), USAGE, "--prompt-ids"),
        (of(), USAGE, "PROMPT"),
    ])

  def test_values(self):
    def with_option(*option, tp=2):
      return lambda: Ended("generate", str(worlds.DEMO), "hello", "--tp", str(tp), "--json",
                           *option)

    cases = []
    for name, values, code in (
        ("--max-tokens", ("0", "-1"), DATA), ("--max-tokens", ("x", "1e99"), USAGE),
        ("--temperature", ("nan", "-1", "inf", "101"), DATA), ("--temperature", ("hot",), USAGE),
        ("--top-p", ("0", "1.5", "nan"), DATA), ("--top-k", ("-1",), DATA),
        ("--seed", ("x", "99999999999999999999999"), USAGE),
        ("--isa", ("sse9",), DATA), ("--device", ("gpu",), USAGE), ("--kv-dtype", ("int3",), DATA),
        ("--isa", ("",), USAGE), ("--kv-dtype", ("",), USAGE),
        ("--max-model-len", ("513", "1000000"), DATA), ("--max-model-len", ("0", "1", "x"), USAGE),
        ("--threads", ("0", "-1", "x", "100000"), USAGE), ("--kv-memory", ("1",), UNAVAILABLE),
        ("--kv-memory", ("x", "-5"), USAGE), ("--nonsense", ("1",), USAGE),
        ("--logits", (str(self.temp / "no/such/file"),), DATA),
        ("--logits", ("/proc/version",), IO)):
      for value in values:
        word = name if name.startswith(("--isa", "--kv", "--max-model", "--threads", "--non",
                                        "--logits")) else name.strip("-").replace("-", "_")
        if code == USAGE:
          word = name
        elif name == "--kv-memory":
          word = "KV cache"
        tp = 2 if value == values[0] else 1
        cases.append((with_option(f"{name}={value}", tp=tp), code, word))
    for tp in ("0", "-1", "abc", "5000", "1.5", ""):
      cases.append((with_option(tp=tp), USAGE, "--tp"))
    cases.append((lambda: Ended("generate"), USAGE, "MODEL"))
    cases.append((lambda: Ended(), USAGE, "tandem"))
    cases.append((lambda: Ended("dance"), USAGE, "tandem"))
    self.check_all(cases)

  def test_a_cache_larger_than_the_memory_is_refused_before_loading(self):
    # The plan is compared with the free memory before a weight is read.
    ended = Ended("serve", str(worlds.DEMO), "--tp", "2", "--listen", f"unix:{self.temp}/socket",
                  "--kv-memory", "9TiB", "--max-num-seqs", "1000000")
    self.assertEqual(ended.code, UNAVAILABLE, ended.err)
    self.assertRegex(ended.err, r"memory: this rank needs \d+ MiB, \d+ MiB of them for the KV cache")

  def test_more_ranks_than_kv_heads(self):
    ended = generate(worlds.DEMO, tp=12)  # 4 KV heads, 8 query heads
    self.assertEqual(ended.code, 0, ended.err)
    one = json.loads(generate(worlds.DEMO, tp=1).out)
    self.assertEqual(json.loads(ended.out)["logits_hash"], one["logits_hash"])

  def test_tp_differs_from_the_size_of_the_world(self):
    ended = Ended("--allow-run-as-root", "--oversubscribe", "--bind-to", "none", "-np", "2",
                  worlds.BINARY, "generate", str(worlds.DEMO), "hello", "--tp", "3", "--json",
                  command=["mpirun"])
    self.assertEqual(ended.code, CONFIG, ended.err)
    # mpirun prints lines of its own about a world that failed; Tandem prints one.
    ours = [line for line in ended.err.splitlines() if line.startswith("tandem: ")]
    self.assertEqual(len(ours), 1, ended.err)
    self.assertIn("--tp 3, but this world has 2 ranks", ours[0])
    self.assertEqual(ended.left, [])


class Output(BadInput):

  def test_stdout_is_full(self):
    def to_full(*args, tp):
      with open("/dev/full", "wb") as full:
        return Ended("generate", str(worlds.DEMO), "hello", "--max-tokens", "2", "--tp", str(tp),
                     *args, stdout=full)

    # mpirun alone would ignore the failed write.
    self.check_all([(lambda tp=tp, args=args: to_full(*args, tp=tp), IO, "stdout")
                    for tp in (1, 2) for args in ((), ("--json",))])

  def test_the_reader_of_stdout_ends(self):
    # A long answer: its world must end when nobody reads it any more.
    ended = Ended("-c", f'"{worlds.BINARY}" generate "{worlds.DEMO}" hello --temperature 1 '
                  "--seed 1 --tp 2 | head -c 1 >&2; exit ${PIPESTATUS[0]}", command=["bash"])
    self.assertEqual(ended.code, IO, ended.err)
    self.assertIn("tandem: stdout: cannot be written\n", ended.err)
    self.assertEqual(ended.left, [])

  def test_full_disk_for_logits(self):
    self.check(generate(worlds.DEMO, "--logits", "/dev/full"), IO, "--logits /dev/full")

  def test_closed_stdout(self):
    for tp in (1, 2):
      ended = Ended("-c", f'"{worlds.BINARY}" generate "{worlds.DEMO}" hello --max-tokens 2 '
                    f"--json --tp {tp} >&-", command=["/bin/sh"])
      self.check(ended, IO, "stdout")


class Port(BadInput):

  def test_in_use(self):
    with socket.socket() as taken:
      taken.bind(("127.0.0.1", 0))
      taken.listen()
      address = "127.0.0.1:%d" % taken.getsockname()[1]
      # The port is checked before the model: no error mentions the missing folder.
      for folder in (worlds.DEMO, self.temp / "none"):
        self.check(Ended("serve", str(folder), "--tp", "2", "--listen", address), UNAVAILABLE,
                   address, "in use")

  def test_addresses(self):
    def at(address):
      return lambda: Ended("serve", str(worlds.DEMO), "--listen", address)

    self.check_all([(at("127.0.0.1"), DATA, "HOST:PORT"),
                    (at("127.0.0.1:99999"), DATA, "HOST:PORT"),
                    (at("127.0.0.1:x"), DATA, "HOST:PORT"),
                    (at("203.0.113.1:50051"), UNAVAILABLE, "203.0.113.1:50051")])


class Requests(BadInput):
  """One server for all; after every refusal it still answers."""

  @classmethod
  def setUpClass(cls):
    cls.server = worlds.shared_server(worlds.DEMO, "--tp", 2)
    cls.expected = cls.server.generate("hello", temperature=0, max_tokens=4)[:3]

  def refused(self, call, code, *words):
    with self.assertRaises(grpc.RpcError) as caught:
      call()
    self.assertEqual(caught.exception.code(), code, caught.exception.details())
    for word in words:
      self.assertIn(word, caught.exception.details())
    self.assertEqual(self.server.generate("hello", temperature=0, max_tokens=4)[:3], self.expected)

  def raw(self, method, request, streams=False):
    path = f"/tandem.v1.InferenceService/{method}"
    kind = self.server.channel.unary_stream if streams else self.server.channel.unary_unary
    answer = kind(path, request_serializer=lambda b: b, response_deserializer=lambda b: b)(
        request, timeout=10)
    return list(answer) if streams else answer

  def test_prompts_and_values(self):
    bad = grpc.StatusCode.INVALID_ARGUMENT
    for how, words in (
        (dict(text=""), ["text", "empty"]),
        (dict(ids=[]), ["prompt", "empty"]),
        (dict(ids=[5] * 512), ["512 tokens", "at most 511"]),
        (dict(ids=[5] * 600), ["600 tokens", "at most 511"]),
        (dict(text="word " * 3000), ["tokens", "at most 511"]),
        (dict(ids=[1, 740]), ["token_ids[1]", "740", "0 to 739"]),
        (dict(ids=[-1]), ["token_ids[0]", "-1", "0 to 739"]),
        (dict(ids=[2**31 - 1]), ["token_ids[0]", "2147483647"]),
        (dict(text="x", temperature=-1), ["sampling.temperature", "-1"]),
        (dict(text="x", temperature=float("nan")), ["sampling.temperature", "nan"]),
        (dict(text="x", temperature=float("inf")), ["sampling.temperature", "inf"]),
        (dict(text="x", top_p=0), ["sampling.top_p"]),
        (dict(text="x", top_p=float("nan")), ["sampling.top_p", "nan"]),
        (dict(text="x", top_k=-1), ["sampling.top_k", "-1"]),
        (dict(text="x", max_tokens=0), ["sampling.max_tokens", "0"]),
        (dict(text="x", max_tokens=-2**31), ["sampling.max_tokens"]),
        (dict(text="x", stop_token_ids=[740]), ["sampling.stop_token_ids[0]", "740"]),
        (dict(text="x", stop_token_ids=[1] * 1000), ["sampling.stop_token_ids", "1000"])):
      with self.subTest(how):
        self.refused(lambda: self.server.generate(**how), bad, *words)
    self.refused(lambda: list(self.server.stub.Generate(pb.GenerateRequest(), timeout=10)), bad,
                 "prompt", "not set")

  def test_bytes(self):
    bad = grpc.StatusCode.INVALID_ARGUMENT
    text = lambda content: b"\x0a" + bytes([len(content)]) + content  # field 1, a string
    for request, words in ((text(b"caf\xe9"), ["text", "UTF-8", "byte 3"]),
                           (text(b"\xed\xa0\x80"), ["text", "UTF-8", "byte 0"]),
                           (text(b"\xc0\x80"), ["text", "UTF-8"]),
                           (b"\x0a\xff\xff\xff\xff\x0fx", ["no protobuf"]),
                           (b"\xff" * 100, ["no protobuf"]),
                           (b"\x12\x05\x0a\x7f\x01", ["GenerateRequest"])):
      with self.subTest(request):
        self.refused(lambda: self.raw("Generate", request, streams=True), bad, "GenerateRequest",
                     *words)
    self.refused(lambda: self.raw("Tokenize", text(b"\xff")), bad, "text", "UTF-8")
    self.refused(lambda: self.raw("Detokenize", b"\xff\xff"), bad, "DetokenizeRequest")
    self.refused(lambda: self.raw("GetModel", b"\xff\xff"), bad, "GetModelRequest")
    self.refused(lambda: self.raw("Dance", b""), grpc.StatusCode.UNIMPLEMENTED)
    self.refused(lambda: self.server.health("no.such.Service"), grpc.StatusCode.NOT_FOUND,
                 "no.such.Service")
    self.refused(lambda: self.raw("Tokenize", b"\x0a\x80\x80\x80\x10" + b"a" * (32 << 20)),
                 grpc.StatusCode.RESOURCE_EXHAUSTED)

  def test_detokenize(self):
    for ids, word in (([-1], "ids[0]"), ([5, 740], "ids[1]")):
      self.refused(lambda: self.server.stub.Detokenize(pb.DetokenizeRequest(ids=ids), timeout=10),
                   grpc.StatusCode.INVALID_ARGUMENT, word, "0 to 739")

  def test_deadline(self):
    self.refused(lambda: self.server.generate("hello", timeout=1e-3, temperature=1),
                 grpc.StatusCode.DEADLINE_EXCEEDED)

  def test_client_errors_are_one_line(self):
    def client(*args, address=self.server.address):
      return Ended("client", "--addr", address, *args)

    nobody = f"127.0.0.1:{worlds.free_port()}"  # no server is ever started there
    self.check_all([
        (lambda: client("--prompt-ids", "740"), DATA, "INVALID_ARGUMENT", "740"),
        (lambda: client("hello", "--temperature", "-1"), DATA, "sampling.temperature"),
        (lambda: client(b"caf\xe9"), DATA, "UTF-8"),
        (lambda: client(""), DATA, "text: empty"),
        (lambda: client("hello", address=nobody), UNAVAILABLE, nobody),
        (lambda: client("hello", "--wait-ready", "0.3", address=nobody), UNAVAILABLE, nobody),
    ])


class RequestsWithoutTokenizer(BadInput):

  def test_text_is_refused_and_the_missing_file_named(self):
    with worlds.Server(TINY, "--tp", "2") as server:
      for call in (lambda: server.generate("hello"),
                   lambda: server.stub.Tokenize(pb.TokenizeRequest(text="x"), timeout=10),
                   lambda: server.stub.Detokenize(pb.DetokenizeRequest(ids=[1]), timeout=10)):
        with self.assertRaises(grpc.RpcError) as caught:
          call()
        self.assertEqual(caught.exception.code(), grpc.StatusCode.FAILED_PRECONDITION)
        self.assertIn("tokenizer.json", caught.exception.details())
      _, ids, _, _ = server.generate(ids=[1], max_tokens=2, temperature=0)
      self.assertEqual(len(ids), 2)


if __name__ == "__main__":
  unittest.main()
