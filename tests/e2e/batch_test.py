"""`tandem batch`: both input forms, checks before loading, and kills at any time, after which the
results are those of an undisturbed job."""

import datetime
import fcntl
import gzip
import json
import os
import pathlib
import pty
import random
import re
import shutil
import signal
import struct
import subprocess
import tempfile
import termios
import time
import unittest
import unittest.mock

import worlds


def rows(count, seed=1, long=False):
  """Short-form rows over the demo's tasks; every other one samples."""
  tasks = (worlds.SOURCE / "tests/models/demo_tasks.jsonl").read_text().splitlines()
  dice = random.Random(seed)
  out = []
  for i in range(count):
    row = {"id": f"row-{i}", "prompt": json.loads(tasks[i % len(tasks)])["prompt"],
           "max_tokens": dice.randint(60, 90) if long else dice.randint(1, 40)}
    if i % 2:
      row["temperature"] = 0.9
    else:
      row["temperature"] = 0
    if long:
      row["ignore_eos"] = True
    out.append(row)
  return out


def write(path, items):
  text = "".join(json.dumps(item) + "\n" for item in items)
  if str(path).endswith(".gz"):
    path.write_bytes(gzip.compress(text.encode()))
  else:
    path.write_text(text)
  return path


def read(path):
  return [json.loads(line) for line in path.read_text().splitlines()]


def answers(path):
  """By id, what must not depend on how the job ran; asserts that no id comes twice."""
  found = {}
  for row in read(path):
    assert row["id"] not in found, row["id"]
    found[row["id"]] = (row["token_ids"], row.get("text"), row["finish_reason"])
  return found


class Case(unittest.TestCase):

  def setUp(self):
    self.temp = tempfile.TemporaryDirectory()
    self.folder = pathlib.Path(self.temp.name)
    self.addCleanup(self.temp.cleanup)

  def batch(self, source, output="out.jsonl", *args, model=worlds.DEMO, **kwargs):
    done = worlds.run("batch", model, "--input", source, "--output", self.folder / output, *args,
                      **kwargs)
    done.summary = json.loads(done.stdout) if done.stdout else None
    return done

  def start(self, source, output, *args, **kwargs):
    return subprocess.Popen(
        [worlds.BINARY, "batch", str(worlds.DEMO), "--input", str(source), "--output",
         str(self.folder / output), *map(str, args)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, **kwargs)

  def lines(self, output="out.jsonl"):
    path = self.folder / output
    return path.read_bytes().count(b"\n") if path.exists() else 0

  def wait_for_lines(self, process, count, output="out.jsonl"):
    deadline = time.monotonic() + 60
    while self.lines(output) < count and process.poll() is None and time.monotonic() < deadline:
      time.sleep(0.005)


class Forms(Case):

  def test_short_form_equals_generate_at_any_degree(self):
    items = rows(40)
    source = write(self.folder / "in.jsonl", items)
    done = self.batch(source)
    self.assertEqual(done.returncode, 0, done.stderr)
    self.assertEqual(done.summary["finished"], 40)
    self.assertEqual(done.summary["failures"], 0)
    first = answers(self.folder / "out.jsonl")
    self.assertEqual(set(first), {row["id"] for row in items})
    for row in read(self.folder / "out.jsonl"):
      self.assertEqual(set(row), {"id", "token_ids", "text", "finish_reason", "usage", "timings"})
      self.assertEqual(row["usage"]["completion_tokens"], len(row["token_ids"]))
    for i in (0, 2, 4):
      alone = worlds.generate(worlds.DEMO, items[i]["prompt"], "--temperature", "0",
                              "--max-tokens", items[i]["max_tokens"])
      self.assertEqual(first[f"row-{i}"],
                       (alone["token_ids"], alone["text"], alone["finish_reason"]))
    done = self.batch(source, "two.jsonl", "--tp", 2, "--max-num-seqs", 5)
    self.assertEqual(done.returncode, 0, done.stderr)
    self.assertEqual(answers(self.folder / "two.jsonl"), first)
    foreign = worlds.run(
        "mpirun", "--allow-run-as-root", "--oversubscribe", "--bind-to", "none", "-np", "2",
        worlds.BINARY, "batch", worlds.DEMO, "--input", source, "--output",
        self.folder / "three.jsonl", binary=False)
    self.assertEqual(foreign.returncode, 0, foreign.stderr)
    self.assertEqual(answers(self.folder / "three.jsonl"), first)

  def test_gzip_pipe_ids_and_order(self):
    items = rows(30)
    for i, row in enumerate(items):
      row["id"] = i
    write(self.folder / "in.jsonl", items)
    packed = write(self.folder / "in.jsonl.gz", items)
    self.assertEqual(self.batch(packed, "a.jsonl", "--ordered").returncode, 0)
    self.assertEqual([row["id"] for row in read(self.folder / "a.jsonl")], list(range(30)))
    for args in ((), ("--tp", 2)):
      done = self.batch("-", f"pipe{len(args)}.jsonl", *args,
                        stdin=(self.folder / "in.jsonl").read_bytes())
      self.assertEqual(done.returncode, 0, done.stderr)
      self.assertEqual(answers(self.folder / f"pipe{len(args)}.jsonl"),
                       answers(self.folder / "a.jsonl"))
    ids = json.loads(worlds.run("tokenize", worlds.DEMO, "--json", "--add-special",
                                stdin=items[0]["prompt"].encode()).stdout)["ids"]
    row = dict(items[0], prompt_ids=ids)
    del row["prompt"]
    self.assertEqual(self.batch(write(self.folder / "ids.jsonl", [row]), "ids-out.jsonl").returncode,
                     0)
    self.assertEqual(answers(self.folder / "ids-out.jsonl")[0],
                     answers(self.folder / "a.jsonl")[0])

  def test_openai_form(self):
    model = pathlib.Path(self.temp.name, "model")
    model.mkdir()
    for file in worlds.DEMO.iterdir():
      (model / file.name).symlink_to(file)
    settings = model / "tokenizer_config.json"
    content = json.loads(settings.read_text()) if settings.exists() else {}
    settings.unlink(missing_ok=True)
    content["chat_template"] = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    settings.write_text(json.dumps(content))
    prompt = rows(1)[0]["prompt"]
    items = [
        {"custom_id": "chat", "method": "POST", "url": "/v1/chat/completions",
         "body": {"model": "x", "messages": [{"role": "user", "content": prompt}],
                  "max_completion_tokens": 8, "temperature": 0}},
        {"custom_id": "text", "method": "POST", "url": "/v1/completions",
         "body": {"model": "x", "prompt": prompt, "max_tokens": 8, "temperature": 0.9, "n": 3}},
        {"id": "short", "messages": [{"role": "user", "content": prompt}], "max_tokens": 8,
         "temperature": 0, "logprobs": 2},
        {"custom_id": "chat likely", "method": "POST", "url": "/v1/chat/completions",
         "body": {"model": "x", "messages": [{"role": "user", "content": prompt}],
                  "max_tokens": 8, "temperature": 0, "logprobs": True, "top_logprobs": 2}},
        {"custom_id": "text likely", "method": "POST", "url": "/v1/completions",
         "body": {"model": "x", "prompt": prompt, "max_tokens": 8, "temperature": 0.9, "n": 2,
                  "logprobs": 1}}]
    done = self.batch(write(self.folder / "in.jsonl", items), model=model)
    self.assertEqual(done.returncode, 0, done.stderr)
    found = {row.get("custom_id", row["id"]): row for row in read(self.folder / "out.jsonl")}
    chat = found["chat"]
    self.assertEqual(set(chat), {"id", "custom_id", "response", "error"})
    self.assertIsNone(chat["error"])
    self.assertEqual(chat["response"]["status_code"], 200)
    body = chat["response"]["body"]
    self.assertEqual(body["object"], "chat.completion")
    self.assertEqual(body["choices"][0]["message"]["role"], "assistant")
    self.assertEqual(body["choices"][0]["message"]["content"], found["short"]["text"])
    self.assertEqual([c["index"] for c in found["text"]["response"]["body"]["choices"]], [0, 1, 2])
    self.assertIsNone(body["choices"][0]["logprobs"])

    short = found["short"]
    self.assertEqual([t["token_id"] for t in short["logprobs"]], short["token_ids"])
    for token in short["logprobs"]:  # greedy: the chosen token is the most probable one
      self.assertEqual(len(token["top"]), 2)
      self.assertEqual(token["top"][0], {k: token[k] for k in ("token_id", "logprob")})
      self.assertLess(token["top"][1]["logprob"], token["logprob"])
    content = found["chat likely"]["response"]["body"]["choices"][0]["logprobs"]["content"]
    self.assertEqual([t["logprob"] for t in content], [t["logprob"] for t in short["logprobs"]])
    self.assertEqual([t["top_logprobs"][1]["logprob"] for t in content],
                     [t["top"][1]["logprob"] for t in short["logprobs"]])
    self.assertTrue(bytes(b for t in content for b in t["bytes"]).decode().startswith(
        short["text"]))
    for choice in found["text likely"]["response"]["body"]["choices"]:
      logprobs = choice["logprobs"]
      self.assertTrue("".join(logprobs["tokens"]).startswith(choice["text"]))
      self.assertEqual(logprobs["text_offset"][1], len(logprobs["tokens"][0]))
      self.assertEqual(len(logprobs["token_logprobs"]), len(logprobs["top_logprobs"]))
    summary = json.loads(done.stdout)
    self.assertGreater(summary["roofline_fraction"], 0)
    self.assertLess(summary["roofline_fraction"], 1.5)


class Replicas(Case):

  @classmethod
  def setUpClass(cls):
    reference = tempfile.TemporaryDirectory()
    cls.addClassCleanup(reference.cleanup)
    folder = pathlib.Path(reference.name)
    cls.items = rows(60, long=True)
    cls.source = write(folder / "in.jsonl", cls.items)
    done = worlds.run("batch", worlds.DEMO, "--input", cls.source, "--output", folder / "out.jsonl")
    assert done.returncode == 0, done.stderr
    cls.expected = answers(folder / "out.jsonl")

  def leaders(self, process):
    """Processes that run rows: those below the coordinator that have no child of their own."""
    family = worlds.processes_of_group(process.pid)
    return [pid for pid in family if not worlds.processes_of_group(pid)]

  def test_replicas_split_the_rows(self):
    for tp in (1, 2):
      output = f"out{tp}.jsonl"
      done = self.batch(self.source, output, "--replicas", 2, "--tp", tp, "--ordered",
                        "--max-num-seqs", 4)
      self.assertEqual(done.returncode, 0, done.stderr)
      self.assertEqual(done.summary["replicas"], 2)
      self.assertEqual(answers(self.folder / output), self.expected)
      self.assertEqual([row["id"] for row in read(self.folder / output)],
                       [row["id"] for row in self.items])
    # All rows are done, so no replica starts.
    done = self.batch(self.source, "out1.jsonl", "--replicas", 3, "--ordered")
    self.assertEqual((done.returncode, done.summary["resumed"]), (0, 60))

  def test_the_others_take_over_the_rows_of_a_dead_replica(self):
    for tp in (1, 2):
      output = f"out{tp}.jsonl"
      process = self.start(self.source, output, "--replicas", 2, "--tp", tp, "--threads", 1,
                           "--max-num-seqs", 2)
      self.wait_for_lines(process, 5, output)
      victims = self.leaders(process)
      self.assertGreaterEqual(len(victims), 2 * tp)
      os.kill(victims[-1], signal.SIGKILL)
      _, errors = process.communicate(timeout=100)
      self.assertEqual(process.returncode, 0, errors)
      self.assertRegex(errors.decode(), r"replica \d has ended with \d+")
      self.assertEqual(answers(self.folder / output), self.expected)

  def test_one_mpi_world_is_split_into_replicas(self):
    for ranks, args, replicas in ((4, ("--tp", 2), 2), (3, ("--tp", 1, "--ordered"), 3),
                                  (4, ("--replicas", 2), 2), (2, (), 1)):
      output = f"world{ranks}{replicas}.jsonl"
      done = self.world(ranks, output, *args)
      self.assertEqual(done.returncode, 0, done.stderr)
      self.assertEqual(json.loads(done.stdout)["replicas"], replicas)
      self.assertEqual(answers(self.folder / output), self.expected)
    # All rows are done, so no model is loaded.
    done = self.world(4, "world42.jsonl", "--tp", 2)
    self.assertEqual((done.returncode, json.loads(done.stdout)["resumed"]), (0, 60))

  def test_one_mpi_world_stops_and_resumes(self):
    process = subprocess.Popen([*self.mpirun(4), *map(str, self.command("out.jsonl", "--tp", 2))],
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    self.wait_for_lines(process, 5)
    process.send_signal(signal.SIGUSR1)
    output, errors = process.communicate(timeout=60)
    self.assertEqual(process.returncode, 75, errors)
    self.assertFalse(json.loads(output)["complete"])
    self.assertEqual(self.batch(self.source).returncode, 0)
    self.assertEqual(answers(self.folder / "out.jsonl"), self.expected)

  def test_worlds_that_cannot_be_split(self):
    done = self.world(3, "out.jsonl", "--tp", 2)
    self.assertEqual(done.returncode, 78, done.stderr)
    self.assertIn(b"rank 2 belongs to no replica: hosts have 3 ranks, a replica 2", done.stderr)
    done = self.world(2, "out.jsonl", "--hosts", "localhost:2")
    self.assertIn(b"--hosts: found in a process that mpirun or srun started", done.stderr)
    bad = write(self.folder / "bad.jsonl", [{"id": 1}])
    done = worlds.run(*self.mpirun(2), worlds.BINARY, "batch", worlds.DEMO, "--input", bad,
                      "--output", self.folder / "bad-out.jsonl", "--tp", 1, binary=False)
    self.assertEqual(done.returncode, 65, done.stderr)
    self.assertIn(b"found 1 row that cannot be run", done.stderr)

  def mpirun(self, ranks):
    return ["mpirun", "--allow-run-as-root", "--oversubscribe", "--bind-to", "none", "-np",
            str(ranks)]

  def command(self, output, *args):
    return [worlds.BINARY, "batch", worlds.DEMO, "--input", self.source, "--output",
            self.folder / output, "--threads", 1, "--max-num-seqs", 2, *args]

  def world(self, ranks, output, *args):
    return worlds.run(*self.mpirun(ranks), *self.command(output, *args), binary=False)

  def test_killed_and_stopped_jobs_resume_and_leave_no_process(self):
    process = self.start(self.source, "out.jsonl", "--replicas", 2, "--max-num-seqs", 2)
    self.wait_for_lines(process, 5)
    family = worlds.processes_of_group(process.pid)
    process.kill()
    process.communicate()
    deadline = time.monotonic() + 10
    while any(pathlib.Path(f"/proc/{pid}").exists() for pid in family):
      self.assertLess(time.monotonic(), deadline)
      time.sleep(0.05)
    lines = self.lines("out.jsonl")
    process = self.start(self.source, "out.jsonl", "--replicas", 2, "--tp", 2, "--threads", 1,
                         "--max-num-seqs", 2)
    # New lines show that the second job has begun.
    self.wait_for_lines(process, lines + 5)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    self.assertEqual(process.returncode, 75, errors)
    done = self.batch(self.source, "out.jsonl", "--replicas", 2)
    self.assertEqual(done.returncode, 0, done.stderr)
    self.assertEqual(answers(self.folder / "out.jsonl"), self.expected)

  def test_no_replica_can_start(self):
    done = self.batch(self.source, "out.jsonl", "--replicas", 2, "--isa", "nonsense")
    self.assertEqual(done.returncode, 65, done.stderr)
    self.assertIn(b"--isa: found", done.stderr)


class Progress(Case):
  """On a terminal of 64 columns, and without one."""

  def setUp(self):
    super().setUp()
    # Some seconds of work; the bar is drawn at least twice.
    items = [dict(row, max_tokens=450) for row in rows(80, long=True)]
    self.source = write(self.folder / "in.jsonl", items)

  def on_terminal(self, output, *args):
    """Standard output, and what the terminal gets."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 64, 0, 0))
    process = subprocess.Popen(
        [worlds.BINARY, "batch", str(worlds.DEMO), "--input", str(self.source), "--output",
         str(self.folder / output), "--max-num-seqs", "1", "--threads", "1", *map(str, args)],
        stdout=subprocess.PIPE, stderr=slave, env={**os.environ, "TERM": "xterm"})
    os.close(slave)
    shown = b""
    while True:
      try:
        read_now = os.read(master, 65536)
      except OSError:  # the last process has closed the terminal
        break
      if not read_now:
        break
      shown += read_now
    os.close(master)
    summary, _ = process.communicate(timeout=60)
    self.assertEqual(process.returncode, 0, shown)
    return json.loads(summary), shown.decode()

  def test_progress_bar_on_a_terminal(self):
    for number, args in enumerate(((), ("--tp", 2), ("--replicas", 2))):
      with self.subTest(args=args):
        summary, shown = self.on_terminal(f"out{number}.jsonl", *args)
        self.assertEqual(summary["finished"], 80)
        # Drawn again and again in one line, which is empty at the end.
        self.assertNotIn("\n", shown)
        self.assertTrue(shown.endswith("\r\x1b[K"), shown)
        drawn = [text.removesuffix("\x1b[K") for text in shown.split("\r")[1:-1]]
        self.assertGreater(len(drawn), 1)
        done = []
        for text in drawn:
          found = re.fullmatch(r"(?:\[(#*)(\.*)\] )?(\d+) of 80 rows, 0 failed, "
                               r"(\d+\.\d) tok/s, (\?|\d+s|\d+m\d\ds) left", text)
          self.assertIsNotNone(found, text)
          self.assertLess(len(text), 64)
          done.append(int(found[3]))
          if found[1] is not None:
            width = len(found[1]) + len(found[2])
            self.assertEqual(len(found[1]), width * done[-1] // 80)
        self.assertEqual(done, sorted(done))
        self.assertGreater(done[-1], 0)

  def test_progress_lines_without_a_terminal(self):
    for number, args in enumerate(((), ("--tp", 2), ("--replicas", 2))):
      done = self.batch(self.source, f"out{number}.jsonl", "--max-num-seqs", 1, "--threads", 1,
                        "--progress-interval", 0.25, *args)
      self.assertEqual(done.returncode, 0, done.stderr)
      lines = done.stderr.decode().splitlines()
      told = [line for line in lines if line.startswith("tandem: ")]
      self.assertGreater(len(told), 1)
      for line in told:
        self.assertRegex(line, r"^tandem: \d+ of 80 rows, 0 failed, \d+\.\d tok/s, \S+ left$")
      # The rest is the log, as in serve: the planned and the measured memory of each rank.
      log = [line for line in lines if line not in told]
      for line in log:
        self.assertRegex(line, r"^\S+ \S+ info rank \d+: ")
      held = [line for line in log if "measured" in line]
      self.assertEqual(len(held), 4 * (2 if args else 1))
      for purpose in ("weights", "embedding", "KV cache", "workspace"):
        self.assertRegex("".join(held), rf"{purpose}: planned \d+ bytes, measured \d")
    # Progress lines come every 30 s, so this short job prints none.
    done = self.batch(self.source, "quiet.jsonl")
    self.assertEqual(done.returncode, 0, done.stderr)
    self.assertNotIn(b"tandem: ", done.stderr)


class Checks(Case):

  def test_bad_rows_are_reported_before_loading(self):
    items = [{"id": "a", "prompt": "x", "max_tokens": 2}, {"id": "b"},
             {"id": "c", "prompt": "x", "temprature": 1}, {"id": "d", "prompt": "x", "top_p": 7},
             {"id": "e", "prompt_ids": [1, 99999999]}, {"prompt": "no id"},
             {"custom_id": "f", "method": "GET", "url": "/v1/completions", "body": {}},
             {"id": "g", "prompt": "x " * 5000}]
    source = self.folder / "in.jsonl"
    source.write_text("".join(json.dumps(i) + "\n" for i in items) + "{not json\n")
    done = self.batch(source)
    self.assertEqual(done.returncode, 65)
    errors = done.stderr.decode()
    for line in range(2, 10):
      self.assertIn(f"line {line}: ", errors)
    self.assertNotIn("line 1: ", errors)
    self.assertFalse((self.folder / "out.jsonl").exists())
    self.assertFalse((self.folder / "out.jsonl.journal").exists())

    done = self.batch(source, "out.jsonl", "--on-error", "skip")
    self.assertEqual(done.returncode, 0, done.stderr)
    self.assertEqual((done.summary["finished"], done.summary["failures"]), (1, 8))
    failed = read(self.folder / "out.jsonl.errors")
    self.assertEqual([row["line"] for row in failed], list(range(2, 10)))
    self.assertEqual(failed[1]["id"], "c")
    self.assertIn("temprature", failed[1]["error"]["message"])
    # Once more: no row is computed or reported twice.
    done = self.batch(source, "out.jsonl", "--on-error", "skip")
    self.assertEqual(done.returncode, 0, done.stderr)
    self.assertEqual(len(read(self.folder / "out.jsonl.errors")), 8)
    self.assertEqual(done.summary["resumed"], 9)

  def test_duplicate_ids_are_refused(self):
    items = rows(3) + rows(2)
    done = self.batch(write(self.folder / "in.jsonl", items), "out.jsonl", "--on-error", "skip")
    self.assertEqual(done.returncode, 65)
    self.assertIn(b'line 4: found the id "row-0" of line 1 again', done.stderr)

  def test_ordered_results_include_corrected_and_added_rows(self):
    items = rows(5)
    mended = [dict(items[4], id="new"), *items]
    items[1] = dict(items[1], top_p=7)
    source = self.folder / "in.jsonl"
    done = self.batch(write(source, items), "out.jsonl", "--ordered", "--on-error", "skip")
    self.assertEqual(done.returncode, 0, done.stderr)
    before = answers(self.folder / "out.jsonl")
    self.assertEqual(list(before), ["row-0", "row-2", "row-3", "row-4"])
    done = self.batch(write(source, mended), "out.jsonl", "--ordered", "--on-error", "skip")
    self.assertEqual(done.returncode, 0, done.stderr)
    self.assertEqual((done.summary["resumed"], done.summary["finished"]), (4, 2))
    after = answers(self.folder / "out.jsonl")
    self.assertEqual(list(after), [row["id"] for row in mended])
    for key, answer in before.items():
      self.assertEqual(after[key], answer)

  def test_one_file_cannot_have_two_roles(self):
    source = write(self.folder / "in.jsonl", rows(3))
    other = self.folder / "other.jsonl"
    os.link(source, other)
    (self.folder / "alias").symlink_to(self.folder)
    text = source.read_text()
    for output, errors in (("out.jsonl", "out.jsonl"), ("out.jsonl", "alias/out.jsonl"),
                           ("out.jsonl", "out.jsonl.journal"), ("out.jsonl", "in.jsonl"),
                           ("out.jsonl", "other.jsonl"), ("in.jsonl", "errors"),
                           ("alias/other.jsonl", "errors")):
      done = self.batch(source, output, "--errors", self.folder / errors)
      self.assertEqual(done.returncode, 65, done.stderr)
      self.assertIn(b"expected another file", done.stderr)
      self.assertEqual(source.read_text(), text)
      self.assertFalse((self.folder / "out.jsonl").exists())
    done = self.batch(source, "out.jsonl", "--errors", "/dev/null")
    self.assertEqual(done.returncode, 0, done.stderr)

  def test_a_damaged_journal_is_refused_and_kept(self):
    source = write(self.folder / "in.jsonl", rows(6))
    self.assertEqual(self.batch(source).returncode, 0)
    journal = self.folder / "out.jsonl.journal"
    whole = journal.read_bytes()
    at = whole.index(b"\n") + 1
    damaged = whole[:at + 40] + b"?" + whole[at + 41:]
    journal.write_bytes(damaged)
    done = self.batch(source)
    self.assertEqual(done.returncode, 65, done.stderr)
    self.assertIn(f"out.jsonl.journal: byte {at}: found a damaged record".encode(), done.stderr)
    self.assertEqual(journal.read_bytes(), damaged)
    journal.write_bytes(whole)
    self.assertEqual(self.batch(source).summary["resumed"], 6)

  def test_a_changed_tool_template_is_refused(self):
    model = self.folder / "model"
    model.mkdir()
    for file in worlds.DEMO.iterdir():
      (model / file.name).symlink_to(file)
    source = write(self.folder / "in.jsonl", rows(3))
    self.assertEqual(self.batch(source, model=model).returncode, 0)
    (model / "additional_chat_templates").mkdir()
    (model / "additional_chat_templates/tool_use.jinja").write_text("{{ tools|length }}")
    done = self.batch(source, "tools.jsonl", model=model)
    self.assertEqual(done.returncode, 0, done.stderr)
    (model / "additional_chat_templates/tool_use.jinja").write_text("{{ tools|length + 1 }}")
    done = self.batch(source, "tools.jsonl", model=model)
    self.assertEqual(done.returncode, 78, done.stderr)
    self.assertIn(b".journal: tool-use-template: found", done.stderr)

  def test_a_resumed_job_keeps_its_date_and_zone(self):
    model = self.folder / "model"
    model.mkdir()
    for file in worlds.DEMO.iterdir():
      (model / file.name).symlink_to(file)
    shown = "%H:%M:%S.%f"
    (model / "chat_template.jinja").unlink(missing_ok=True)
    (model / "chat_template.jinja").write_text("{{ strftime_now('" + shown + "') }} is")
    items = [{"id": name, "messages": [{"role": "user", "content": "x"}], "max_tokens": 6,
              "temperature": 0} for name in "ab"]
    for zone, count in (("Etc/GMT-5", 1), ("Etc/GMT+7", 2)):
      with unittest.mock.patch.dict(os.environ, TZ=zone):
        done = self.batch(write(self.folder / "in.jsonl", items[:count]), model=model)
      self.assertEqual(done.returncode, 0, done.stderr)
    header = (self.folder / "out.jsonl.journal").read_text().splitlines()[0].split(" ", 1)[1]
    began = datetime.datetime.fromisoformat(json.loads(header)["time"])
    self.assertEqual(began.utcoffset(), datetime.timedelta(hours=5))
    ids = json.loads(worlds.run("tokenize", worlds.DEMO, "--json",
                                stdin=(began.strftime(shown) + " is").encode()).stdout)["ids"]
    row = {"id": "c", "prompt_ids": ids, "max_tokens": 6, "temperature": 0}
    done = self.batch(write(self.folder / "ids.jsonl", [row]), "ids-out.jsonl")
    self.assertEqual(done.returncode, 0, done.stderr)
    expected = read(self.folder / "ids-out.jsonl")[0]["token_ids"]
    self.assertEqual([r["token_ids"] for r in read(self.folder / "out.jsonl")], [expected] * 2)

  def test_files_that_cannot_be_read_or_written(self):
    source = write(self.folder / "in.jsonl", rows(3))
    self.assertEqual(self.batch(self.folder / "none.jsonl").returncode, 65)
    cut = self.folder / "cut.gz"
    cut.write_bytes(gzip.compress(source.read_bytes())[:-20])
    self.assertEqual(self.batch(cut).returncode, 65)
    self.assertEqual(self.batch(source, "none/out.jsonl").returncode, 74)

  def test_another_model_other_parameters_or_rows_are_refused(self):
    source = write(self.folder / "in.jsonl", rows(6))
    self.assertEqual(self.batch(source).returncode, 0)
    before = (self.folder / "out.jsonl").read_bytes()
    for args, name in ((("--temperature", "0.5"), "sampling"), (("--seed", "3"), "seed"),
                       (("--kv-dtype", "fp32"), "kv-dtype"), (("--ordered",), "ordered")):
      done = self.batch(source, "out.jsonl", *args)
      self.assertEqual(done.returncode, 78, done.stderr)
      self.assertIn(f".journal: {name}: found".encode(), done.stderr)
    other = worlds.SHARED / "models/stories260k"
    if other.exists():
      done = self.batch(write(self.folder / "ids.jsonl", [{"id": "x", "prompt_ids": [1]}]),
                        model=other)
      self.assertEqual(done.returncode, 78)
      self.assertIn(b".journal: model: found", done.stderr)
    changed = rows(6)
    changed[2]["max_tokens"] += 1
    done = self.batch(write(self.folder / "changed.jsonl", changed))
    self.assertEqual(done.returncode, 78)
    self.assertIn(b'row "row-2" (line 3): found another text', done.stderr)
    self.assertEqual((self.folder / "out.jsonl").read_bytes(), before)
    (self.folder / "out.jsonl.journal").unlink()
    self.assertEqual(self.batch(source).returncode, 78)
    self.assertEqual((self.folder / "out.jsonl").read_bytes(), before)
    # More rows may be added.
    more = write(self.folder / "more.jsonl", rows(6) + [dict(rows(7)[6], id="new")])
    self.assertEqual(self.batch(more, "more-out.jsonl").returncode, 0)


class Kills(Case):

  @classmethod
  def setUpClass(cls):
    cls.reference = tempfile.TemporaryDirectory()
    folder = pathlib.Path(cls.reference.name)
    cls.source = write(folder / "in.jsonl", rows(100, long=True))
    done = worlds.run("batch", worlds.DEMO, "--input", cls.source, "--output", folder / "out.jsonl",
                      "--max-num-seqs", 4)
    assert done.returncode == 0, done.stderr
    cls.expected = answers(folder / "out.jsonl")

  @classmethod
  def tearDownClass(cls):
    cls.reference.cleanup()

  def finish(self, output, *args):
    done = self.batch(self.source, output, *args)
    self.assertEqual(done.returncode, 0, done.stderr)
    self.assertEqual(answers(self.folder / output), self.expected)
    return done

  def test_sigkill_of_launcher_or_any_rank_at_any_instant(self):
    dice = random.Random(int(os.environ.get("TANDEM_TEST_SEED", "7")))
    kills = 0
    for trial in range(3):
      tp = (1, 2, 3)[trial % 3]
      output = f"out{trial}.jsonl"
      seen = {}
      for _ in range(3):
        process = self.start(self.source, output, "--tp", tp, "--max-num-seqs", 4,
                             "--threads", 1)
        self.wait_for_lines(process, len(seen) + 1, output)
        time.sleep(dice.uniform(0, 0.15))
        family = [process.pid, *worlds.processes_of_group(process.pid)]
        victim = dice.choice(family)
        if process.poll() is None:
          os.kill(victim, signal.SIGKILL)
          kills += 1
        process.communicate(timeout=60)
        # Every complete line stays.
        whole = (self.folder / output).read_bytes().split(b"\n")[:-1]
        now = {json.loads(line)["id"]: line for line in whole if line.strip(b"\0")}
        for key, line in seen.items():
          self.assertEqual(now[key], line)
        seen = now
      # Another TP degree resumes with the same answers.
      self.finish(output, "--tp", 1 + trial % 2)
    self.assertGreater(kills, 4)

  def test_unfinished_rows_resume_from_their_tokens(self):
    process = self.start(self.source, "out.jsonl", "--max-num-seqs", 4)
    self.wait_for_lines(process, 20)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    self.assertEqual(process.returncode, 75)
    done = set()
    tokens = {}
    for line in (self.folder / "out.jsonl.journal").read_text().splitlines()[1:]:
      record = json.loads(line[17:])
      if "t" in record:
        tokens[record["k"]] = tokens.get(record["k"], 0) + len(record["t"])
      else:
        done.add(record["k"])
    known = sum(count for key, count in tokens.items() if key not in done)
    self.assertGreater(known, 0)
    summary = self.finish("out.jsonl").summary
    left = sum(len(self.expected[key][0]) for key in self.expected) - sum(
        len(row["token_ids"]) for row in read(self.folder / "out.jsonl")[:len(done)])
    # The last known token of each row is computed again.
    self.assertLessEqual(summary["completion_tokens"], left - known + len(tokens))

  def test_a_torn_tail_of_either_file_is_repaired(self):
    process = self.start(self.source, "out.jsonl", "--max-num-seqs", 4)
    self.wait_for_lines(process, 30)
    process.kill()
    process.communicate()
    output, journal = self.folder / "out.jsonl", self.folder / "out.jsonl.journal"
    for cut_output, cut_journal in ((7, 0), (0, 3), (5000, 0)):
      size = output.stat().st_size
      os.truncate(output, max(0, size - cut_output))
      if cut_journal:
        # A record that the journal loses is not in the results yet.
        with open(journal, "ab") as file:
          file.write(b'0123456789abcdef {"k":"00')
      done = self.batch(self.source, "out.jsonl", "--time-limit", "0.001")
      self.assertEqual(done.returncode, 75, done.stderr)
      self.assertGreaterEqual(output.stat().st_size, size)
    self.finish("out.jsonl")

  def test_signals_stop_with_exit_code_75_and_the_job_resumes(self):
    for number, (tp, which) in enumerate(((1, signal.SIGTERM), (2, signal.SIGTERM),
                                          (2, signal.SIGUSR1), (1, signal.SIGUSR1))):
      output = f"out{number}.jsonl"
      process = self.start(self.source, output, "--tp", tp, "--max-num-seqs", 4)
      self.wait_for_lines(process, 10, output)
      process.send_signal(which)
      began = time.monotonic()
      _, errors = process.communicate(timeout=60)
      self.assertEqual(process.returncode, 75, errors)
      self.assertLess(time.monotonic() - began, 10)
      self.assertIn(b"run the same command again to continue", errors)
    self.finish("out1.jsonl", "--tp", 2)

  def test_time_limit(self):
    done = self.batch(self.source, "out.jsonl", "--time-limit", "0.2", "--max-num-seqs", 2)
    self.assertEqual(done.returncode, 75, done.stderr)
    self.assertFalse(done.summary["complete"])
    done = self.batch(self.source, "out.jsonl",
                      env={"SLURM_JOB_END_TIME": str(int(time.time()) + 20)})
    self.assertEqual(done.returncode, 75, done.stderr)
    self.finish("out.jsonl")

  def test_a_signal_before_the_first_row(self):
    for tp in (1, 2):
      process = self.start("-", "out.jsonl", "--tp", tp, "--threads", 1, stdin=subprocess.PIPE)
      blocked = 0  # once it blocks SIGTERM it handles signals
      while not blocked >> signal.SIGTERM - 1 & 1:
        with open(f"/proc/{process.pid}/status") as status:
          blocked = int(next(line for line in status if line.startswith("SigBlk")).split()[1], 16)
      time.sleep(tp - 1)  # at two different times
      process.send_signal(signal.SIGTERM)
      process.wait(60)
      errors = process.stderr.read()
      process.stdin.close()
      process.stdout.close()
      process.stderr.close()
      self.assertEqual(process.returncode, 75, errors)

  def test_one_job_at_a_time(self):
    slow = self.start(self.source, "out.jsonl", "--max-num-seqs", 1)
    self.wait_for_lines(slow, 1)
    slow.send_signal(signal.SIGSTOP)
    began = time.monotonic()
    done = self.batch(self.source)
    self.assertEqual(done.returncode, 69, done.stderr)
    self.assertIn(b"another job has it open", done.stderr)
    self.assertGreater(time.monotonic() - began, 9)
    # The second job waits for one that is about to die.
    second = self.start(self.source, "out.jsonl")
    time.sleep(0.5)
    slow.kill()
    slow.communicate()
    _, errors = second.communicate(timeout=60)
    self.assertEqual(second.returncode, 0, errors)
    self.assertEqual(answers(self.folder / "out.jsonl"), self.expected)

  def test_files_that_vanish_or_change_in_mid_job(self):
    """Never "complete": exit 74 with a line that names the file; no answer is lost."""
    def remove(path):
      path.unlink()

    def move(path):
      path.rename(path.with_suffix(".moved"))

    def replace(path):
      path.with_suffix(".new").write_text("another\n")
      path.with_suffix(".new").rename(path)

    def cut(path):
      os.truncate(path, 10)

    def append(path):
      with open(path, "ab") as file:
        file.write(b"another\n")

    for name in ("out.jsonl", "out.jsonl.journal"):
      for change in (remove, move, replace, cut, append):
        folder = self.folder / f"{name}-{change.__name__}"
        folder.mkdir()
        output = f"{folder.name}/out.jsonl"
        tp = 2 if change is remove else 1
        process = self.start(self.source, output, "--max-num-seqs", 2, "--tp", tp)
        self.wait_for_lines(process, 3, output)
        before = self.lines(output)
        change(folder / name)
        out, errors = process.communicate(timeout=60)
        what = (name, change.__name__, errors)
        self.assertEqual(process.returncode, 74, what)
        if out:
          self.assertFalse(json.loads(out)["complete"], what)
        self.assertIn(f"{folder / name}: found ".encode(), errors, what)
        if change is replace or (name.endswith(".journal") and change is cut):
          self.assertNotEqual(self.batch(self.source, output).returncode, 0, what)
          continue
        if change is append and name == "out.jsonl":
          self.assertEqual(self.batch(self.source, output).returncode, 78)
          (folder / name).unlink()
        done = self.batch(self.source, output)
        self.assertEqual(done.returncode, 0, (what, done.stderr))
        self.assertGreaterEqual(done.summary["resumed"], before, what)
        self.assertEqual(answers(folder / "out.jsonl"), self.expected, what)

  def test_a_folder_that_vanishes_in_mid_job(self):
    (self.folder / "gone").mkdir()
    process = self.start(self.source, "gone/out.jsonl", "--max-num-seqs", 2)
    self.wait_for_lines(process, 3, "gone/out.jsonl")
    shutil.rmtree(self.folder / "gone")
    _, errors = process.communicate(timeout=60)
    self.assertEqual(process.returncode, 74, errors)
    self.assertIn(b"out.jsonl.journal: found it removed or moved", errors)

  def test_a_journal_with_a_damaged_end(self):
    """Its last rows are made again, and their lines in the results are replaced."""
    output, journal = self.folder / "out.jsonl", self.folder / "out.jsonl.journal"
    self.assertEqual(self.batch(self.source).returncode, 0)
    whole = journal.read_bytes()
    results = output.read_bytes()
    for at in (len(whole) - 1, len(whole) - 30, whole.rindex(b"\n", 0, len(whole) - 1)):
      journal.write_bytes(whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1:])
      output.write_bytes(results)
      done = self.batch(self.source)
      self.assertEqual(done.returncode, 0, done.stderr)
      self.assertLess(done.summary["resumed"], len(self.expected))
      self.assertEqual(answers(output), self.expected)

  def test_only_the_owner_reads_a_journal(self):
    before = os.umask(0o022)
    try:
      self.assertEqual(self.batch(self.source).returncode, 0)
    finally:
      os.umask(before)
    self.assertEqual((self.folder / "out.jsonl.journal").stat().st_mode & 0o777, 0o600)
    self.assertEqual((self.folder / "out.jsonl").stat().st_mode & 0o777, 0o644)

  def test_a_full_disk(self):
    if os.geteuid() != 0:
      raise unittest.SkipTest("mounting a small disk needs root")
    disk = self.folder / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=96k", "tmpfs", str(disk)],
                             capture_output=True)
    if mounted.returncode != 0:
      raise unittest.SkipTest(f"cannot mount: {mounted.stderr.decode()}")
    try:
      for tp in (1, 2):
        done = self.batch(self.source, "disk/out.jsonl", "--tp", tp)
        self.assertEqual(done.returncode, 74, done.stderr)
        self.assertIn(b"No space left on device", done.stderr)
        for row in (disk / "out.jsonl").read_text().splitlines():
          json.loads(row)
      subprocess.run(["mount", "-o", "remount,size=8m", str(disk)], check=True)
      self.finish("disk/out.jsonl")
    finally:
      subprocess.run(["umount", str(disk)], check=True)


if __name__ == "__main__":
  unittest.main()
