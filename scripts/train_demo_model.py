#!/usr/bin/env python3
"""Trains the demo model: a Llama small enough to live in the repository.

This script and demo_tasks.py make everything: the text, the tokenizer and the
weights. It needs the packages in requirements-oracle.txt and, on two CPU cores,
less than an hour.

  python3 scripts/train_demo_model.py --out tests/models

writes an ordinary Hugging Face folder OUT/demo, the held-out tasks
OUT/demo_tasks.jsonl and what the model scores on them, OUT/demo_accuracy.json.
"""

import argparse
import copy
import json
import logging
import math
import pathlib
import platform
import random
import time
from collections.abc import Iterator, Sequence

import third_party

with third_party.modules(third_party.ORACLE):
  import numpy as np
  import tokenizers
  import torch
  import transformers
  from tokenizers import decoders, models, pre_tokenizers, trainers

import demo_tasks

# Special tokens in id order.
BOS, END, SYSTEM, USER, ASSISTANT = SPECIAL_TOKENS = (
    "<|bos|>",
    "<|end|>",
    "<|system|>",
    "<|user|>",
    "<|assistant|>",
)
# The template alone emits bos; the tokenizer's post-processor adds nothing. So
# a rendered prompt has the same ids whether special tokens are added or not.
CHAT_TEMPLATE = (
    "{{ bos_token }}"
    "{% for message in messages %}"
    "{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
# Digits stand alone, so that arithmetic sees columns. A space belongs to what
# follows it, which also tells where a number starts.
SPLIT_PATTERN = r" ?\p{L}+| ?\p{N}| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"

VOCAB_SIZE = 768
# Addition is the hardest to learn and so is seen most often.
KIND_WEIGHTS = {"add": 4, "sort": 3, "reverse": 2, "story": 2}
STEP_TOKENS = 2048
# Copying is found sooner where there is little to look through, so that rows
# are short at first; the later ones teach longer conversations.
SHORT_ROW, LONG_ROW = 128, 256
SHORT_ROWS_PART = 0.65
PEAK_LEARNING_RATE = 3e-3
WARMUP_STEPS = 100
AVERAGE_DECAY = 0.995
TASKS_PER_KIND = 125
CHECKPOINT_STEPS = 1000

log = logging.getLogger("train_demo_model")


def train_tokenizer(rng: random.Random) -> tokenizers.Tokenizer:
  """Trains byte-level BPE on the text of training tasks."""
  tokenizer = tokenizers.Tokenizer(models.BPE())
  tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
      pre_tokenizers.Split(tokenizers.Regex(SPLIT_PATTERN), "isolated"),
      pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
  ])
  tokenizer.decoder = decoders.ByteLevel()
  trainer = trainers.BpeTrainer(
      vocab_size=VOCAB_SIZE,
      special_tokens=list(SPECIAL_TOKENS),
      initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
      show_progress=False,
  )
  text = list(demo_tasks.SYSTEM_MESSAGES)
  for _ in range(4000):
    for kind in demo_tasks.KINDS:
      task = demo_tasks.make_task_of("train", kind, rng)
      text += [task.question, task.answer]
  tokenizer.train_from_iterator(text, trainer)
  return tokenizer


def write_tokenizer(
    tokenizer: tokenizers.Tokenizer, folder: pathlib.Path
) -> None:
  tokenizer.save(str(folder / "tokenizer.json"))
  config = {
      "tokenizer_class": "PreTrainedTokenizerFast",
      "bos_token": BOS,
      "eos_token": END,
      "pad_token": END,
      "add_bos_token": False,
      "clean_up_tokenization_spaces": False,
      "model_max_length": 512,
      "chat_template": CHAT_TEMPLATE,
      "added_tokens_decoder": {
          str(tokenizer.token_to_id(token)): {
              "content": token,
              "lstrip": False,
              "normalized": False,
              "rstrip": False,
              "single_word": False,
              "special": True,
          }
          for token in SPECIAL_TOKENS
      },
  }
  text = json.dumps(config, indent=2) + "\n"
  (folder / "tokenizer_config.json").write_text(text, encoding="utf-8")


def make_model(
    tokenizer: tokenizers.Tokenizer,
) -> transformers.LlamaForCausalLM:
  """Makes an untrained model; 8 query and 4 KV heads leave TP room to cut."""
  config = transformers.LlamaConfig(
      vocab_size=tokenizer.get_vocab_size(),
      hidden_size=192,
      intermediate_size=512,
      num_hidden_layers=4,
      num_attention_heads=8,
      num_key_value_heads=4,
      head_dim=32,
      max_position_embeddings=512,
      rope_theta=10000.0,
      rms_norm_eps=1e-5,
      tie_word_embeddings=True,
      bos_token_id=tokenizer.token_to_id(BOS),
      eos_token_id=tokenizer.token_to_id(END),
      pad_token_id=tokenizer.token_to_id(END),
  )
  model = transformers.LlamaForCausalLM(config)
  model.generation_config = transformers.GenerationConfig(
      bos_token_id=config.bos_token_id,
      eos_token_id=config.eos_token_id,
      pad_token_id=config.pad_token_id,
      do_sample=False,
  )
  return model


def make_batches(
    tokenizer: tokenizers.Tokenizer, steps: int, rng: random.Random
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
  """Yields (tokens, is_answer), both [batch, row + 1], for each step.

  A row is one conversation of as many questions as fit, which wastes nothing
  on padding and teaches the model to go on after its first answer.
  """
  ids = {token: tokenizer.token_to_id(token) for token in SPECIAL_TOKENS}
  kinds, weights = tuple(KIND_WEIGHTS), tuple(KIND_WEIGHTS.values())

  def encode(text: str) -> list[int]:
    return tokenizer.encode(text, add_special_tokens=False).ids

  def add_turn(row: list[int], answer_mask: list[bool]) -> None:
    (kind,) = rng.choices(kinds, weights)
    task = demo_tasks.make_task_of("train", kind, rng)
    asked = [ids[USER], *encode(task.question), ids[END], ids[ASSISTANT]]
    answer = [*encode(task.answer), ids[END]]
    row += asked + answer
    answer_mask += [False] * len(asked) + [True] * len(answer)

  for step in range(steps):
    row_tokens = SHORT_ROW if step < SHORT_ROWS_PART * steps else LONG_ROW
    length = row_tokens + 1
    rows, masks = [], []
    for _ in range(STEP_TOKENS // row_tokens):
      row = [ids[BOS]]
      if rng.random() < 0.2:
        message = rng.choice(demo_tasks.SYSTEM_MESSAGES)
        row += [ids[SYSTEM], *encode(message), ids[END]]
      answer_mask = [False] * len(row)
      while len(row) < length:
        add_turn(row, answer_mask)
      rows.append(row[:length])
      masks.append(answer_mask[:length])
    yield torch.tensor(rows), torch.tensor(masks)


def answer_loss(
    model: transformers.LlamaForCausalLM,
    tokens: torch.Tensor,
    is_answer: torch.Tensor,
) -> torch.Tensor:
  """Mean cross entropy over the answers; the questions are chance."""
  # bf16 products are nearly twice as fast as fp32 on CPUs with AVX512-BF16.
  with torch.autocast("cpu", torch.bfloat16):
    hidden = model.model(input_ids=tokens[:, :-1], use_cache=False)[0]
    logits = model.lm_head(hidden[is_answer[:, 1:]])
  return torch.nn.functional.cross_entropy(
      logits.float(), tokens[:, 1:][is_answer[:, 1:]]
  )


def make_optimizers(
    model: transformers.LlamaForCausalLM,
) -> list[torch.optim.Optimizer]:
  """Muon for the matrices, since it needs fewer tokens; AdamW for the rest."""
  embedding = model.model.embed_tokens.weight
  matrices = [
      p for p in model.parameters() if p.dim() > 1 and p is not embedding
  ]
  others = [p for p in model.parameters() if p.dim() == 1 or p is embedding]
  return [
      torch.optim.Muon(
          matrices, weight_decay=0.05, adjust_lr_fn="match_rms_adamw"
      ),
      torch.optim.AdamW(others, betas=(0.9, 0.98), weight_decay=0.0),
  ]


def learning_rate(step: int, steps: int) -> float:
  """Linear warm-up, then a cosine down to a hundredth of the peak."""
  if step < WARMUP_STEPS:
    return PEAK_LEARNING_RATE * (step + 1) / WARMUP_STEPS
  progress = (step - WARMUP_STEPS) / max(1, steps - WARMUP_STEPS)
  cosine = (1 + math.cos(math.pi * progress)) / 2
  return PEAK_LEARNING_RATE * (0.01 + 0.99 * cosine)


def train(
    model: transformers.LlamaForCausalLM,
    tokenizer: tokenizers.Tokenizer,
    steps: int,
    seed: int,
    out: pathlib.Path,
) -> transformers.LlamaForCausalLM:
  """Trains `model` and returns the running average of its weights."""
  optimizers = make_optimizers(model)
  average = copy.deepcopy(model)
  validation = make_tasks("validation", 20, random.Random(f"{seed}/validation"))
  started = time.monotonic()
  batches = make_batches(tokenizer, steps, random.Random(f"{seed}/train"))
  for step, (tokens, is_answer) in enumerate(batches):
    for optimizer in optimizers:
      optimizer.param_groups[0]["lr"] = learning_rate(step, steps)
    loss = answer_loss(model, tokens, is_answer)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    for optimizer in optimizers:
      optimizer.step()
      optimizer.zero_grad()
    # At first the average follows closely, or the random start stays in it.
    decay = min(AVERAGE_DECAY, step / (step + 10))
    with torch.no_grad():
      for kept, current in zip(average.parameters(), model.parameters()):
        kept.lerp_(current, 1 - decay)
    if (step + 1) % 50 == 0:
      seconds = time.monotonic() - started
      log.info("step %d loss %.4f %.0f s", step + 1, loss.item(), seconds)
    if (step + 1) % CHECKPOINT_STEPS == 0:
      write_model(average, out)
      right = count_right(average, tokenizer, validation)
      log.info("step %d validation, of 20 each: %s", step + 1, right)
  return average


def write_model(
    model: transformers.LlamaForCausalLM, folder: pathlib.Path
) -> None:
  copy.deepcopy(model).to(torch.bfloat16).save_pretrained(folder)


def make_tasks(
    split: str, per_kind: int, rng: random.Random
) -> list[demo_tasks.Task]:
  """Makes tasks of one split, all different, the kinds taking turns."""
  tasks: dict[tuple[str, str], demo_tasks.Task] = {}
  for _ in range(per_kind):
    for kind in demo_tasks.KINDS:
      task = demo_tasks.make_task_of(split, kind, rng)
      while (kind, task.key) in tasks:
        task = demo_tasks.make_task_of(split, kind, rng)
      tasks[kind, task.key] = task
  return list(tasks.values())


def render(question: str) -> str:
  """What CHAT_TEMPLATE makes of one question."""
  return f"{BOS}{USER}{question}{END}{ASSISTANT}"


@torch.no_grad()
def complete(
    model: transformers.LlamaForCausalLM,
    tokenizer: tokenizers.Tokenizer,
    prompt: str,
) -> str:
  """Decodes greedily, one prompt at a time: no padding to blur the result."""
  ids = tokenizer.encode(prompt, add_special_tokens=False).ids
  output = model.generate(
      torch.tensor([ids]),
      attention_mask=torch.ones(1, len(ids), dtype=torch.long),
      max_new_tokens=100,
      do_sample=False,
  )
  return tokenizer.decode(output[0, len(ids) :].tolist())


def count_right(
    model: transformers.LlamaForCausalLM,
    tokenizer: tokenizers.Tokenizer,
    tasks: Sequence[demo_tasks.Task],
) -> dict[str, int]:
  """Counts, for each kind, the tasks answered exactly."""
  right = dict.fromkeys(demo_tasks.KINDS, 0)
  for task in tasks:
    answer = complete(model, tokenizer, render(task.question))
    right[task.kind] += answer == task.answer
  return right


def write_tasks(
    tasks: Sequence[demo_tasks.Task], folder: pathlib.Path, path: pathlib.Path
) -> None:
  """Writes the tasks with the prompts that the chat template makes."""
  tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
  with path.open("w", encoding="utf-8") as file:
    for number, task in enumerate(tasks):
      messages = [{"role": "user", "content": task.question}]
      prompt = tokenizer.apply_chat_template(
          messages, tokenize=False, add_generation_prompt=True
      )
      if prompt != render(task.question):
        raise ValueError(f"the template makes {prompt!r} of {task}")
      line = {
          "id": f"{task.kind}-{number // len(demo_tasks.KINDS):03}",
          "kind": task.kind,
          "messages": messages,
          "prompt": prompt,
          "answer": task.answer,
      }
      file.write(json.dumps(line) + "\n")


def measure(
    folder: pathlib.Path, tasks: Sequence[demo_tasks.Task]
) -> dict[str, object]:
  """Scores the written bf16 weights, computing in fp32."""
  model = transformers.LlamaForCausalLM.from_pretrained(
      folder, torch_dtype=torch.float32
  ).eval()
  tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
  right = count_right(model, tokenizer, tasks)
  return {
      "tasks": len(tasks),
      "accuracy": sum(right.values()) / len(tasks),
      "accuracy_per_kind": {
          kind: count * len(demo_tasks.KINDS) / len(tasks)
          for kind, count in right.items()
      },
      "parameters": model.num_parameters(),
      "weights": "bfloat16",
      "compute": "float32, Transformers, greedy, exact match of the answer",
  }


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--out", type=pathlib.Path, required=True)
  parser.add_argument("--seed", type=int, default=1)
  parser.add_argument("--steps", type=int, default=6500)
  args = parser.parse_args()
  logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
  transformers.logging.set_verbosity_error()
  torch.manual_seed(args.seed)

  folder = args.out / "demo"
  folder.mkdir(parents=True, exist_ok=True)
  tokenizer = train_tokenizer(random.Random(f"{args.seed}/tokenizer"))
  write_tokenizer(tokenizer, folder)
  tasks = make_tasks("test", TASKS_PER_KIND, random.Random(f"{args.seed}/test"))
  write_tasks(tasks, folder, args.out / "demo_tasks.jsonl")

  model = make_model(tokenizer)
  log.info("%d parameters", model.num_parameters())
  started = time.monotonic()
  model = train(model, tokenizer, args.steps, args.seed, folder)
  seconds = time.monotonic() - started
  write_model(model, folder)

  report = measure(folder, tasks) | {
      "training": {
          "seconds": round(seconds),
          "threads": torch.get_num_threads(),
          "steps": args.steps,
          "tokens": args.steps * STEP_TOKENS,
          "seed": args.seed,
      },
      "versions": {
          "python": platform.python_version(),
          "torch": torch.__version__,
          "transformers": transformers.__version__,
          "tokenizers": tokenizers.__version__,
          "numpy": np.__version__,
      },
  }
  text = json.dumps(report, indent=2) + "\n"
  (args.out / "demo_accuracy.json").write_text(text, encoding="utf-8")
  log.info("%s", text)


if __name__ == "__main__":
  main()
