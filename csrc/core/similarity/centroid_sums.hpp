// Sums of the points of each cluster that are the same for any order of the points.
#pragma once

#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "core/system/parallel.hpp"

namespace dcfast {

/// The sums of the points of each cluster as whole numbers of 2^-24, which a float16 is and a float32 is rounded to (to
/// the nearest, ties to even). Whole numbers add up to the same total in any order, floats do not.
/// Memory: 8 bytes a cluster and dimension.
class CentroidSums {
 public:
  static constexpr int kFractionBits = 24;
  /// Of a coordinate: a unit vector's, with room for rounding; keeps 2^38 points within 64 bits.
  static constexpr float kMostValue = 2.0F;

  CentroidSums(std::size_t clusters, std::size_t width);

  /// Adds (n, width) points to the clusters of their labels. False where a coordinate is not within kMostValue: the sums
  /// then are of no use. Throws invalid_argument where a label is no cluster, or the
  /// sizes do not go together.
  bool add(std::span<const float> points, std::span<const std::int64_t> labels, unsigned threads, const Poll& poll = {});

  std::vector<std::int64_t> take_sums() { return std::move(sums_); }
  const std::vector<std::int64_t>& counts() const { return counts_; }

 private:
  std::size_t width_;
  std::vector<std::int64_t> sums_;    // (clusters, width)
  std::vector<std::int64_t> counts_;  // (clusters,)
};

}  // namespace dcfast
