#include "core/similarity/small_losses.hpp"

#include <algorithm>
#include <cmath>

#include "core/system/error.hpp"

namespace dcfast {
namespace {

void check_square(std::size_t size, std::size_t n) {
  if (n == 0 || size / n != n || size % n != 0) {
    refuse_argument("give n * n dot products, n at least 1; got ", size, " for n = ", n);
  }
}

template <typename Dot>
SmallLoss siglip(std::span<const Dot> dots, std::size_t n, double scale, double bias, bool gradient) {
  check_square(dots.size(), n);
  SmallLoss result;
  result.gradient.resize(gradient ? dots.size() : 0);
  const double unit = 1 / static_cast<double>(n);
  double product = 1;  // of 1 + small: one logarithm for many terms
  std::size_t pair = 0;  // the next one's place: a division for each dot product would take as long as its exponential
  for (std::size_t k = 0; k < dots.size(); ++k) {
    const double sign = k == pair ? -1 : 1;  // -y
    pair += k == pair ? n + 1 : 0;
    const double dot = dots[k];
    const double wrong = sign * (scale * dot + bias);
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
    result.gradient[k] = slope * scale;
    result.by_bias += slope;
    result.by_scale += slope * dot;
  }
  result.loss = unit * (result.loss + std::log(product));
  result.serves = true;
  return result;
}

}  // namespace

SmallLoss small_clip(std::span<const double> dots, std::size_t n, double scale, bool gradient) {
  check_square(dots.size(), n);
  SmallLoss result;
  const auto [low, high] = std::ranges::minmax(dots);
  const double top = std::max(scale * low, scale * high);
  double sum = 0;  // NaN where a dot product is
  for (const double dot : dots) sum += dot;
  if (!std::isfinite(sum * scale) || !(std::abs(scale * low - scale * high) < kLogitRange)) return result;

  result.serves = true;
  std::vector<double> exps(dots.size());
  std::vector<double> rows(n);
  std::vector<double> columns(n);
  std::vector<double> positives(n);
  for (std::size_t i = 0; i < n; ++i) {
    double* const row = exps.data() + i * n;
    for (std::size_t j = 0; j < n; ++j) row[j] = std::exp(scale * dots[i * n + j] - top);
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
    for (std::size_t j = 0; j < n; ++j) {
      result.by_scale += row[j] * dots[i * n + j];
      row[j] *= scale;
    }
  }
  result.gradient = std::move(exps);
  return result;
}

SmallLoss small_siglip(std::span<const double> dots, std::size_t n, double scale, double bias, bool gradient) {
  return siglip(dots, n, scale, bias, gradient);
}

SmallLoss small_siglip(std::span<const float> dots, std::size_t n, double scale, double bias, bool gradient) {
  return siglip(dots, n, scale, bias, gradient);
}

}  // namespace dcfast
