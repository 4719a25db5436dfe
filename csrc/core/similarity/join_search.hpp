// All pairs of a query and a row of a database whose score reaches a threshold.
#pragma once

#include <atomic>
#include <span>

#include "core/similarity/search_task.hpp"

namespace dcfast {

/// Pairs sorted by ia, then ib: indices in the block of queries and in the database.
struct ScoredPairs {
  std::vector<std::int64_t> ia, ib;
  std::vector<float> scores;
  bool is_full = false;      // there are more than max_pairs: `found` of them were seen, none is given
  std::uint64_t found = 0;
};

/// All pairs with score >= threshold ("l2": squared distance <= threshold); upper: only those of a lower index with a higher
/// one (by query_base and database_base). Exact, the same for any number of threads. Invalid rows match nothing.
/// counted: pairs of several searches at a time, which max_pairs bounds together.
/// Memory: 20 bytes a pair, twice that while they are put together, and 1 MB a thread.
ScoredPairs join_search(const SearchTask& task, float threshold, bool upper, std::uint64_t max_pairs, const Poll& poll = {},
                        std::atomic<std::uint64_t>* counted = nullptr);

/// out[i]: whether query i has such a pair. A query that has one is not looked at further, where codes can tell.
void any_search(const SearchTask& task, float threshold, std::span<std::uint8_t> out, const Poll& poll = {});

/// All pairs ia < ib within groups of rows, offsets[g] to offsets[g + 1]: offsets rise from 0 to the number of rows.
/// Memory: as of join_search, and the codes of the groups at hand.
ScoredPairs group_search(const EmbeddingRows& rows, std::span<const std::uint64_t> offsets, Metric metric, float threshold,
                         std::uint64_t max_pairs, unsigned threads, const Poll& poll = {});

}  // namespace dcfast
