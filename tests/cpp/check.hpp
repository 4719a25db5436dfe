// The smallest test harness that does: CHECK records a failure and goes on; main returns failures().
#pragma once

#include <cstdio>

inline int& failures() {
  static int count = 0;
  return count;
}

#define CHECK(expression)                                                        \
  do {                                                                           \
    if (!(expression)) {                                                         \
      std::fprintf(stderr, "%s:%d: failed: %s\n", __FILE__, __LINE__, #expression); \
      ++failures();                                                              \
    }                                                                            \
  } while (false)

#define CHECK_THROWS(type, expression)                                                      \
  do {                                                                                      \
    bool caught = false;                                                                    \
    try {                                                                                   \
      (void)(expression);                                                                   \
    } catch (const type&) {                                                                 \
      caught = true;                                                                        \
    }                                                                                       \
    if (!caught) {                                                                          \
      std::fprintf(stderr, "%s:%d: no %s from: %s\n", __FILE__, __LINE__, #type, #expression); \
      ++failures();                                                                         \
    }                                                                                       \
  } while (false)
