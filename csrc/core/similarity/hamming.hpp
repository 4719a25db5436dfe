// Hamming joins of hashes of 64 or 256 bits: all pairs within a distance, exact.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "core/system/parallel.hpp"

namespace dcfast {

/// Pairs (ia[k], ib[k]) at Hamming distance distance[k], sorted by (ia, ib).
struct HammingPairs {
  std::vector<std::int64_t> ia;
  std::vector<std::int64_t> ib;
  std::vector<std::uint16_t> distance;
};

struct HammingLimits {
  unsigned max_distance;
  std::uint64_t max_pairs;
  unsigned threads;  // 0: one per core; the result is the same for any number
};

/// All pairs of a hash of a and one of b that differ in at most max_distance bits. A hash is `words` (1 or 4) words, one
/// after the other. Nothing where there are more than max_pairs. Throws invalid_argument where max_distance is above the
/// bits of a hash, or a side has 2^32 hashes or more.
///
/// Two ways, the one that a model of costs says is faster: every hash with every other; or multi-index hashing (Norouzi
/// et al., "Fast exact search in Hamming space with multi-index hashing", 2014): of m parts of two hashes within r bits
/// one differs in at most r / m, so that only hashes are compared whose part is that near. Equal hashes are compared
/// once.
/// Memory: 8 words + 8 bytes a hash, as much again and 4 bytes a slot of a table (at most 16 times the hashes) while a
/// part is joined; 18 bytes a pair in the result, up to 44 more while it is made.
std::optional<HammingPairs> hamming_join(std::span<const std::uint64_t> a, std::span<const std::uint64_t> b, unsigned words,
                                         const HammingLimits& limits, const Poll& poll = {});

/// The pairs ia < ib of one set of hashes; else as hamming_join, in half of its time.
std::optional<HammingPairs> hamming_self_join(std::span<const std::uint64_t> hashes, unsigned words,
                                              const HammingLimits& limits, const Poll& poll = {});

}  // namespace dcfast
