// Sums of exponentials of all products: equal to a slow sum, at sizes around every block, for any number of threads.
#include "core/similarity/exp_sums.hpp"

#include <cmath>
#include <cstddef>
#include <limits>
#include <random>
#include <span>
#include <vector>

#include "check.hpp"
#include "core/system/error.hpp"

using dcfast::exp_sums;
using dcfast::ExpSums;

namespace {

std::vector<float> unit_vectors(std::size_t n, std::size_t d, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  std::vector<float> common(d);
  for (float& value : common) value = normal(random);
  std::vector<float> values(n * d);
  for (std::size_t i = 0; i < n; ++i) {
    double square = 0;
    for (std::size_t k = 0; k < d; ++k) {
      values[i * d + k] = common[k] + normal(random);
      square += static_cast<double>(values[i * d + k]) * static_cast<double>(values[i * d + k]);
    }
    for (std::size_t k = 0; k < d; ++k) values[i * d + k] /= static_cast<float>(std::sqrt(square));
  }
  return values;
}

void test_equal_the_slow_sum() {
  constexpr double scale = 50;
  for (const std::size_t n : {1U, 2U, 6U, 15U, 17U, 191U, 193U, 385U}) {
    for (const std::size_t d : {1U, 2U, 31U}) {
      const std::vector<float> x = unit_vectors(n, d, 1);
      const std::vector<float> y = unit_vectors(n, d, 2);
      const ExpSums sums = exp_sums(x, y, n, scale, 2);
      std::vector<double> rows(n);
      std::vector<double> columns(n);
      for (std::size_t i = 0; i < n; ++i) {
        for (std::size_t j = 0; j < n; ++j) {
          double z = 0;
          for (std::size_t k = 0; k < d; ++k) z += static_cast<double>(x[i * d + k]) * static_cast<double>(y[j * d + k]);
          if (i == j) {
            CHECK(std::abs(sums.diagonal[i] - scale * z) < 1e-9);
            continue;
          }
          rows[i] += std::exp(scale * z - sums.shift);
          columns[j] += std::exp(scale * z - sums.shift);
        }
      }
      for (std::size_t i = 0; i < n; ++i) {
        const double most = 6 * sums.error + 1e-5;
        const double vanished = static_cast<double>(n) * std::ldexp(1.0, -126);
        CHECK(std::abs(sums.rows[i] - rows[i]) <= most * rows[i] + vanished);
        CHECK(std::abs(sums.columns[i] - columns[i]) <= most * columns[i] + vanished);
      }
      CHECK(sums.error < 1e-3 * scale);
    }
  }
}

void test_threads_change_no_bit() {
  const std::vector<float> x = unit_vectors(1000, 20, 3);
  const std::vector<float> y = unit_vectors(1000, 20, 4);
  const ExpSums one = exp_sums(x, y, 1000, 100, 1);
  const ExpSums many = exp_sums(x, y, 1000, 100, 5);
  CHECK(one.rows == many.rows);
  CHECK(one.columns == many.columns);
  CHECK(one.diagonal == many.diagonal);
}

void test_bad_arguments() {
  const std::vector<float> x(12);
  std::vector<float> y(12);
  CHECK_THROWS(dcfast::Error, exp_sums(x, y, 0, 1, 1));
  CHECK_THROWS(dcfast::Error, exp_sums(x, y, 5, 1, 1));
  CHECK_THROWS(dcfast::Error, exp_sums(x, std::span<const float>(y).first(6), 3, 1, 1));
  y[3] = std::numeric_limits<float>::quiet_NaN();
  CHECK_THROWS(dcfast::Error, exp_sums(x, y, 3, 1, 1));
}

}  // namespace

int main() {
  test_equal_the_slow_sum();
  test_threads_change_no_bit();
  test_bad_arguments();
  return failures();
}
