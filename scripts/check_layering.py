#!/usr/bin/env python3
"""Checks which folder includes which, and that no #ifdef switches a feature.

docs/architecture.md has the rules; CTest runs this script. It prints one line for
each violation and exits with 1 if there are any.
"""

import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent

# Floors from the lowest to the highest: a folder includes itself and floors below its own, never a
# folder beside it.
FLOORS = [
    ["kernels"],
    ["parallel", "proto", "tandem/v1", "tandem/internal", "grpc/health", "google/rpc"],
    ["runtime/loader"],
    ["runtime/text"],
    ["runtime/model"],
    ["runtime/engine", "runtime/quantize"],
    ["runtime/plan"],
    ["runtime/server"],
    ["runtime/rank"],
    ["runtime/batch"],
    ["launcher"],
    ["tests"],
]
# Floors within a folder, likewise. A file of the folder itself belongs to the folder's last floor,
# but for kernels, whose headers are what its folders implement.
ROOMS = {
    "kernels/base": [],
    "kernels/ref": ["kernels/base", "kernels"],
    "kernels/cpu": ["kernels/base", "kernels/ref", "kernels"],
    "kernels/cuda": ["kernels/base", "kernels"],
    "kernels": ["kernels/base"],
    "runtime/text/jinja": [],
    "runtime/text/tokenizer": [],
    "runtime/text/chat": ["runtime/text/jinja"],
    "launcher/world": [],
    "launcher/command": ["launcher/world"],
}
PROJECT_TOPS = ("kernels/", "parallel/", "runtime/", "launcher/", "tests/", "proto/",
                "tandem/", "grpc/health/", "google/rpc/")
# Highway recompiles a file for each instruction set by this idiom; a header
# include guard per target is part of it. nvcc recompiles for each compute capability, whose
# instructions kernels/cuda/device wraps.
IFDEF_ALLOWED = {"kernels/cpu", "kernels/cuda/device"}


def longest(path: str, folders) -> str | None:
  fits = [f for f in folders if path == f or path.startswith(f + "/")]
  return max(fits, key=len) if fits else None


def floor_of(path: str) -> int | None:
  for number, folders in enumerate(FLOORS):
    if longest(path, folders) is not None:
      return number
  return None


def may_include(source: str, target: str) -> bool:
  above, below = floor_of(source), floor_of(target)
  if below is None or above is None or below > above:
    return False
  if below < above:
    return True
  if longest(source, FLOORS[above]) != longest(target, FLOORS[above]):
    return False  # beside each other on one floor
  room, wanted = longest(source, ROOMS), longest(target, ROOMS)
  return room == wanted or room is None or wanted in ROOMS[room]


def main() -> int:
  problems = []
  for source in sorted(ROOT.rglob("*")):
    relative = source.relative_to(ROOT).as_posix()
    if source.suffix not in (".h", ".cc", ".cu", ".cuh") or relative.startswith("build/"):
      continue
    if floor_of(relative) is None:
      problems.append(f"{relative}: lies in no known folder")
      continue
    for number, line in enumerate(source.read_text().splitlines(), 1):
      included = re.match(r'\s*#\s*include\s+"([^"]+)"', line)
      if included and included.group(1).startswith(PROJECT_TOPS):
        target = included.group(1)
        if not may_include(relative, target):
          problems.append(f"{relative}:{number}: may not include {target}, which is not below it")
      if re.match(r"\s*#\s*if(def|ndef)?\b", line) and longest(relative, IFDEF_ALLOWED) is None:
        # The processor decides what can be compiled at all; features do not.
        if not re.search(r"__x86_64__|__aarch64__|__SANITIZE|__has_feature|__GLIBC__", line):
          problems.append(f"{relative}:{number}: conditional compilation: {line.strip()}")
  for problem in problems:
    print(problem)
  return 1 if problems else 0


if __name__ == "__main__":
  sys.exit(main())
