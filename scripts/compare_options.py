#!/usr/bin/env python3
"""Measures two sets of Tandem's options against each other on this machine.

  scripts/compare_options.py MODEL --first "--tp 1 --threads 2" --second "--tp 2 --threads 1"

Both worlds stay loaded and take turns, round by round; a world sleeps while the other computes. The
ratio (second over first) is the median of the rounds' ratios.
"""

import argparse
import json
import pathlib
import statistics

from compare_llama_cpp import HERE, Tandem


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__,
                                   formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("model", type=pathlib.Path)
  parser.add_argument("--first", default="--tp 1 --threads 2")
  parser.add_argument("--second", default="--tp 2 --threads 1")
  parser.add_argument("--cells", default="prefill:1:512,decode:1:512")
  parser.add_argument("--repeats", type=int, default=7)
  parser.add_argument("--tandem", default=str(HERE.parent / "build/release/tandem"))
  parser.add_argument("--json", help="file for both reports")
  parser.add_argument("--common", default="", help="options of both, such as \"--dtype int4\"")
  args = parser.parse_args()
  rounds = args.repeats + 1  # the first is the warm-up
  worlds = [Tandem(args.tandem, args.model, f"{args.common} {options}", args.cells, rounds)
            for options in (args.first, args.second)]
  for number in range(rounds):
    for world in worlds:
      if number > 0:
        world.wait("waiting")
      world.round()
  reports = [world.report() for world in worlds]
  for first, second in zip(*(report["results"] for report in reports)):
    ratio = statistics.median(b / a for a, b in zip(first["runs"], second["runs"]))
    print(f"{first['phase']} {first['batch']} x {first['context']}: {first['tokens_per_s']:.1f} and "
          f"{second['tokens_per_s']:.1f} tok/s, ratio {ratio:.3f}")
  if args.json:
    pathlib.Path(args.json).write_text(json.dumps(reports, indent=1))


if __name__ == "__main__":
  main()
