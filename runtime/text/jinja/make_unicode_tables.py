#!/usr/bin/env python3
"""Writes unicode_tables.cc: Python's own view of characters, as sorted ranges.

Chat templates are written against Python's str methods, so the tables are taken from
Python itself (3.11, Unicode 14) and not from a C library's locale.

  python3 make_unicode_tables.py > unicode_tables.cc
"""
import sys
import unicodedata

MAX = 0x110000
CHARS = [chr(c) for c in range(MAX)]


def ranges(predicate):
    out = []
    start = None
    for c in range(MAX + 1):
        inside = c < MAX and not 0xD800 <= c < 0xE000 and predicate(CHARS[c])
        if inside and start is None:
            start = c
        elif not inside and start is not None:
            out.append((start, c - 1))
            start = None
    return out


def mapping(convert):
    """Runs of single-character mappings with one stride and one distance, and the long ones."""
    single, multi = [], []
    for c in range(MAX):
        if 0xD800 <= c < 0xE000:
            continue
        to = convert(CHARS[c])
        if to == CHARS[c]:
            continue
        if len(to) == 1:
            delta = ord(to) - c
            if single and single[-1][3] == delta:
                lo, hi, stride, _ = single[-1]
                gap = c - hi
                if gap <= 2 and (lo == hi or gap == stride):
                    single[-1] = (lo, c, gap, delta)
                    continue
            single.append((c, c, 1, delta))
        else:
            multi.append((c, [ord(x) for x in to] + [0] * (3 - len(to))))
    return single, multi


def emit_ranges(name, predicate):
    rows = ranges(predicate)
    print(f"const CharRange k{name}[] = {{")
    for i in range(0, len(rows), 6):
        print("    " + " ".join(f"{{0x{a:x}, 0x{b:x}}}," for a, b in rows[i:i + 6]))
    print("};")
    print(f"const size_t k{name}Count = {len(rows)};\n")


def emit_mapping(name, convert):
    single, multi = mapping(convert)
    print(f"const CaseRange k{name}[] = {{")
    for i in range(0, len(single), 4):
        print("    " + " ".join(f"{{0x{a:x}, 0x{b:x}, {s}, {d}}}," for a, b, s, d in single[i:i + 4]))
    print("};")
    print(f"const size_t k{name}Count = {len(single)};")
    print(f"const CaseLong k{name}Long[] = {{")
    multi = multi or [(0, [0, 0, 0])]
    for i in range(0, len(multi), 3):
        print("    " + " ".join("{0x%x, {0x%x, 0x%x, 0x%x}}," % (c, *to) for c, to in multi[i:i + 3]))
    print("};")
    print(f"const size_t k{name}LongCount = {len(multi)};\n")


print(f"// Written by make_unicode_tables.py (Unicode {unicodedata.unidata_version}); do not edit.")
print("// clang-format off")
print('#include "runtime/text/jinja/unicode_tables.h"\n')
print("namespace tandem::jinja::unicode_tables {\n")
emit_ranges("Alpha", str.isalpha)
emit_ranges("Decimal", str.isdecimal)
emit_ranges("Digit", str.isdigit)
emit_ranges("Numeric", str.isnumeric)
emit_ranges("Space", str.isspace)
emit_ranges("Printable", str.isprintable)
emit_ranges("Lowercase", str.islower)
emit_ranges("Uppercase", str.isupper)
emit_ranges("Titlecase", lambda c: unicodedata.category(c) == "Lt")
emit_mapping("ToUpper", str.upper)
emit_mapping("ToLower", str.lower)
emit_mapping("ToTitle", str.title)
emit_mapping("ToFold", str.casefold)
print("}  // namespace tandem::jinja::unicode_tables")
sys.stdout.flush()
