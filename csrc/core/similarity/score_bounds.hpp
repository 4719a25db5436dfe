// Scores by codes, made comparable: keys, of which the highest is best for every metric, and how far a key by codes can be
// from the exact one.
//
// key: the score itself for "ip" and "cos"; for "l2" 2 x.y - |y|^2, which is |x|^2 less the squared distance.
// With x' and y' for what the codes say: |x.y - x'.y'| <= |x| |y - y'| + |x - x'| |y'|, and |y'| <= |y| + |y - y'|.
// What floats lose is less than 1e-6 of the largest value in the sum (the bounds themselves are raised by 1e-5); so is the rounding of a score to float, in whose ties
// the lower index has to be found.
#pragma once

#include <cmath>
#include <limits>
#include <span>
#include <vector>

#include "core/similarity/packed_rows.hpp"

namespace dcfast {

inline constexpr float kInfinite = std::numeric_limits<float>::infinity();
inline constexpr double kFloatLoss = 1e-6;

/// What a strip's columns are multiplied with, and bounds over the whole strip.
struct ColumnScales {
  ColumnScales(const PackedRows& columns, Metric metric) : scale(columns.padded), bias(columns.padded) {
    for (std::size_t c = 0; c < columns.padded; ++c) {
      const double norm = columns.norm[c];
      const bool usable = columns.state[c] == RowState::usable || (columns.state[c] == RowState::zero && metric != Metric::cos);
      if (c % kStrip == 0) strips.emplace_back();
      Bounds& strip = strips.back();
      // -infinity is below every threshold but -infinity, and the mark of rows that are not usable: of rows so long that
      // their square is no float nothing is known anyway (`error` is infinite)
      bias[c] = !usable ? -kInfinite : metric == Metric::l2 ? -static_cast<float>(std::min(norm * norm, 1e38)) : 0;
      if (!usable) continue;
      const double unit = metric == Metric::cos ? 1 / norm : 1;
      scale[c] = std::isfinite(columns.error[c]) ? static_cast<float>(columns.scale[c] * unit) : 0;
      strip.error = std::max(strip.error, static_cast<float>(columns.error[c] * unit));
      strip.length = std::max(strip.length, static_cast<float>(std::min(norm, 1e36) * unit));
    }
  }

  struct Bounds {
    float error = 0, length = 0;
    float reach() const noexcept { return length + error; }
    float lost() const noexcept { return 1e-6F * length * length; }
  };
  std::vector<float> scale, bias;
  std::vector<Bounds> strips;
};

/// A block of queries: what its rows are multiplied with.
struct RowScales {
  void set(const PackedRows& rows, Metric metric) {
    scale.assign(rows.padded, 0);
    square.assign(rows.padded, 0);
    length_.assign(rows.padded, 0);
    error_.assign(rows.padded, 0);
    lost_.assign(rows.padded, 0);
    is_l2_ = metric == Metric::l2;
    for (std::size_t r = 0; r < rows.padded; ++r) {
      const double unit = metric == Metric::cos ? (rows.norm[r] > 0 ? 1 / rows.norm[r] : 0) : is_l2_ ? 2 : 1;
      const double norm = std::min(rows.norm[r], 1e36);
      if (std::isfinite(rows.error[r])) scale[r] = static_cast<float>(rows.scale[r] * unit);
      length_[r] = static_cast<float>(norm * unit);
      error_[r] = static_cast<float>(rows.error[r] * unit);
      square[r] = is_l2_ ? rows.norm[r] * rows.norm[r] : 0;
      lost_[r] = static_cast<float>(std::min(kFloatLoss * square[r], 1e36));
    }
  }

  /// How far a key by codes is from the exact one at most, for row r and a strip; infinite or NaN where nothing is known.
  float bound(std::size_t r, const ColumnScales::Bounds& strip) const noexcept {
    const float reach = strip.reach();
    return (length_[r] * (strip.error + 1e-6F * reach) + error_[r] * reach + lost_[r] + (is_l2_ ? strip.lost() : 0.0F)) * 1.00001F;
  }

  /// threshold[r] = floors[r] less the bound: a hit is what is not below it, so a NaN is one.
  void lower(std::span<const float> floors, const ColumnScales::Bounds& strip, std::span<float> threshold) const noexcept {
    const float reach = strip.reach(), error = strip.error + 1e-6F * reach, lost = is_l2_ ? strip.lost() : 0.0F;
    for (std::size_t r = 0; r < threshold.size(); ++r) {
      threshold[r] = floors[r] - (length_[r] * error + error_[r] * reach + lost_[r] + lost) * 1.00001F;
    }
  }

  std::vector<float> scale;
  std::vector<double> square;

 private:
  std::vector<float> length_, error_, lost_;
  bool is_l2_ = false;
};

/// The exact score of one query against rows of the database.
class ExactScorer {
 public:
  ExactScorer(const EmbeddingRows& queries, const PackedDatabase& database, Metric metric, bool magnitudes)
      : queries_(queries), database_(database), metric_(metric), magnitudes_(magnitudes), x_(queries.width) {}

  void take(std::size_t query, double norm) {
    select_kernels().to_double(queries_.row(query), queries_.kind, queries_.width, x_.data());
    norm_ = norm;
  }

  /// Rounded once to float; for "l2" the squared distance.
  float score(std::size_t column) const {
    const EmbeddingRows& rows = database_.rows();
    const SelectKernels& kernels = select_kernels();
    const std::byte* const y = rows.row(column);
    if (metric_ == Metric::l2) return static_cast<float>(kernels.squared_distance(x_.data(), y, rows.kind, rows.width));
    double score = kernels.dot(x_.data(), y, rows.kind, rows.width);
    if (metric_ == Metric::cos) score /= norm_ * database_.codes(CodeWidth::narrow).norm[column];
    return static_cast<float>(magnitudes_ ? std::abs(score) : score);
  }

  void prefetch(std::size_t column) const noexcept {
    const std::byte* const row = database_.rows().row(column);
    for (std::size_t i = 0; i < 256; i += 64) __builtin_prefetch(row + i);
  }

 private:
  const EmbeddingRows& queries_;
  const PackedDatabase& database_;
  Metric metric_;
  bool magnitudes_;
  std::vector<double> x_;
  double norm_ = 0;
};

}  // namespace dcfast
