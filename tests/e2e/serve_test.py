"""`tandem serve` over real mpirun worlds, called by a client made from the .proto alone."""

import concurrent.futures
import json
import os
import pathlib
import signal
import time
import unittest

import worlds
from worlds import grpc, health_pb2, pb

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
PROMPT = "<|bos|><|user|>Add 12 and 30.<|end|><|assistant|>"


def ranks(count):
  """What a server of so many ranks is started with."""
  return worlds.DEMO, "--tp", count, "--threads", 1


# The metrics endpoint must not cost an idle world anything.
FOUR_RANKS = (*ranks(4), "--metrics-listen", "127.0.0.1:0")


class Worlds(unittest.TestCase):

  def test_same_stream_at_every_degree(self):
    answers = set()
    for tp in (1, 2, 3, 4):
      server = worlds.shared_server(*(FOUR_RANKS if tp == 4 else ranks(tp)))
      model = server.stub.GetModel(pb.GetModelRequest(), timeout=10)
      self.assertEqual(model.tp_degree, tp)
      self.assertTrue(model.has_tokenizer)
      self.assertEqual(server.health("tandem.v1.InferenceService"), SERVING)
      text, ids, reason, last = server.generate(PROMPT, temperature=0.0, max_tokens=32)
      self.assertEqual(reason, pb.FINISH_REASON_STOP)
      self.assertEqual(last.usage.completion_tokens, len(ids))
      self.assertGreater(last.timings.prefill.ToTimedelta().total_seconds(), 0)
      answers.add((text, tuple(ids)))
    self.assertEqual(len(answers), 1)
    self.assertEqual(answers.pop()[0], "12 + 30 = 42")

  def test_joins_a_given_world(self):
    mpirun = ["mpirun", "--allow-run-as-root", "--oversubscribe", "--bind-to", "none", "-np", "2",
              worlds.BINARY]
    with worlds.Server(worlds.DEMO, "--threads", 1, command=mpirun) as server:
      self.assertEqual(server.generate(PROMPT, temperature=0.0)[0], "12 + 30 = 42")
      # mpirun's own SIGTERM would kill the ranks; SIGUSR1 drains.
      server.process.send_signal(signal.SIGUSR1)
      code, errors = server.wait()
      self.assertEqual(code, 0, errors)

  def test_a_folder_without_tokenizer_serves_ids(self):
    model = worlds.shared("models/stories260k")
    expected = json.loads((model / "expected.json").read_text())["greedy_ids"]
    with worlds.Server(model, "--tp", 2, "--threads", 1) as server:
      _, ids, reason, _ = server.generate(ids=[1], temperature=0.0, max_tokens=len(expected))
      self.assertEqual(ids, expected)
      self.assertEqual(reason, pb.FINISH_REASON_LENGTH)
      with self.assertRaises(grpc.RpcError) as failed:
        server.generate("text")
      self.assertEqual(failed.exception.code(), grpc.StatusCode.FAILED_PRECONDITION)


class Service(unittest.TestCase):
  """One world of two ranks for all tests that do not end it."""

  @classmethod
  def setUpClass(cls):
    cls.server = worlds.shared_server(*ranks(2))

  def test_parallel_streams_give_the_answers_of_single_ones(self):
    prompts = [f"<|bos|><|user|>What is {a} + {b}?<|end|><|assistant|>"
               for a in range(5, 85, 10) for b in range(3, 40, 9)]
    alone = [self.server.generate(p, temperature=0.0, max_tokens=24) for p in prompts]
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
      together = list(pool.map(
          lambda p: self.server.generate(p, temperature=0.0, max_tokens=24), prompts))
    self.assertEqual([a[:3] for a in alone], [t[:3] for t in together])

  def test_messages_give_the_answer_of_their_rendering(self):
    messages = [{"role": "user", "content": "Add 12 and 30."}]
    done = worlds.run("render", worlds.DEMO, "--messages", "-",
                      stdin=json.dumps({"messages": messages}).encode())
    self.assertEqual((done.returncode, done.stdout.decode()), (0, PROMPT), done.stderr)
    request = pb.GenerateRequest(
        messages=pb.ChatPrompt(messages=[pb.ChatMessage(**m) for m in messages]),
        sampling=pb.SamplingParams(temperature=0.0, max_tokens=32))
    parts = list(self.server.stub.Generate(request, timeout=60))
    text, ids, _, last = self.server.generate(PROMPT, temperature=0.0, max_tokens=32)
    self.assertEqual("".join(p.text for p in parts), text)
    self.assertEqual([i for p in parts for i in p.token_ids], ids)
    self.assertEqual(parts[-1].usage.prompt_tokens, last.usage.prompt_tokens)
    done = worlds.run("client", "--addr", self.server.address, "--chat", "Add 12 and 30.",
                      "--temperature", "0")
    self.assertEqual(done.stdout.decode().rstrip("\n"), text)

  def test_seeds_are_reproducible(self):
    draws = [self.server.generate("Once", temperature=20.0, max_tokens=24, seed=s)[1]
             for s in (1, 1, 2)]
    self.assertEqual(draws[0], draws[1])
    self.assertNotEqual(draws[0], draws[2])

  def test_stop_token_ids_end_the_answer(self):
    _, ids, _, _ = self.server.generate(PROMPT, temperature=0.0, max_tokens=24)
    _, cut, reason, _ = self.server.generate(PROMPT, temperature=0.0, max_tokens=24,
                                             stop_token_ids=[ids[3]])
    self.assertEqual(cut, ids[:ids.index(ids[3]) + 1])
    self.assertEqual(reason, pb.FINISH_REASON_STOP)

  def test_tokenize_and_back(self):
    text = "What is 5 + 7? \u00e9\U0001f642"
    ids = self.server.stub.Tokenize(pb.TokenizeRequest(text=text), timeout=10).ids
    back = self.server.stub.Detokenize(pb.DetokenizeRequest(ids=ids), timeout=10)
    self.assertEqual(back.text, text)

  def test_cancel_and_deadline_do_not_harm_the_server(self):
    for _ in range(50):
      request = pb.GenerateRequest(text=PROMPT, sampling=pb.SamplingParams(
          temperature=2.0, max_tokens=400))
      call = self.server.stub.Generate(request, timeout=60)
      next(iter(call))
      call.cancel()
    with self.assertRaises(grpc.RpcError) as failed:
      self.server.generate("Once", temperature=20.0, max_tokens=480, ignore_eos=True,
                           timeout=0.005)
    self.assertEqual(failed.exception.code(), grpc.StatusCode.DEADLINE_EXCEEDED)
    self.assertEqual(self.server.generate(PROMPT, temperature=0.0)[0], "12 + 30 = 42")

  def test_the_command_line_client(self):
    done = worlds.run("client", "--addr", self.server.address, PROMPT, "--temperature", "0")
    self.assertEqual(done.returncode, 0, done.stderr)
    self.assertEqual(done.stdout.decode().rstrip("\n"), "12 + 30 = 42")


class Ends(unittest.TestCase):

  def test_health_is_not_serving_before_the_weights(self):
    server = worlds.Server(worlds.DEMO, "--tp", 2, ready=False)
    with server:
      seen = set()
      deadline = time.monotonic() + 30
      while SERVING not in seen and time.monotonic() < deadline:
        try:
          seen.add(server.health())
        except grpc.RpcError as error:
          self.assertEqual(error.code(), grpc.StatusCode.UNAVAILABLE)
      self.assertIn(SERVING, seen)

  def test_a_port_in_use_is_one_line(self):
    server = worlds.shared_server(*ranks(1))
    done = worlds.run("serve", worlds.DEMO, "--tp", "2", "--listen", server.address, timeout=30)
    self.assertNotEqual(done.returncode, 0)
    lines = done.stderr.decode().strip().splitlines()
    self.assertEqual(len(lines), 1, lines)
    self.assertIn(server.address, lines[0])
    self.assertEqual(server.generate(PROMPT, temperature=0.0)[0], "12 + 30 = 42")

  def test_a_drain_lets_streams_finish(self):
    for tp in (1, 2):
      server = worlds.Server(*ranks(tp))
      request = pb.GenerateRequest(text=PROMPT, sampling=pb.SamplingParams(
          temperature=0.0, max_tokens=32))
      call = server.stub.Generate(request, timeout=30)
      first = next(iter(call))
      server.process.send_signal(signal.SIGTERM)
      text = first.text + "".join(message.text for message in call)
      self.assertEqual(text, "12 + 30 = 42")
      code, errors = server.wait()  # a second signal would not let the streams finish
      self.assertEqual(code, 0, errors)
      server.channel.close()

  def test_sigterm_to_ranks_that_srun_started_drains(self):
    # srun sets PMIx's and Slurm's variables and sends signals to the ranks themselves. Here mpirun
    # stands in for srun, without the variable that marks it as mpirun.
    srun = ["mpirun", "--allow-run-as-root", "--oversubscribe", "--bind-to", "none", "-np", "2",
            "env", "-u", "OMPI_COMM_WORLD_SIZE", "SLURM_STEP_ID=0", "SLURM_PROCID=0",
            "SLURM_STEP_NUM_TASKS=2", worlds.BINARY]
    with worlds.Server(worlds.DEMO, "--threads", 1, command=srun) as server:
      request = pb.GenerateRequest(text=PROMPT, sampling=pb.SamplingParams(
          temperature=0.0, max_tokens=400, ignore_eos=True))
      call = server.stub.Generate(request, timeout=30)
      tokens = len(next(iter(call)).token_ids)
      status = server.stub.GetServerStatus(pb.GetServerStatusRequest(), timeout=10)
      for rank in status.ranks:
        os.kill(rank.pid, signal.SIGTERM)
      tokens += sum(len(message.token_ids) for message in call)
      self.assertEqual(tokens, 400)
      code, errors = server.wait()
      self.assertEqual(code, 0, errors)

  def test_nothing_survives_a_killed_launcher(self):
    for tp in (1, 3):
      server = worlds.Server(*ranks(tp))
      below = worlds.processes_of_group(server.process.pid)
      self.assertGreaterEqual(len(below), tp)
      server.process.kill()
      server.process.wait()
      deadline = time.monotonic() + 10
      while time.monotonic() < deadline and any(alive(pid) for pid in below):
        time.sleep(0.05)
      self.assertEqual([pid for pid in below if alive(pid)], [])
      server.channel.close()

  def test_an_idle_world_is_quiet(self):
    server = worlds.shared_server(*FOUR_RANKS)
    server.generate(PROMPT, temperature=0.0)
    time.sleep(1)
    pids = worlds.processes_of_group(server.process.pid)
    for _ in range(3):  # a busy machine may disturb one of them
      before = sum(cpu_seconds(pid) for pid in pids)
      time.sleep(5)
      used = (sum(cpu_seconds(pid) for pid in pids) - before) / 5
      print(f"idle world of 4 ranks: {100 * used:.2f} % of one core")
      if used < 0.02:
        return
    self.fail("an idle world uses more than 2 % of one core")


def alive(pid):
  try:
    return pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
  except OSError:
    return False


def cpu_seconds(pid):
  fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
  return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
  unittest.main()
