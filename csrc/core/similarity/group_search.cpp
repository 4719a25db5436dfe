#include <mutex>

#include "core/similarity/join_search.hpp"

namespace dcfast {
namespace {

constexpr std::size_t kLarge = 1 << 14;  // groups of more rows have all threads, one after the other

EmbeddingRows part_of(const EmbeddingRows& rows, std::uint64_t begin, std::uint64_t end) {
  return {rows.row(begin), end - begin, rows.width, rows.stride, rows.kind};
}

}  // namespace

ScoredPairs group_search(const EmbeddingRows& rows, std::span<const std::uint64_t> offsets, Metric metric, float threshold,
                         std::uint64_t max_pairs, unsigned threads, const Poll& poll) {
  const std::size_t groups = offsets.size() - 1;
  std::vector<ScoredPairs> found(groups);
  std::atomic<std::uint64_t> total{0};
  const auto join_group = [&](std::size_t g, unsigned group_threads, const Poll& check) {
    if (offsets[g + 1] - offsets[g] < 2 || total.load(std::memory_order_relaxed) > max_pairs) return;
    const EmbeddingRows part = part_of(rows, offsets[g], offsets[g + 1]);
    const PackedDatabase packed(part, group_threads, check);
    const SearchTask task{part, &packed, metric, false, false, 0, 0, group_threads};
    found[g] = join_search(task, threshold, true, max_pairs, check, &total);
  };
  for (std::size_t g = 0; g < groups; ++g) {
    if (offsets[g + 1] - offsets[g] > kLarge) join_group(g, threads, poll);
  }
  parallel_for(groups, threads, [&](std::size_t g, const Poll& check) {
    if (offsets[g + 1] - offsets[g] <= kLarge) join_group(g, 1, check);
  }, poll);
  ScoredPairs out;
  out.found = total.load();
  out.is_full = out.found > max_pairs;
  if (out.is_full) return out;
  for (std::size_t g = 0; g < groups; ++g) {
    const auto first = static_cast<std::int64_t>(offsets[g]);
    for (std::size_t i = 0; i < found[g].ia.size(); ++i) {
      out.ia.push_back(first + found[g].ia[i]);
      out.ib.push_back(first + found[g].ib[i]);
      out.scores.push_back(found[g].scores[i]);
    }
    found[g] = {};
  }
  return out;
}

}  // namespace dcfast
