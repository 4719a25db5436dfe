// Hamming distance between sets of 64-bit hashes: all pairs within a distance, and the nearest of each.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "core/system/parallel.hpp"

namespace dcfast {

/// Pairs (ia[k], ib[k]) at Hamming distance distance[k], sorted by (ia, ib).
struct HammingPairs {
  std::vector<std::uint64_t> ia;
  std::vector<std::uint64_t> ib;
  std::vector<std::uint8_t> distance;
};

struct HammingNearest {
  std::vector<std::uint64_t> index;
  std::vector<std::uint8_t> distance;
};

/// All pairs with popcount(a[ia] ^ b[ib]) <= max_distance, exact. Throws invalid_argument where max_distance is
/// above 64, or there are more than max_pairs pairs (17 bytes each in the result, up to 48 more while it is
/// made). Cost: a.size() * b.size() comparisons, tiled so that b is read from the cache. The same for any
/// number of threads.
HammingPairs hamming_join(std::span<const std::uint64_t> a, std::span<const std::uint64_t> b, unsigned max_distance,
                          std::uint64_t max_pairs, unsigned threads, const Poll& poll = {});

/// For each of a the nearest of b, the lowest index among equals. Throws invalid_argument where b is empty and a
/// is not. 9 bytes of memory for each of a.
HammingNearest hamming_nearest(std::span<const std::uint64_t> a, std::span<const std::uint64_t> b, unsigned threads,
                               const Poll& poll = {});

}  // namespace dcfast
