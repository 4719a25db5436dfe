// Sets of hashes as the joins read them: without duplicates, and sorted by one part of their bits.
#pragma once

#include <array>
#include <bit>
#include <cstdint>
#include <span>
#include <vector>

#include "core/similarity/hamming_plan.hpp"
#include "core/system/parallel.hpp"

namespace dcfast {

template <std::size_t W>
using Hash = std::array<std::uint64_t, W>;

template <std::size_t W>
unsigned hamming_distance(const Hash<W>& a, const Hash<W>& b) {
  int distance = 0;
  for (std::size_t w = 0; w < W; ++w) distance += std::popcount(a[w] ^ b[w]);
  return static_cast<unsigned>(distance);
}

/// The hashes of a set, each once, and the rows where each stands.
template <std::size_t W>
struct Distinct {
  std::span<const Hash<W>> hashes;
  std::vector<Hash<W>> held;         // what hashes shows, but where they are the caller's own
  std::vector<std::uint32_t> first;  // one more than hashes; empty: hash i is that of row i alone
  std::vector<std::uint32_t> rows;   // ascending for each hash

  std::uint64_t copies(std::size_t i) const { return first.empty() ? 1 : first[i + 1] - first[i]; }

  /// act(row) for each row of hash i, in order
  template <typename Act>
  void each_row(std::size_t i, const Act& act) const {
    if (first.empty()) return act(static_cast<std::uint32_t>(i));
    for (std::uint32_t k = first[i]; k < first[i + 1]; ++k) act(rows[k]);
  }
};

/// The caller's hashes, which are not looked at: duplicates stay.
template <std::size_t W>
Distinct<W> as_they_are(std::span<const Hash<W>> hashes) {
  Distinct<W> set;
  set.hashes = hashes;
  return set;
}

template <std::size_t W>
Distinct<W> find_distinct(std::span<const Hash<W>> hashes, unsigned threads, const Poll& poll);

/// Hashes sorted by a part of their bits, so that those of one key lie side by side, turned by whole words and within
/// words such that the key is the first bits of the last word: the other bits tell strangers away.
template <std::size_t W>
struct Buckets {
  std::vector<std::uint32_t> begin;  // 2^bits + 1
  std::vector<Hash<W>> hashes;
  std::vector<std::uint32_t> ids;  // in the Distinct
};

template <std::size_t W>
Buckets<W> sort_by_part(std::span<const Hash<W>> hashes, const HammingPart& part, unsigned threads, const Poll& poll);

}  // namespace dcfast
