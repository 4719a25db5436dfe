// The k best rows of a database for each query.
#pragma once

#include <span>

#include "core/similarity/search_task.hpp"

namespace dcfast {

/// Puts the rows of task.database into the running best of each query: scores and indices are (queries, k), best first, ties
/// by lowest index, index -1 and the worst score where there is none yet. Databases must come in rising order of
/// database_base. Exact, the same for any number of threads. Invalid rows match nothing.
/// Memory: a thread has 16 bytes for each of max(4 k, 128) candidates of up to 512 queries, 32 MB at most or 4 k candidates of
/// one panel of queries.
void topk_search(const SearchTask& task, std::size_t k, std::span<float> scores, std::span<std::int64_t> indices, const Poll& poll = {});

}  // namespace dcfast
