"""The Python scripts on a machine without third-party modules."""

import hashlib
import json
import pathlib
import subprocess
import sys
import tempfile
import unittest

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
# No module from outside Python's standard library is found.
BARE_PYTHON = [sys.executable, "-E", "-s", "-S", "-B"]


class Scripts(unittest.TestCase):

  def test_a_missing_module_is_one_line_and_exit_code_69(self):
    scripts = [path for folder in ("scripts", "tests/golden", "proto/examples/python")
               for path in sorted((ROOT / folder).glob("*.py"))
               if path.name not in ("check_layering.py",)]  # has no options: it would run
    codes = {}
    for path in scripts:
      done = subprocess.run([*BARE_PYTHON, path, "--help"], capture_output=True, text=True,
                            timeout=60)
      with self.subTest(path.name):
        self.assertIn(done.returncode, (0, 69), done.stderr)
        if done.returncode == 69:
          self.assertEqual(done.stderr.count("\n"), 1, done.stderr)
          self.assertRegex(done.stderr, r"^\w+\.py: the Python module [\w.]+ is missing; .*install")
      codes[path.name] = done.returncode
    self.assertEqual(codes["make_synthetic_model.py"], 0)
    self.assertEqual(codes["train_demo_model.py"], 69)


class SyntheticModel(unittest.TestCase):

  def make(self, folder, *args):
    subprocess.run([*BARE_PYTHON, ROOT / "scripts/make_synthetic_model.py", folder, *args],
                   check=True, timeout=60)
    return folder

  def test_the_same_bytes_on_every_machine(self):
    expected = {
        "bf16": "fc8a0a37b1d9c085d32293e0f775ce630f3e4b7902bf5fcd1c51c678c298a62a",
        "fp16": "3a14a53cdef2b1996922e48fda526c63c757d89cc5d5cf8b72ada88557f639e7",
        "fp32": "b98b439dd1a4914e389f153b1c59387e56ce722e9279d0666de927a24868c52d",
    }
    for dtype, digest in expected.items():
      with tempfile.TemporaryDirectory() as name:
        folder = self.make(pathlib.Path(name), "--dtype", dtype)
        weights = (folder / "model.safetensors").read_bytes()
      self.assertEqual(hashlib.sha256(weights).hexdigest(), digest, dtype)

  def test_layers_and_files_do_not_change_a_tensor(self):
    def tensors(folder):
      found = {}
      for path in sorted(folder.glob("*.safetensors")):
        data = path.read_bytes()
        body = 8 + int.from_bytes(data[:8], "little")
        for name, tensor in json.loads(data[8:body]).items():
          if name != "__metadata__":
            begin, end = tensor["data_offsets"]
            found[name] = data[body + begin:body + end]
      return found

    with tempfile.TemporaryDirectory() as name:
      base = pathlib.Path(name)
      whole = tensors(self.make(base / "whole"))
      cut = tensors(self.make(base / "cut", "--layers", "2", "--shard-mb", "1"))
      other = tensors(self.make(base / "other", "--layers", "1", "--seed", "1"))
      self.assertGreater(len(list((base / "cut").glob("*.safetensors"))), 1)
    self.assertLess(len(cut), len(whole))
    self.assertEqual(cut, {name: whole[name] for name in cut})
    self.assertNotEqual(other["model.norm.weight"], whole["model.norm.weight"])


if __name__ == "__main__":
  unittest.main()
