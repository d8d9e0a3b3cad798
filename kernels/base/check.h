// Aborts with a message when an invariant of the program is broken. Bad input must not end here.
#pragma once

#include <cstdio>
#include <cstdlib>

#define TANDEM_CHECK(condition)                                                              \
  do {                                                                                       \
    if (!(condition)) [[unlikely]] {                                                         \
      std::fprintf(stderr, "%s:%d: broken invariant: %s\n", __FILE__, __LINE__, #condition); \
      std::abort();                                                                          \
    }                                                                                        \
  } while (false)
