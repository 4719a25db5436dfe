// Sums of exponentials over the rows and the columns of the matrix of inner products of pairs, without the matrix.
#pragma once

#include <cstddef>
#include <span>
#include <vector>

#include "core/system/parallel.hpp"

namespace dcfast {

/// Of n pairs (x_i, y_i), with z_ij = x_i . y_j * scale: log(rows[i]) + shift is the log-sum-exp of row i without its
/// own pair, columns the same, diagonal[i] = z_ii exactly (float64).
struct ExpSums {
  std::vector<double> rows;
  std::vector<double> columns;
  std::vector<double> diagonal;
  double shift = 0;  // taken off every z_ij, so that no exponential overflows
  double error = 0;  // standard deviation of the rounding of one z_ij, off the diagonal; of a common mean's share at most
};

/// x, y: (n, d), row by row, finite. The products off the diagonal are of vectors less their mean, rounded to 16 bits, and
/// summed exactly in 32 for 32 dimensions at a time; what the mean has in them is added in float64. So z_ij is off by
/// `error`, some 3e-4 for unit vectors and scale 100, where bfloat16 has 0.2; sums average that. An exponential below 2^-126 of the largest that there may be
/// counts as 0. The same bits for any number of threads and any processor.
/// Cost: n * n * d products, twice as many a cycle as of float32 where there is AVX2. Memory: 8 bytes an element of x and
/// y, and 8 n bytes for each 384 rows.
ExpSums exp_sums(std::span<const float> x, std::span<const float> y, std::size_t n, double scale, unsigned threads,
                 const Poll& poll = {});

}  // namespace dcfast
