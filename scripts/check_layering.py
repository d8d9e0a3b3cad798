#!/usr/bin/env python3
"""Checks who includes whom, and that features are not switched by #ifdef.

The rules are those of docs/architecture.md; CTest runs this. Prints one line per
breach and exits 1 if there are any.
"""

import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent

# Folder -> folders that it may include, itself left out. The longest matching
# folder counts.
ALLOWED = {
    "kernels/base": [],
    "kernels/ref": ["kernels/base", "kernels"],
    "kernels/cpu": ["kernels/base", "kernels/ref", "kernels"],
    "kernels/cuda": ["kernels/base", "kernels"],
    "kernels": ["kernels/base"],
    "parallel": ["kernels"],
    "runtime/loader": ["kernels"],
    "runtime/tokenizer": ["kernels"],
    "runtime/model": ["kernels", "parallel", "runtime/loader", "runtime/tokenizer"],
    "runtime/engine": ["kernels", "parallel", "runtime/loader", "runtime/tokenizer",
                       "runtime/model"],
    "runtime/server": ["kernels", "parallel", "runtime/loader", "runtime/tokenizer",
                       "runtime/model", "runtime/engine", "tandem/v1", "grpc/health"],
    "launcher": ["kernels", "parallel", "runtime", "tandem/v1", "grpc/health"],
    "tests": ["kernels", "parallel", "runtime", "launcher", "tandem/v1", "grpc/health"],
}
PROJECT_TOPS = ("kernels/", "parallel/", "runtime/", "launcher/", "tests/", "proto/",
                "tandem/v1/", "grpc/health/")
# Highway recompiles a file for each instruction set by this idiom; a header
# include guard per target is part of it. nvcc recompiles for each compute capability, whose
# instructions kernels/cuda/device wraps.
IFDEF_ALLOWED = {"kernels/cpu", "kernels/cuda/device"}


def longest(path: str, folders) -> str | None:
  fits = [f for f in folders if path == f or path.startswith(f + "/")]
  return max(fits, key=len) if fits else None


def main() -> int:
  problems = []
  for source in sorted(ROOT.rglob("*")):
    relative = source.relative_to(ROOT).as_posix()
    if source.suffix not in (".h", ".cc", ".cu", ".cuh") or relative.startswith("build/"):
      continue
    folder = longest(relative, ALLOWED)
    if folder is None:
      problems.append(f"{relative}: lies in no known folder")
      continue
    for number, line in enumerate(source.read_text().splitlines(), 1):
      included = re.match(r'\s*#\s*include\s+"([^"]+)"', line)
      if included and included.group(1).startswith(PROJECT_TOPS):
        target = included.group(1)
        if longest(target, [folder] + ALLOWED[folder]) is None:
          problems.append(f"{relative}:{number}: {folder} may not include {target}")
      if re.match(r"\s*#\s*if(def|ndef)?\b", line) and longest(relative, IFDEF_ALLOWED) is None:
        # The processor decides what can be compiled at all; features do not.
        if not re.search(r"__x86_64__|__aarch64__|__SANITIZE|__has_feature|__GLIBC__", line):
          problems.append(f"{relative}:{number}: conditional compilation: {line.strip()}")
  for problem in problems:
    print(problem)
  return 1 if problems else 0


if __name__ == "__main__":
  sys.exit(main())
