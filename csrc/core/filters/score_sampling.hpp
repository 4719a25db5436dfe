// Rows drawn by their scores, some of them many times: soft cap and hard cap sampling (FLYT, arXiv 2503.08805).
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "core/system/parallel.hpp"

namespace dcfast {

/// What is drawn, and what keeps a row from being drawn too often.
struct SamplingRule {
  std::uint64_t total = 0;        // copies, of all rows together
  double penalty = 0;             // soft cap: what a copy takes off a score; 0: a hard cap
  std::uint32_t most_copies = 0;  // hard cap: of a row
  std::uint64_t draw = 100'000;   // rows of a round; under a soft cap each at most once in it
  std::uint64_t seed = 0;
};

/// Limits of the arguments.
inline constexpr double kMostPenalty = 64;
inline constexpr double kMostSpread = 45'000;  // of the highest above the lowest score
inline constexpr std::uint64_t kMostMeanCopies = 10'000;

/// How often each row is drawn, where the chance of a row is in proportion to exp(score).
///
/// Soft cap: rounds of `draw` rows, one after the other without replacement, by the scores as they stand; after a round
/// the scores of its rows sink by `penalty`; the last round is what is left of the total. Hard cap: one row after the
/// other with replacement, none more than `most_copies` times.
///
/// The draws are exact up to 2^-53 a draw, and rows below 2^-128 of the best row left have no chance in its presence.
/// They depend on the scores in their order and the rule alone: the numbers are Philox 4x64-10, keyed by seed and round,
/// and every sum, product and exponential is rounded alike on all machines.
///
/// Rows lie in classes by the power of two of their weight. A draw takes a class by its size and power (a tree over the
/// 128 heaviest), a row of it, and accepts that by its weight, which is above half of the class's: 1.4 tries on average.
/// A drawn row goes behind its class's others, so that it is not met again, and sinks into its new class after the round.
///
/// Throws invalid_argument: no scores, one that is not finite, a spread above kMostSpread, a rule out of range, a round
/// of more rows than there are, or a total above what the cap allows.
/// Memory: 16 bytes a row beside the scores and the result (4 bytes a row). Cost: O(rows + total), one thread; a draw is
/// about one cache miss. Under a soft cap each of the total / draw rounds also passes over the classes from the best left
/// to the lowest, O(rounds x spread / ln 2): felt where a small draw meets scores thousands apart.
std::vector<std::uint32_t> draw_copies(std::span<const double> scores, const SamplingRule& rule, const Poll& poll = {});

}  // namespace dcfast
