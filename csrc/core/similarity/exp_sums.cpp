#include "core/similarity/exp_sums.hpp"

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "core/similarity/exp_tile.hpp"
#include "core/system/cpu.hpp"
#include "core/system/error.hpp"

namespace dcfast {
namespace {

constexpr std::size_t kBlockRows = 64 * kTileRows;  // of one piece of work: columns that are read are used so often
constexpr std::size_t kBlockTiles = 12;             // of columns, 0.3 MB for 768 dimensions: half of a second-level cache
constexpr std::size_t kPartRows = 1024;             // of a mean or a norm
constexpr double kLargest = 32767;
constexpr double kRoom = 0.95 * 2147483648.0;  // of a sum of products, with what rounding adds
constexpr double kLog2e = 1.4426950408889634;
constexpr double kHeadroom = 100;  // largest exponent of 2 of an exponential: sums of 2^26 of them are floats
constexpr float kNothing = -1e9F;
constexpr double kFloatRounding = 1.0 / (1 << 24);

std::size_t ceil_div(std::size_t a, std::size_t b) { return (a + b - 1) / b; }

double dot(const float* a, const double* b, std::size_t d) {
  double sum = 0;
  for (std::size_t k = 0; k < d; ++k) sum += static_cast<double>(a[k]) * b[k];
  return sum;
}

/// Vectors less their mean, on a grid of 16-bit numbers.
struct Side {
  std::span<const float> values;
  std::vector<double> mean;
  double norm = 0;            // the largest, less the mean
  std::vector<double> parts;  // the same of each part of kPartPairs
  double largest = 0;         // the largest element, less the mean
  double scale = 1;           // grid points a unit
  std::vector<std::int16_t> packed;

  void measure(std::size_t n, std::size_t d, unsigned threads, const Poll& poll) {
    const std::size_t runs = ceil_div(n, kPartRows);
    std::vector<double> sums(runs * d);
    parallel_for(runs, threads, [&](std::size_t part) {
      double* const sum = sums.data() + part * d;
      for (std::size_t i = part * kPartRows; i < std::min(n, (part + 1) * kPartRows); ++i) {
        const float* const row = values.data() + i * d;
        for (std::size_t k = 0; k < d; ++k) sum[k] += static_cast<double>(row[k]);
      }
    }, poll);
    mean.assign(d, 0);
    for (std::size_t part = 0; part < runs; ++part) {
      for (std::size_t k = 0; k < d; ++k) mean[k] += sums[part * d + k];
    }
    for (double& m : mean) {
      m /= static_cast<double>(n);
      if (!std::isfinite(m)) refuse_argument("exp_sums: a number is not finite; give finite ones alone");
    }
    const std::size_t count = ceil_div(d, 2 * kPartPairs);
    std::vector<double> norms(runs);
    std::vector<double> elements(runs);
    std::vector<double> part_norms(runs * count);
    parallel_for(runs, threads, [&](std::size_t run) {
      for (std::size_t i = run * kPartRows; i < std::min(n, (run + 1) * kPartRows); ++i) {
        double total = 0;
        for (std::size_t p = 0; p < count; ++p) {
          double square = 0;
          for (std::size_t k = p * 2 * kPartPairs; k < std::min(d, (p + 1) * 2 * kPartPairs); ++k) {
            const double value = static_cast<double>(values[i * d + k]) - mean[k];
            square += value * value;
            elements[run] = std::max(elements[run], std::abs(value));
          }
          part_norms[run * count + p] = std::max(part_norms[run * count + p], std::sqrt(square));
          total += square;
        }
        norms[run] = std::max(norms[run], std::sqrt(total));
      }
    }, poll);
    norm = *std::ranges::max_element(norms);
    largest = *std::ranges::max_element(elements);
    parts.assign(count, 0);
    for (std::size_t k = 0; k < part_norms.size(); ++k) parts[k % count] = std::max(parts[k % count], part_norms[k]);
  }

  /// (panels, pairs of dimensions, width, 2): the panel's rows beside each other
  void pack(std::size_t n, std::size_t d, std::size_t width, unsigned threads, const Poll& poll) {
    const std::size_t pairs = ceil_div(d, 2);
    const std::size_t panels = ceil_div(n, width);
    packed.assign(panels * pairs * width * 2, 0);
    parallel_for(panels, threads, [&](std::size_t panel) {
      std::int16_t* const into = packed.data() + panel * pairs * width * 2;
      for (std::size_t r = 0; r < width && panel * width + r < n; ++r) {
        const float* const row = values.data() + (panel * width + r) * d;
        for (std::size_t k = 0; k < d; ++k) {
          const double grid = std::nearbyint((static_cast<double>(row[k]) - mean[k]) * scale);
          into[(k / 2 * width + r) * 2 + k % 2] = static_cast<std::int16_t>(std::clamp(grid, -kLargest, kLargest));
        }
      }
    }, poll);
  }
};

/// The finest grids that neither 16 bits of an element nor 32 bits of a part's sum overflow.
void choose_scales(Side& x, Side& y) {
  double largest = 1e-30;
  for (std::size_t p = 0; p < x.parts.size(); ++p) largest = std::max(largest, x.parts[p] * y.parts[p]);
  const double ratio = std::sqrt(std::max(y.norm, 1e-30) / std::max(x.norm, 1e-30));
  x.scale = std::min(kLargest / std::max(x.largest, 1e-30), std::sqrt(kRoom / largest) * ratio);
  y.scale = std::min(kLargest / std::max(y.largest, 1e-30), kRoom / largest / x.scale);
}

/// What the means have in each product, as powers of 2, and the pairs' own products.
struct Offsets {
  std::vector<float> rows;     // less the shift
  std::vector<float> columns;  // a multiple of kTileColumns of them, very low where there is no column
  double shift = 0;            // a whole power of 2
  double error = 0;            // of a row's and a column's together by their rounding to float, in natural logarithms
};

Offsets measure_offsets(const Side& x, const Side& y, std::size_t n, double power, ExpSums& sums, unsigned threads,
                        const Poll& poll) {
  const std::size_t d = x.mean.size();
  double between = 0;
  for (std::size_t k = 0; k < d; ++k) between += x.mean[k] * y.mean[k];
  std::vector<double> of_rows(n);
  std::vector<double> of_columns(n);
  parallel_for(ceil_div(n, kPartRows), threads, [&](std::size_t part) {
    for (std::size_t i = part * kPartRows; i < std::min(n, (part + 1) * kPartRows); ++i) {
      const float* const row = x.values.data() + i * d;
      const float* const column = y.values.data() + i * d;
      of_rows[i] = (dot(row, y.mean.data(), d) - between) * power;
      of_columns[i] = dot(column, x.mean.data(), d) * power;
      for (std::size_t k = 0; k < d; ++k) sums.diagonal[i] += static_cast<double>(row[k]) * static_cast<double>(column[k]);
    }
  }, poll);
  Offsets offsets{std::vector<float>(n), std::vector<float>(ceil_div(n, kTileColumns) * kTileColumns, kNothing), 0, 0};
  // No exponent is above this one, by Cauchy and Schwarz.
  const double bound = std::abs(power) * x.norm * y.norm + *std::ranges::max_element(of_rows) + *std::ranges::max_element(of_columns);
  offsets.shift = std::ceil(std::max(bound - kHeadroom, 0.0));
  double row = 0, column = 0;
  for (std::size_t i = 0; i < n; ++i) {
    row = std::max(row, std::abs(of_rows[i] - offsets.shift));
    column = std::max(column, std::abs(of_columns[i]));
    offsets.rows[i] = static_cast<float>(of_rows[i] - offsets.shift);
    offsets.columns[i] = static_cast<float>(of_columns[i]);
  }
  offsets.error = kFloatRounding * (row + column) / kLog2e;
  return offsets;
}

/// The standard deviation of the sum of two independent errors. std::hypot would need glibc 2.35, and wheels of that
/// do not install on RHEL 9; the norms of float32 are far from where squares of double overflow.
double joint(double one, double other) { return std::sqrt(one * one + other * other); }

}  // namespace

ExpSums exp_sums(std::span<const float> x, std::span<const float> y, std::size_t n, double scale, unsigned threads,
                 const Poll& poll) {
  if (n == 0 || x.size() != y.size() || x.size() % n != 0 || x.empty()) {
    refuse_argument("exp_sums: give x and y of n rows of one width; got ", x.size(), " and ", y.size(), " numbers for n = ", n);
  }
  const std::size_t d = x.size() / n;
  const std::size_t pairs = ceil_div(d, 2);
  Side rows{x, {}, 0, {}, 0, 1, {}};
  Side columns{y, {}, 0, {}, 0, 1, {}};
  rows.measure(n, d, threads, poll);
  columns.measure(n, d, threads, poll);
  choose_scales(rows, columns);
  rows.pack(n, d, kTileRows, threads, poll);
  columns.pack(n, d, kTileColumns, threads, poll);

  const double power = scale * kLog2e;
  ExpSums sums{std::vector<double>(n), std::vector<double>(n), std::vector<double>(n), 0, 0};
  const Offsets offsets = measure_offsets(rows, columns, n, power, sums, threads, poll);
  for (double& own : sums.diagonal) own *= scale;
  sums.shift = offsets.shift / kLog2e;
  const double of_grids = std::abs(scale) / std::sqrt(12.0) * joint(columns.norm / rows.scale, rows.norm / columns.scale);
  sums.error = joint(of_grids, offsets.error);

  auto* add_sums = add_strip;
#ifdef DCFAST_HAVE_AVX2
  if (have_avx2()) add_sums = avx2::add_strip;
#endif
  const auto unit = static_cast<float>(power / (rows.scale * columns.scale));
  const std::size_t all_tiles = ceil_div(n, kTileColumns);
  std::vector<std::vector<double>> of_blocks(ceil_div(n, kBlockRows));
  parallel_for(of_blocks.size(), threads, [&](std::size_t block, const Poll& check) {
    of_blocks[block].assign(offsets.columns.size(), 0);
    const std::size_t end = std::min(n, (block + 1) * kBlockRows);
    for (std::size_t tile = 0; tile < all_tiles; tile += kBlockTiles) {
      check();
      const std::size_t column = tile * kTileColumns;
      for (std::size_t row = block * kBlockRows; row < end; row += kTileRows) {
        add_sums({rows.packed.data() + row * pairs * 2, columns.packed.data() + column * pairs * 2, pairs,
                  std::min(kBlockTiles, all_tiles - tile), std::min(kTileRows, end - row), row, column, unit,
                  offsets.rows.data() + row, offsets.columns.data() + column, sums.rows.data() + row,
                  of_blocks[block].data() + column});
      }
    }
  }, poll);
  for (const std::vector<double>& block : of_blocks) {
    for (std::size_t j = 0; j < n; ++j) sums.columns[j] += block[j];
  }
  return sums;
}

}  // namespace dcfast
