#include "core/similarity/small_losses.hpp"

#include <algorithm>
#include <cmath>

#include "core/system/error.hpp"

namespace dcfast {
namespace {

void check_square(std::span<const double> z, std::size_t n) {
  if (n == 0 || z.size() / n != n || z.size() % n != 0) {
    refuse_argument("give n * n logits, n at least 1; got ", z.size(), " for n = ", n);
  }
}

}  // namespace

SmallLoss small_clip(std::span<const double> z, std::size_t n, bool gradient) {
  check_square(z, n);
  SmallLoss result;
  const double high = *std::ranges::max_element(z);
  double spread = 0;  // NaN where a logit is
  for (const double logit : z) spread = std::isnan(logit) ? logit : std::max(spread, high - logit);
  if (!std::isfinite(high) || !(spread < kLogitRange)) return result;

  result.serves = true;
  std::vector<double> exps(z.size());
  std::vector<double> rows(n);
  std::vector<double> columns(n);
  std::vector<double> positives(n);
  for (std::size_t i = 0; i < n; ++i) {
    double* const row = exps.data() + i * n;
    for (std::size_t j = 0; j < n; ++j) row[j] = std::exp(z[i * n + j] - high);
    positives[i] = row[i];
    row[i] = 0;
    for (std::size_t j = 0; j < n; ++j) {
      rows[i] += row[j];
      columns[j] += row[j];
    }
  }
  const double unit = 1 / (2 * static_cast<double>(n));
  for (std::size_t i = 0; i < n; ++i) {
    result.loss += unit * (std::log1p(rows[i] / positives[i]) + std::log1p(columns[i] / positives[i]));
  }
  if (!gradient) return result;

  std::vector<double> shares(n);  // (1 - P_ii) + (1 - Q_ii)
  for (std::size_t i = 0; i < n; ++i) {
    const double row = 1 / (rows[i] + positives[i]);
    const double column = 1 / (columns[i] + positives[i]);
    shares[i] = unit * (rows[i] * row + columns[i] * column);
    rows[i] = unit * row;
    columns[i] = unit * column;
  }
  for (std::size_t i = 0; i < n; ++i) {
    double* const row = exps.data() + i * n;
    for (std::size_t j = 0; j < n; ++j) row[j] *= rows[i] + columns[j];
    row[i] = -shares[i];
    for (std::size_t j = 0; j < n; ++j) result.along += row[j] * z[i * n + j];
  }
  result.gradient = std::move(exps);
  return result;
}

SmallLoss small_siglip(std::span<const double> z, std::size_t n, double bias, bool gradient) {
  check_square(z, n);
  SmallLoss result;
  result.gradient.resize(gradient ? z.size() : 0);
  const double unit = 1 / static_cast<double>(n);
  double product = 1;  // of 1 + small: one logarithm for many terms
  for (std::size_t k = 0; k < z.size(); ++k) {
    const double sign = k % (n + 1) == 0 ? -1 : 1;  // -y
    const double wrong = sign * (z[k] + bias);
    if (!std::isfinite(wrong)) return {};
    const double small = std::exp(-std::abs(wrong));
    const bool tiny = small < 1e-5;  // of 1 + small little would be left; the next term of the series is 3e-11 of it
    result.loss += std::max(wrong, 0.0) + (tiny ? small - small * small / 2 : 0);
    product *= tiny ? 1 : 1 + small;
    if (product > 1e300) {
      result.loss += std::log(product);
      product = 1;
    }
    if (!gradient) continue;
    const double slope = sign * unit * (wrong < 0 ? small : 1) / (1 + small);  // of the sigmoid
    result.gradient[k] = slope;
    result.sum += slope;
    result.along += slope * z[k];
  }
  result.loss = unit * (result.loss + std::log(product));
  result.serves = true;
  return result;
}

}  // namespace dcfast
