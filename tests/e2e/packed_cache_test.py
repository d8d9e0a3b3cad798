"""--packed-cache over real worlds: one file for every degree. A bad file, a bad folder or a full
disk never prevents serving."""

import json
import os
import pathlib
import random
import shutil
import subprocess
import tempfile
import unittest

import worlds


class PackedCache(unittest.TestCase):

  def setUp(self):
    folder = tempfile.TemporaryDirectory()
    self.addCleanup(folder.cleanup)
    self.folder = pathlib.Path(folder.name)
    self.cache = self.folder / "cache"
    self.expected = self.run_world(None)[0]

  def run_world(self, cache, tp=1, model=worlds.DEMO, weights="resident"):
    """(hash of the logits, bytes that each rank read, stderr); must succeed."""
    more = [] if cache is None else ["--packed-cache", cache, "--weights", weights]
    done = worlds.run("generate", model, "--prompt-ids", "5,6,7,8", "--max-tokens", 4,
                      "--temperature", 0, "--dtype", "int4", "--tp", tp, "--threads", 1, "--json",
                      *more)
    errors = done.stderr.decode()
    self.assertEqual(done.returncode, 0, errors)
    out = json.loads(done.stdout)
    return out["logits_hash"], [rank["bytes_read"] for rank in out["ranks"]], errors

  def only_file(self):
    files = list(self.cache.iterdir())
    self.assertEqual(len(files), 1, files)  # no partly written file is left
    self.assertEqual(files[0].suffix, ".packed")
    return files[0]

  def check_without(self, cache, *words):
    """Serves all the same, says in one line why there is no file, and leaves nothing."""
    for tp in (1, 2):
      found, _, errors = self.run_world(cache, tp)
      self.assertEqual(found, self.expected)
      lines = [line for line in errors.splitlines() if "--packed-cache" in line]
      self.assertEqual(len(lines), 1, errors)
      for word in (*words, "weights are packed from the checkpoint"):
        self.assertIn(word, lines[0])

  def tmpfs(self, *options):
    disk = self.folder / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", ",".join(options), "tmpfs", str(disk)],
                             capture_output=True, check=False)
    if mounted.returncode != 0:
      self.skipTest("no right to mount: " + mounted.stderr.decode().strip())
    self.addCleanup(lambda: subprocess.run(["umount", str(disk)], check=True))
    return disk

  def test_one_file_for_every_degree(self):
    # First start of two ranks: one of them makes the file, both use it.
    self.assertEqual(self.run_world(self.cache, 2)[0], self.expected)
    made = self.only_file()
    before = made.stat()
    alone = self.run_world(self.cache, 1)[1][0]
    # Codes of 4 bits, and the embedding as the checkpoint has it, in 16.
    self.assertLess(alone, self.run_world(None)[1][0] * 0.7)
    self.assertGreater(alone, before.st_size * 0.9)
    for tp in (1, 2, 3):
      found, read, _ = self.run_world(self.cache, tp)
      self.assertEqual(found, self.expected, f"TP {tp}")
      for part in read:
        # Heads and leaves of this small model are few, so one of three ranks may hold half.
        self.assertLess(part, alone * (0.75 if tp > 1 else 1.01), f"TP {tp}")
    after = self.only_file().stat()
    self.assertEqual((before.st_ino, before.st_mtime_ns), (after.st_ino, after.st_mtime_ns))

  def test_full_disk(self):
    disk = self.tmpfs("size=64k")
    self.check_without(disk, "cannot write", "No space left on device")
    self.assertEqual(list(disk.iterdir()), [])

  def test_folder_that_cannot_be_written(self):
    self.check_without(self.tmpfs("size=64k", "ro"), "cannot create", "Read-only file system")

  def test_folder_that_cannot_be_created(self):
    file = self.folder / "file"
    file.write_text("kept")
    self.check_without(file / "cache", str(file / "cache"), "cannot create", "Not a directory")
    self.assertEqual(file.read_text(), "kept")

  def test_damaged_files_are_made_again(self):
    self.run_world(self.cache)
    file = self.only_file()
    whole = file.read_bytes()
    dice = random.Random(1)
    scattered = bytearray(whole)
    for _ in range(64):
      scattered[dice.randrange(len(whole))] ^= 1 << dice.randrange(8)
    body = bytearray(whole)
    body[len(whole) // 2] ^= 1
    zeros = bytearray(whole)
    zeros[8192:8192 + 4096] = bytes(4096)
    damages = {
        "empty": b"",
        "cut short": whole[:len(whole) // 2],
        "without its end": whole[:-1],
        "longer": whole + b"x",
        "no packed file": b"x" * len(whole),
        "of the version before": b"TNDMPACK" + whole[8:],
        "another place in its footer": whole.replace(b'"offset":4096', b'"offset":8192'),
        "a matrix of another name": whole.replace(b"layers.0.mlp.up_proj", b"layers.x.mlp.up_proj"),
        "64 bits": bytes(scattered),
        "one bit": bytes(body),
        "a page of zeros": bytes(zeros),
    }
    for i, (name, damaged) in enumerate(damages.items()):
      self.assertNotEqual(damaged, whole, name)
      file.write_bytes(damaged)
      found, _, errors = self.run_world(self.cache, 1 + i % 2,
                                        weights="stream" if i % 3 == 1 else "resident")
      self.assertEqual(found, self.expected, name)
      self.assertEqual(self.only_file().read_bytes(), whole, name)
      lines = [line for line in errors.splitlines() if "--packed-cache" in line]
      self.assertEqual(len(lines), 1, errors)  # names the file
      self.assertIn(f"{file}: ", lines[0], name)
      self.assertIn("the file is made again", lines[0], name)
    # What was found in the middle of a file names the matrix too.
    for weights in ("resident", "stream"):
      file.write_bytes(bytes(body))
      errors = self.run_world(self.cache, weights=weights)[2]
      self.assertRegex(errors, rf"{file}: (embedding |)(model\.|lm_head)\S+: the bytes from \d+ on")
      self.assertEqual(self.only_file().read_bytes(), whole)

  def test_a_damaged_file_that_cannot_be_made_again(self):
    disk = self.tmpfs("size=64m")
    self.run_world(disk)
    file = next(disk.iterdir())
    whole = bytearray(file.read_bytes())
    whole[len(whole) // 2] ^= 1
    file.write_bytes(whole)
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    found, _, errors = self.run_world(disk, 2)
    self.assertEqual(found, self.expected)
    self.assertIn("weights are packed from the checkpoint", errors)
    done = worlds.run("generate", worlds.DEMO, "x", "--dtype", "int4", "--packed-cache", disk,
                      "--weights", "stream")
    self.assertNotEqual(done.returncode, 0)
    self.assertIn(b"--weights stream: ", done.stderr)
    self.assertIn(b"Read-only file system", done.stderr)

  def test_another_checkpoint_gets_another_file(self):
    model = self.folder / "model"
    shutil.copytree(worlds.DEMO, model)
    weights = model / "model.safetensors"
    os.utime(weights, ns=(10**18, 10**18))
    self.run_world(self.cache, model=model)
    first = self.only_file()
    # As after more training: the same shapes and size, other values.
    data = bytearray(weights.read_bytes())
    data[-4096:] = data[-8192:-4096]
    weights.write_bytes(data)
    os.utime(weights, ns=(2 * 10**18, 2 * 10**18))
    changed = self.run_world(None, model=model)[0]
    self.assertNotEqual(changed, self.expected)
    self.assertEqual(self.run_world(self.cache, model=model)[0], changed)
    second = next(f for f in self.cache.iterdir() if f != first)
    # The first file under the second one's name is refused: the content counts, not the name.
    whole = second.read_bytes()
    shutil.copyfile(first, second)
    self.assertEqual(self.run_world(self.cache, model=model)[0], changed)
    self.assertEqual(second.read_bytes(), whole)


if __name__ == "__main__":
  unittest.main()
