// The contrastive losses of a small batch and their gradients, from the matrix of logits: one pass, one thread.
#pragma once

#include <cstddef>
#include <span>
#include <vector>

namespace dcfast {

/// Largest distance of two logits that exponentials relative to the largest one bear.
inline constexpr double kLogitRange = 600;

struct SmallLoss {
  bool serves = false;           // false where a logit is not finite, or CLIP's are further apart than kLogitRange
  double loss = 0;
  double along = 0;              // sum of gradient times dot products times scale: the derivative by the scale's logarithm
  double sum = 0;                // of the gradient: the derivative by the bias
  std::vector<double> gradient;  // (n, n) of the logits; empty unless wanted
};

/// CLIP: z: (n, n), row by row; pairs on the diagonal. They are left out of the sums and kept apart, so that 1 - P_ii and
/// -log P_ii keep their relative accuracy on a batch that is nearly fitted. Cost: n * n exponentials.
SmallLoss small_clip(std::span<const double> z, std::size_t n, bool gradient);

/// SigLIP: the sum of softplus(-y (z + bias)) over all pairs, divided by n; y is 1 on the diagonal and -1 elsewhere.
SmallLoss small_siglip(std::span<const double> z, std::size_t n, double bias, bool gradient);

}  // namespace dcfast
