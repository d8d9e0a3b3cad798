#!/usr/bin/env python3
"""Writes tests/golden/eval/demo.json: the loss of the demo text by Transformers.

The demo model in float64, windows as `tandem eval` cuts them: of `context` inputs,
`stride` apart, each token but the first predicted by the earliest window that
reaches it. Packages as in scripts/requirements-oracle.txt.
"""

import json
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "scripts"))
import third_party  # noqa: E402

with third_party.modules(third_party.ORACLE):
  import torch
  import transformers

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
DEMO = ROOT / "tests/models/demo"
CASES = ((512, 512), (128, 64), (100, 100))
# In nats, for a mean of 11,231 losses. A BF16 model's products round activations to 8
# bits, each with a relative error of 2^-9. So each of 4 layers and the head changes a
# logit (at most about 30 here) by about 2^-9 * 30 / sqrt(192) = 0.004, at random. In
# the mean over the text far less than a fifth of that remains.
SLACK = 0.004


@torch.no_grad()
def mean_loss(model, ids: list[int], context: int, stride: int) -> float:
  total, scored, begin = 0.0, 0, 0
  while scored < len(ids) - 1:
    end = min(begin + context, len(ids) - 1)
    logits = model(torch.tensor([ids[begin:end]])).logits[0, scored - begin:]
    total += torch.nn.functional.cross_entropy(
        logits, torch.tensor(ids[scored + 1:end + 1]), reduction="sum").item()
    scored = end
    begin += stride
  return total / (len(ids) - 1)


def main() -> None:
  tokenizer = transformers.AutoTokenizer.from_pretrained(DEMO)
  ids = tokenizer((ROOT / "tests/models/demo_text.txt").read_text())["input_ids"]
  model = transformers.AutoModelForCausalLM.from_pretrained(DEMO, torch_dtype=torch.float64)
  model.eval()
  cases = [{"context": context, "stride": stride, "nll": mean_loss(model, ids, context, stride)}
           for context, stride in CASES]
  golden = {"tokens": len(ids) - 1, "slack": SLACK, "cases": cases}
  path = ROOT / "tests/golden/eval/demo.json"
  path.write_text(json.dumps(golden, indent=1) + "\n")


if __name__ == "__main__":
  main()
