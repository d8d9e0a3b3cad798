#!/usr/bin/env python3
"""Writes newer_characters.cc: the characters that the reference's patterns know and Unicode 14 does not.

    pip install tokenizers==0.23.3
    python3 make_newer_characters.py        (Python 3.11: its unicodedata is Unicode 14, as PCRE2 10.42)

Categories, properties and scripts are asked of the reference itself, one pattern each.
"""

import pathlib
import unicodedata

import tokenizers
from tokenizers import Regex, pre_tokenizers

assert tokenizers.__version__ == "0.23.3" and unicodedata.unidata_version == "14.0.0"
ALL = [c for c in range(0x110000) if not 0xD800 <= c < 0xE000]
TEXT = "".join(map(chr, ALL))
PROPERTIES = ["Alphabetic", "Lowercase", "Uppercase", "White_Space", "Han", "Hiragana", "Katakana",
              "Hangul", "Latin", "Cyrillic", "Greek", "Arabic", "Hebrew", "Thai", "Devanagari"]
CATEGORIES = ("Cc Cf Co Ll Lm Lo Lt Lu Mc Me Mn Nd Nl No Pc Pd Pe Pf Pi Po Ps Sc Sk Sm So Zl Zp "
              "Zs").split()


def matched(pattern):
  """All characters that the reference's pattern matches."""
  split = pre_tokenizers.Split(Regex(pattern), "removed")
  rest = set()
  for i in range(0, len(ALL), 4096):
    for _, (begin, end) in split.pre_tokenize_str(TEXT[i:i + 4096]):
      rest.update(ALL[i + begin:i + end])
  return set(ALL) - rest


def main():
  category = {c: name for name in CATEGORIES for c in matched(rf"\p{{{name}}}")}
  having = {name: matched(rf"\p{{{name}}}") for name in PROPERTIES}

  def kind(c):
    return (category[c], len(chr(c).encode()), tuple(c in having[name] for name in PROPERTIES))

  def without_script(of):  # where no known character has all of it
    return of[:2] + of[2][:4]

  newer = [c for c in sorted(category) if unicodedata.category(chr(c)) != category[c]]
  stand_ins = {}
  for c in sorted(set(category) - set(newer)):
    stand_ins.setdefault(kind(c), c)
    stand_ins.setdefault(without_script(kind(c)), c)
  ranges = []
  for c in newer:
    stand_in = stand_ins.get(kind(c)) or stand_ins[without_script(kind(c))]
    if ranges and ranges[-1][1] == c - 1 and ranges[-1][2] == stand_in:
      ranges[-1][1] = c
    else:
      ranges.append([c, c, stand_in])
  rows = "\n".join(f"    {{0x{a:X}, 0x{b:X}, 0x{s:X}}}," for a, b, s in ranges)
  pathlib.Path(__file__).with_name("newer_characters.cc").write_text(f"""\
// Made by make_newer_characters.py with tokenizers {tokenizers.__version__}, whose patterns are of Unicode 16.
#include "runtime/text/tokenizer/newer_characters.h"

namespace tandem::tokenizer {{
namespace {{

// clang-format off
constexpr NewerCharacters kNewer[] = {{
{rows}
}};
// clang-format on

}}  // namespace

std::span<const NewerCharacters> AllNewerCharacters() {{ return kNewer; }}

}}  // namespace tandem::tokenizer
""")


if __name__ == "__main__":
  main()
