#include "core/similarity/hamming_pairs.hpp"

#include <algorithm>
#include <numeric>
#include <span>

namespace dcfast {
namespace {

constexpr std::size_t kPiece = 1024;        // hashes whose lists are made as one piece of work
constexpr unsigned kDistanceBits = 16;      // of an entry of a list: (row of b, distance)

std::size_t num_pieces(std::size_t count) { return (count + kPiece - 1) / kPiece; }

/// Calls work(i) for all i below count, some at a time.
template <typename Work>
void in_pieces(std::size_t count, unsigned threads, const Work& work, const Poll& poll) {
  parallel_for(num_pieces(count), threads, [&](std::size_t piece) {
    for (std::size_t i = piece * kPiece; i < std::min(count, (piece + 1) * kPiece); ++i) work(i);
  }, poll);
}

/// Hits in the order of a: where those of each begin.
std::vector<std::uint64_t> sort_by_a(std::vector<NearHashes>& hits, std::size_t hashes) {
  std::vector<std::uint64_t> begin(hashes + 1, 0);
  for (const NearHashes& hit : hits) ++begin[hit.a + 1];
  std::partial_sum(begin.begin(), begin.end(), begin.begin());
  std::vector<NearHashes> sorted(hits.size());
  std::vector<std::uint64_t> next(begin.begin(), begin.end() - 1);
  for (const NearHashes& hit : hits) sorted[next[hit.a]++] = hit;
  hits = std::move(sorted);
  return begin;
}

template <std::size_t W>
void mirror(std::vector<NearHashes>& hits, const Distinct<W>& set) {
  const std::size_t count = hits.size();
  hits.reserve(2 * count);
  for (std::size_t i = 0; i < count; ++i) hits.push_back({hits[i].b, hits[i].a, hits[i].distance});
  for (std::size_t i = 0; i < set.hashes.size(); ++i) {
    const auto hash = static_cast<std::uint32_t>(i);
    if (set.copies(i) > 1) hits.push_back({hash, hash, 0});
  }
}

}  // namespace

template <std::size_t W>
HammingPairs expand_pairs(const Distinct<W>& a, const Distinct<W>& b, std::vector<NearHashes> hits, std::size_t rows,
                          bool self, unsigned threads, const Poll& poll) {
  const std::size_t hashes = a.hashes.size();
  if (self) mirror(hits, a);
  const std::vector<std::uint64_t> begin = sort_by_a(hits, hashes);

  // each hash's list of near rows of b, sorted; all rows of the hash share it
  std::vector<std::uint64_t> list_begin(hashes + 1, 0);
  for (std::size_t i = 0; i < hashes; ++i) {
    std::uint64_t length = 0;
    for (std::uint64_t k = begin[i]; k < begin[i + 1]; ++k) length += b.copies(hits[k].b);
    list_begin[i + 1] = list_begin[i] + length;
  }
  std::vector<std::uint64_t> lists(list_begin.back());
  const auto after = [&](std::size_t i, std::uint32_t row) {  // the part of a list that row i's pairs are made of
    const auto from = lists.begin() + static_cast<std::ptrdiff_t>(list_begin[i]);
    const auto to = lists.begin() + static_cast<std::ptrdiff_t>(list_begin[i + 1]);
    return std::span(self ? std::lower_bound(from, to, (std::uint64_t{row} + 1) << kDistanceBits) : from, to);
  };
  std::vector<std::uint64_t> pairs_before(rows + 1, 0);
  in_pieces(hashes, threads, [&](std::size_t i) {
    std::uint64_t at = list_begin[i];
    if (at == list_begin[i + 1]) return;
    for (std::uint64_t k = begin[i]; k < begin[i + 1]; ++k) {
      b.each_row(hits[k].b, [&](std::uint32_t row) { lists[at++] = (std::uint64_t{row} << kDistanceBits) | hits[k].distance; });
    }
    std::sort(lists.begin() + static_cast<std::ptrdiff_t>(list_begin[i]), lists.begin() + static_cast<std::ptrdiff_t>(at));
    a.each_row(i, [&](std::uint32_t row) { pairs_before[row + 1] = after(i, row).size(); });
  }, poll);
  hits = {};
  std::partial_sum(pairs_before.begin(), pairs_before.end(), pairs_before.begin());

  HammingPairs pairs;
  pairs.ia.resize(pairs_before.back());
  pairs.ib.resize(pairs_before.back());
  pairs.distance.resize(pairs_before.back());
  in_pieces(hashes, threads, [&](std::size_t i) {
    if (list_begin[i] == list_begin[i + 1]) return;
    a.each_row(i, [&](std::uint32_t row) {
      std::uint64_t at = pairs_before[row];
      for (const std::uint64_t entry : after(i, row)) {
        pairs.ia[at] = row;
        pairs.ib[at] = static_cast<std::int64_t>(entry >> kDistanceBits);
        pairs.distance[at++] = static_cast<std::uint16_t>(entry);
      }
    });
  }, poll);
  return pairs;
}

template HammingPairs expand_pairs<1>(const Distinct<1>&, const Distinct<1>&, std::vector<NearHashes>, std::size_t, bool, unsigned, const Poll&);
template HammingPairs expand_pairs<4>(const Distinct<4>&, const Distinct<4>&, std::vector<NearHashes>, std::size_t, bool, unsigned, const Poll&);

}  // namespace dcfast
