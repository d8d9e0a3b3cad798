#!/usr/bin/env python3
"""Predicts the speed-up of decoding by tensor parallelism from measurements on one GPU.

A step at TP = N takes

  shard(N) + fixed + collectives * (a + b * log2 N)          (no collective at N = 1)

shard(N) is the time that the kernels of a 1/N shard take alone on one GPU. Pass measured times
(--shard-us 1:7800,2:3950,...); without them it is (bytes / N) / bandwidth. `fixed` is the time that
does not shrink with N: launches, embedding, sampling. A decoder of L layers has 2 L collectives.

Assumptions: all ranks are equal and start each collective at the same time, so that waiting is part
of `a`; a collective overlaps with nothing; latency, not size, determines the time of one token's
message; the cost of the link grows with the logarithm of the number of ranks. If some GPUs reach
each other more slowly than others (two sockets, PCIe switches), the result is too optimistic.

--fit N:SPEEDUP,... computes a and b from known speed-ups (least squares). Compare them with the
all-reduce times that `tandem doctor --device cuda` measures.
"""

import argparse
import json
import math
import sys


def step_us(shard_us, fixed_us, collectives, a, b, ranks):
  """Microseconds of a step at a TP degree."""
  exchange = collectives * (a + b * math.log2(ranks)) if ranks > 1 else 0.0
  return shard_us + fixed_us + exchange


def fit(speedups, shard_us, fixed_us, collectives):
  """a and b with the least squared error of the time a collective takes, neither negative.

  speedups: {ranks: speed-up over one}; shard_us: a function of the ranks.
  """
  one = shard_us(1) + fixed_us
  points = [(math.log2(n), (one / s - shard_us(n) - fixed_us) / collectives)
            for n, s in sorted(speedups.items()) if n > 1]
  if not points:
    raise ValueError("--fit: expected a degree of 2 or more")
  mean_x = sum(x for x, _ in points) / len(points)
  mean_y = sum(y for _, y in points) / len(points)
  spread = sum((x - mean_x)**2 for x, _ in points)
  b = sum((x - mean_x) * (y - mean_y) for x, y in points) / spread if spread else 0.0
  b = max(0.0, b)
  return max(0.0, mean_y - b * mean_x), b


def pairs(text):
  """"1:7800,2:3950" as {1: 7800.0, 2: 3950.0}."""
  try:
    found = {int(part.split(":")[0]): float(part.split(":")[1]) for part in text.split(",")}
  except (IndexError, ValueError) as error:
    raise argparse.ArgumentTypeError(f"found '{text}', expected such as 1:7800,2:3950") from error
  if any(n < 1 or value <= 0 for n, value in found.items()):
    raise argparse.ArgumentTypeError(f"found '{text}', expected numbers above zero")
  return found


def main(argv):
  parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
  parser.add_argument("--layers", type=int, default=32)
  parser.add_argument("--bytes", type=float, default=16.06e9,
                      help="of weights that a token reads (default: 8B in BF16)")
  parser.add_argument("--bandwidth", type=float, help="GB/s that the kernels reach")
  parser.add_argument("--shard-us", type=pairs, help="measured: 1:7800,2:3950,4:2040")
  parser.add_argument("--fixed-us", type=float, default=150)
  parser.add_argument("--a", type=float, default=5, help="us of a collective")
  parser.add_argument("--b", type=float, default=2, help="us more for each doubling of ranks")
  parser.add_argument("--fit", type=pairs, help="known speed-ups: 2:1.61,4:2.42,8:3.13")
  parser.add_argument("--degrees", default="1,2,4,8")
  parser.add_argument("--json", action="store_true")
  options = parser.parse_args(argv)
  if (options.shard_us is None) == (options.bandwidth is None):
    parser.error("expected either --shard-us or --bandwidth")
  if options.shard_us is not None and 1 not in options.shard_us:
    parser.error("--shard-us: expected the whole model's time, 1:MICROSECONDS, too")

  def shard_us(ranks):
    if options.shard_us is None:
      return options.bytes / ranks / options.bandwidth * 1e-3
    if ranks not in options.shard_us:
      parser.error(f"--shard-us: found no time of a 1/{ranks} shard")
    return options.shard_us[ranks]

  collectives = 2 * options.layers
  a, b = options.a, options.b
  if options.fit:
    a, b = fit(options.fit, shard_us, options.fixed_us, collectives)
  one = step_us(shard_us(1), options.fixed_us, collectives, a, b, 1)
  rows = []
  for ranks in (int(n) for n in options.degrees.split(",")):
    step = step_us(shard_us(ranks), options.fixed_us, collectives, a, b, ranks)
    rows.append({"tp": ranks, "step_us": step, "tokens_per_second": 1e6 / step,
                 "speedup": one / step, "efficiency": one / step / ranks,
                 "in_collectives": 1 - (shard_us(ranks) + options.fixed_us) / step})
  if options.json:
    print(json.dumps({"a_us": a, "b_us": b, "rows": rows}))
    return 0
  print(f"predicted, not measured: {collectives} collectives of {a:.1f} us + {b:.1f} us log2(TP), "
        f"{options.fixed_us:.0f} us fixed")
  print(f"{'TP':>3} {'us a step':>10} {'tokens/s':>9} {'speed-up':>9} {'efficiency':>10} "
        f"{'in collectives':>14}")
  for row in rows:
    print(f"{row['tp']:>3} {row['step_us']:>10.0f} {row['tokens_per_second']:>9.1f} "
          f"{row['speedup']:>9.2f} {row['efficiency']:>10.2f} {row['in_collectives']:>14.2f}")
  return 0


if __name__ == "__main__":
  sys.exit(main(sys.argv[1:]))
