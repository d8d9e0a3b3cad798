// Character properties and case mappings as Python's str methods see them; the tables
// themselves are written by make_unicode_tables.py. Sorted, for binary search.
#pragma once

#include <cstddef>
#include <cstdint>

namespace tandem::jinja::unicode_tables {

struct CharRange {
  uint32_t low, high;  // inclusive
};
// Every `stride`-th character from low to high maps to itself plus delta.
struct CaseRange {
  uint32_t low, high, stride;
  int32_t delta;
};
// One character that becomes two or three; unused places are 0.
struct CaseLong {
  uint32_t from;
  uint32_t to[3];
};

#define TANDEM_JINJA_RANGES(name)   \
  extern const CharRange k##name[]; \
  extern const size_t k##name##Count;
#define TANDEM_JINJA_MAPPING(name)       \
  extern const CaseRange k##name[];      \
  extern const size_t k##name##Count;    \
  extern const CaseLong k##name##Long[]; \
  extern const size_t k##name##LongCount;

TANDEM_JINJA_RANGES(Alpha)
TANDEM_JINJA_RANGES(Decimal)
TANDEM_JINJA_RANGES(Digit)
TANDEM_JINJA_RANGES(Numeric)
TANDEM_JINJA_RANGES(Space)
TANDEM_JINJA_RANGES(Printable)
TANDEM_JINJA_RANGES(Lowercase)
TANDEM_JINJA_RANGES(Uppercase)
TANDEM_JINJA_RANGES(Titlecase)
TANDEM_JINJA_MAPPING(ToUpper)
TANDEM_JINJA_MAPPING(ToLower)
TANDEM_JINJA_MAPPING(ToTitle)
TANDEM_JINJA_MAPPING(ToFold)

#undef TANDEM_JINJA_RANGES
#undef TANDEM_JINJA_MAPPING

}  // namespace tandem::jinja::unicode_tables
