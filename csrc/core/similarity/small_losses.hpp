// The contrastive losses of a small batch and their gradients, from the matrix of dot products: one pass, one thread.
#pragma once

#include <cstddef>
#include <span>
#include <vector>

namespace dcfast {

/// Largest distance of two logits that exponentials relative to the largest one bear.
inline constexpr double kLogitRange = 600;

template <typename Number>
struct SmallLoss {
  bool serves = false;           // false where a logit is not finite, or CLIP's are further apart than kLogitRange
  double loss = 0;
  double by_scale = 0;           // derivatives
  double by_bias = 0;
  std::vector<Number> gradient;  // (n, n) by the dot products; empty unless wanted, as are the derivatives then
};

/// CLIP: dots: (n, n) dot products, row by row; pairs on the diagonal. They are left out of the sums and kept apart, so that
/// 1 - P_ii and -log P_ii keep their relative accuracy on a batch that is nearly fitted. Cost: n * n exponentials.
SmallLoss<double> small_clip(std::span<const double> dots, std::size_t n, double scale, bool gradient);

/// SigLIP: the sum of softplus(-y (scale * dot + bias)) over all pairs, divided by n; y is 1 on the diagonal and -1 elsewhere.
SmallLoss<double> small_siglip(std::span<const double> dots, std::size_t n, double scale, double bias, bool gradient);
SmallLoss<float> small_siglip(std::span<const float> dots, std::size_t n, double scale, double bias, bool gradient);

}  // namespace dcfast
