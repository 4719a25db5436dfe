// What is searched for in what.
#pragma once

#include "core/similarity/packed_rows.hpp"

namespace dcfast {

/// What both sides of a search are, and where they lie in larger ones.
struct SearchTask {
  EmbeddingRows queries;
  const PackedDatabase* database = nullptr;
  Metric metric = Metric::ip;
  bool magnitudes = false;      // "ip" and "cos": the score without its sign
  bool exclude_self = false;    // leave out pairs of one index
  std::int64_t query_base = 0;  // index of the first query and of the database's first row, for exclude_self
  std::int64_t database_base = 0;
  unsigned threads = 0;
};

}  // namespace dcfast
