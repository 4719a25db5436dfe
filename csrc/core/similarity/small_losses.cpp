#include "core/similarity/small_losses.hpp"

#include <algorithm>
#include <array>
#include <cmath>

#include "core/similarity/softplus_loop.hpp"
#include "core/system/cpu.hpp"
#include "core/system/error.hpp"

namespace dcfast {
namespace {

void check_square(std::size_t size, std::size_t n) {
  if (n == 0 || size / n != n || size % n != 0) {
    refuse_argument("give n * n dot products, n at least 1; got ", size, " for n = ", n);
  }
}

template <typename Dot>
SmallLoss<Dot> siglip(std::span<const Dot> dots, std::size_t n, double scale, double bias, bool gradient) {
  check_square(dots.size(), n);
  auto* add = add_softplus;
#ifdef DCFAST_HAVE_AVX2
  if (have_avx2()) add = avx2::add_softplus;
#endif
  SmallLoss<Dot> result;
  result.gradient.resize(gradient ? dots.size() : 0);
  const double unit = 1 / static_cast<double>(n);
  std::array<double, kSoftplusPart> some, signs, by_dots;
  SoftplusSums sums;
  std::size_t pair = 0;  // the next one's place
  for (std::size_t begin = 0; begin < dots.size(); begin += kSoftplusPart) {
    const std::span<const Dot> part = dots.subspan(begin, std::min(kSoftplusPart, dots.size() - begin));
    std::ranges::copy(part, some.begin());
    std::fill_n(signs.begin(), part.size(), 1.0);
    for (; pair < begin + part.size(); pair += n + 1) signs[pair - begin] = -1;
    std::size_t count = part.size();
    for (; count % kSoftplusLanes != 0; ++count) some[count] = signs[count] = 0;
    add({some.data(), signs.data(), count, scale, bias, unit, gradient ? by_dots.data() : nullptr}, sums);
    for (std::size_t k = begin; k < result.gradient.size() && k < begin + part.size(); ++k) {
      result.gradient[k] = static_cast<Dot>(by_dots[k - begin]);
    }
    double product = 1;
    for (double& factor : sums.products) {
      product *= factor;
      factor = 1;
    }
    result.loss += std::log(product);
  }
  double nothing = 0;
  for (std::size_t lane = 0; lane < kSoftplusLanes; ++lane) {
    result.loss += sums.loss[lane];
    result.by_bias += sums.by_bias[lane];
    result.by_scale += sums.by_scale[lane];
    nothing += sums.nothing[lane];
  }
  if (nothing != 0) return {};  // NaN
  result.loss *= unit;
  result.serves = true;
  return result;
}

}  // namespace

SmallLoss<double> small_clip(std::span<const double> dots, std::size_t n, double scale, bool gradient) {
  check_square(dots.size(), n);
  SmallLoss<double> result;
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

SmallLoss<double> small_siglip(std::span<const double> dots, std::size_t n, double scale, double bias, bool gradient) {
  return siglip(dots, n, scale, bias, gradient);
}

SmallLoss<float> small_siglip(std::span<const float> dots, std::size_t n, double scale, double bias, bool gradient) {
  return siglip(dots, n, scale, bias, gradient);
}

}  // namespace dcfast
