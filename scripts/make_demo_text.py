#!/usr/bin/env python3
"""Writes the texts on which the demo model is evaluated and calibrated.

They are conversations about the tasks of demo_tasks.py, in the model's chat format.

  scripts/make_demo_text.py OUT

OUT/demo_text.txt has only held-out tasks, for `tandem eval`.
OUT/demo_calibration.txt has tasks that the model was trained on, for
`tandem quantize --calibration`.
"""

import argparse
import pathlib
import random

import demo_tasks

TURNS = 8  # of a conversation, as in training


def conversations(split: str, count: int, seed: int) -> str:
  rng = random.Random(seed)
  texts = []
  for _ in range(count):
    text = "<|bos|>"
    if rng.random() < 0.2:
      text += f"<|system|>{rng.choice(demo_tasks.SYSTEM_MESSAGES)}<|end|>"
    for _ in range(TURNS):
      task = demo_tasks.make_task_of(split, rng.choice(demo_tasks.KINDS), rng)
      text += f"<|user|>{task.question}<|end|><|assistant|>{task.answer}<|end|>"
    texts.append(text)
  return "".join(texts)


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("out", type=pathlib.Path)
  out = parser.parse_args().out
  (out / "demo_text.txt").write_text(conversations("test", 48, 1))
  (out / "demo_calibration.txt").write_text(conversations("train", 64, 2))


if __name__ == "__main__":
  main()
