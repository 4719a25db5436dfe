#include "core/images/blur.hpp"

#include <algorithm>
#include <array>
#include <cmath>

#include "core/images/blur_avx2.hpp"
#include "core/images/blur_loop.hpp"
#include "core/system/cpu.hpp"
#include "core/system/error.hpp"

namespace dcfast {
namespace {

constexpr std::size_t kBandRows = 256;  // of the blurred image as it is sampled
constexpr double kSamplesASigma = 4;    // at least, along each axis
constexpr float kRounding = 1e-3F;      // of 255 levels: the noise of the sums, so that even areas stay what they are

using WeightedSum = void (*)(const float*, const float*, std::size_t, float*) noexcept;

void weighted_sum_baseline(const float* rows, const float* weights, std::size_t count, float* out) noexcept {
  weighted_sum_loop(rows, weights, count, out);
}

WeightedSum weighted_sum() {
#ifdef DCFAST_HAVE_AVX2
  if (have_avx2()) return avx2::weighted_sum;
#endif
  return weighted_sum_baseline;
}

// ---- which pixels

struct Range {
  std::size_t begin = 0;
  std::size_t end = 0;
  bool empty() const { return begin >= end; }
};

struct Rectangle {
  Range rows;
  Range columns;
};

/// A box on whole pixels, widened; and its longer side before.
Rectangle rectangle_of(const BlurBox& box, std::size_t height, std::size_t width, double& side) {
  const double left = std::trunc(box.x0 * static_cast<double>(width));
  const double top = std::trunc(box.y0 * static_cast<double>(height));
  const double right = std::trunc(box.x1 * static_cast<double>(width));
  const double bottom = std::trunc(box.y1 * static_cast<double>(height));
  side = std::max(right - left, bottom - top);
  const double margin = 0.1 * side;
  const auto inside = [](double place, std::size_t size) {
    return static_cast<std::size_t>(std::clamp(std::trunc(place), 0.0, static_cast<double>(size - 1)));
  };
  return {{inside(top - margin, height), inside(bottom + margin, height)},
          {inside(left - margin, width), inside(right + margin, width)}};
}

/// The union of rectangles: 1 a pixel of it; and of each row the columns between the first and the last of them.
struct Mask {
  std::vector<std::uint8_t> pixels;
  std::vector<Range> rows;
};

Mask mask_of(const std::vector<Rectangle>& rectangles, std::size_t height, std::size_t width) {
  // by a sweep over the rows, so that any number of boxes that lie over each other costs one pass
  struct Edge {
    std::size_t row;
    Range columns;
    int change;
  };
  std::vector<Edge> edges;
  edges.reserve(2 * rectangles.size());
  for (const Rectangle& rectangle : rectangles) {
    edges.push_back({rectangle.rows.begin, rectangle.columns, 1});
    edges.push_back({rectangle.rows.end, rectangle.columns, -1});
  }
  std::sort(edges.begin(), edges.end(), [](const Edge& a, const Edge& b) { return a.row < b.row; });
  Mask mask{std::vector<std::uint8_t>(height * width), std::vector<Range>(height)};
  std::vector<int> steps(width + 1);  // between a column and the one before: rectangles that begin, less those that end
  auto edge = edges.begin();
  for (std::size_t y = 0; y < height; ++y) {
    std::uint8_t* const row = mask.pixels.data() + y * width;
    const auto first = edge;
    for (; edge != edges.end() && edge->row == y; ++edge) {
      steps[edge->columns.begin] += edge->change;
      steps[edge->columns.end] -= edge->change;
    }
    if (edge == first) {
      if (y > 0) {
        std::copy_n(row - width, width, row);
        mask.rows[y] = mask.rows[y - 1];
      }
      continue;
    }
    Range& used = mask.rows[y];
    int depth = 0;
    for (std::size_t x = 0; x < width; ++x) {
      depth += steps[x];
      if (depth == 0) continue;
      row[x] = 1;
      if (used.empty()) used.begin = x;
      used.end = x + 1;
    }
  }
  return mask;
}

Range widened(Range range, std::size_t reach, std::size_t size) {
  return {range.begin - std::min(range.begin, reach), std::min(size, range.end + reach)};
}

// ---- the Gaussian along an axis

/// The weights of the offsets -reach .. reach.
std::vector<double> gaussian(double sigma, std::size_t reach) {
  std::vector<double> kernel(2 * reach + 1);
  double sum = 0;
  for (std::size_t k = 0; k < kernel.size(); ++k) {
    const double offset = static_cast<double>(k) - static_cast<double>(reach);
    sum += kernel[k] = std::exp(-0.5 / (sigma * sigma) * offset * offset);
  }
  for (double& weight : kernel) weight /= sum;
  return kernel;
}

/// Where a place beyond the ends lies when they are mirrors (each end itself stands once).
std::size_t mirrored(std::ptrdiff_t place, std::size_t size) {
  if (size == 1) return 0;
  const auto period = static_cast<std::ptrdiff_t>(2 * size - 2);
  place = std::abs(place) % period;
  return static_cast<std::size_t>(std::min(place, period - place));
}

/// What each sample of a blurred axis is a sum of.
struct Taps {
  struct Sample {
    std::size_t first;    // place on the axis
    std::size_t count;    // of places from there on
    std::size_t weights;  // where theirs begin in `weights`
  };
  std::vector<Sample> samples;
  std::vector<float> weights;
  Range places;  // that any sample takes
};

/// Samples of a range at every place, or from one before it to two behind at every step (beyond the ends: mirrored).
Taps make_taps(const std::vector<double>& kernel, std::size_t size, Range sampled, std::size_t step) {
  const std::size_t count = (sampled.end - sampled.begin - 1) / step + (step > 1 ? 4 : 1);
  const auto first = static_cast<std::ptrdiff_t>(sampled.begin) - static_cast<std::ptrdiff_t>(step > 1 ? step : 0);
  Taps taps;
  taps.weights.assign(kernel.begin(), kernel.end());
  taps.places = {size, 0};
  const auto reach = static_cast<std::ptrdiff_t>(kernel.size() / 2);
  std::vector<double> folded;
  for (std::size_t i = 0; i < count; ++i) {
    const auto centre = static_cast<std::ptrdiff_t>(mirrored(first + static_cast<std::ptrdiff_t>(i * step), size));
    const Range range = widened({static_cast<std::size_t>(centre), static_cast<std::size_t>(centre) + 1},
                                static_cast<std::size_t>(reach), size);
    Taps::Sample sample{range.begin, range.end - range.begin, 0};
    if (sample.count < kernel.size()) {  // what lies beyond an end is added to what it mirrors
      folded.assign(sample.count, 0.0);
      for (std::size_t k = 0; k < kernel.size(); ++k) {
        folded[mirrored(centre - reach + static_cast<std::ptrdiff_t>(k), size) - range.begin] += kernel[k];
      }
      sample.weights = taps.weights.size();
      taps.weights.insert(taps.weights.end(), folded.begin(), folded.end());
    }
    taps.samples.push_back(sample);
    taps.places = {std::min(taps.places.begin, range.begin), std::max(taps.places.end, range.end)};
  }
  return taps;
}

/// out[x * samples + i] = sample i of column x: blurred down and turned. `first` is the pixel at column 0 of the first row
/// that is taken; the next pixel of its row and of its column lie `right` and `down` further.
template <typename Pixel>
void blur_columns(const Pixel* first, std::size_t right, std::size_t down, std::size_t width, const Taps& taps,
                  WeightedSum sum, std::vector<float>& out) {
  const std::size_t height = taps.samples.size();
  out.resize(width * height);
  std::vector<float> part((taps.places.end - taps.places.begin) * kBlurColumns);
  float sums[kBlurColumns];
  for (std::size_t begin = 0; begin < width; begin += kBlurColumns) {
    const std::size_t columns = std::min(kBlurColumns, width - begin);
    const Pixel* pixel = first + begin * right;
    for (float* row = part.data(); row != part.data() + part.size(); row += kBlurColumns, pixel += down) {
      for (std::size_t j = 0; j < columns; ++j) row[j] = static_cast<float>(pixel[j * right]);
    }
    for (std::size_t i = 0; i < height; ++i) {
      const Taps::Sample& sample = taps.samples[i];
      const float* const rows = part.data() + (sample.first - taps.places.begin) * kBlurColumns;
      sum(rows, taps.weights.data() + sample.weights, sample.count, sums);
      for (std::size_t j = 0; j < columns; ++j) out[(begin + j) * height + i] = sums[j];
    }
  }
}

// ---- the image

class Blur {
 public:
  Blur(std::span<const std::uint8_t> pixels, std::size_t height, std::size_t width, std::size_t channels, const Mask& mask,
       double longest)
      : pixels_(pixels), height_(height), width_(width), channels_(channels), mask_(mask) {
    const double sigma = 0.1 * longest;
    reach_ = static_cast<std::size_t>(std::ceil(4 * sigma));
    step_ = std::max<std::size_t>(1, static_cast<std::size_t>(sigma / kSamplesASigma));
    kernel_ = gaussian(sigma, reach_);
    for (std::size_t i = 0; i < step_; ++i) between_.push_back(cubic(static_cast<float>(i) / static_cast<float>(step_)));
  }

  std::vector<std::uint8_t> run(const Poll& poll) {
    std::vector<std::uint8_t> out(pixels_.begin(), pixels_.end());
    Range used{height_, 0};
    for (std::size_t y = 0; y < height_; ++y) {
      if (!mask_.rows[y].empty()) used = {std::min(used.begin, y), y + 1};
    }
    used = widened(used, reach_, height_);
    for (std::size_t y = used.begin; y < used.end; y += kBandRows * step_) {
      if (poll) poll();
      const Range rows{y, std::min(used.end, y + kBandRows * step_)};
      Range columns{width_, 0};
      const Range rows_in_reach = widened(rows, reach_, height_);
      for (std::size_t i = rows_in_reach.begin; i < rows_in_reach.end; ++i) {
        const Range& row = mask_.rows[i];
        if (!row.empty()) columns = {std::min(columns.begin, row.begin), std::max(columns.end, row.end)};
      }
      if (!columns.empty()) blend(rows, widened(columns, reach_, width_), out);
    }
    return out;
  }

 private:
  using Four = std::array<float, 4>;

  /// Weights of the samples at -1, 0, 1 and 2 for what lies at t of 0 to 1: the cubic through them.
  static Four cubic(float t) {
    return {t * (1 - t) * (t - 2) / 6, (t + 1) * (t - 1) * (t - 2) / 2, (t + 1) * t * (2 - t) / 2, (t + 1) * t * (t - 1) / 6};
  }

  void blend(Range rows, Range columns, std::vector<std::uint8_t>& out) {
    const Taps down = make_taps(kernel_, height_, rows, step_);
    const Taps across = make_taps(kernel_, width_, columns, step_);
    blurred(mask_.pixels.data(), 1, down, across, weights_);
    levels_.resize(channels_);
    for (std::size_t c = 0; c < channels_; ++c) blurred(pixels_.data() + c, channels_, down, across, levels_[c]);
    const std::size_t width = columns.end - columns.begin;
    const std::size_t right = channels_;
    for (std::size_t y = rows.begin; y < rows.end; ++y) {
      const float* const weight = full_row(weights_, y - rows.begin, across.samples.size(), width, weight_row_);
      for (std::size_t c = 0; c < right; ++c) {
        const float* const level = full_row(levels_[c], y - rows.begin, across.samples.size(), width, level_row_);
        std::uint8_t* pixel = out.data() + (y * width_ + columns.begin) * right + c;  // still as it was
        for (std::size_t x = 0; x < width; ++x, pixel += right) {
          const auto old = static_cast<float>(*pixel);
          const float blended = old + (level[x] - old) * weight[x] + kRounding;
          *pixel = static_cast<std::uint8_t>(static_cast<int>(std::min(std::max(blended, 0.0F), 255.0F)));
        }
      }
    }
  }

  /// Samples of a blurred channel, rows one after another.
  void blurred(const std::uint8_t* channel, std::size_t stride, const Taps& down, const Taps& across, std::vector<float>& samples) {
    const std::uint8_t* const first = channel + (down.places.begin * width_ + across.places.begin) * stride;
    blur_columns(first, stride, stride * width_, across.places.end - across.places.begin, down, sum_, turned_);
    const std::size_t height = down.samples.size();
    blur_columns(turned_.data(), 1, height, height, across, sum_, samples);
  }

  /// A row of every column, interpolated between samples, `count` a row; `y` and columns count from the first.
  const float* full_row(const std::vector<float>& samples, std::size_t y, std::size_t count, std::size_t width,
                        std::vector<float>& row) {
    const float* const above = samples.data() + y / step_ * count;
    if (step_ == 1) return above;
    const Four down = between_[y % step_];
    sampled_.resize(count);
    for (std::size_t i = 0; i < count; ++i) {
      sampled_[i] = down[0] * above[i] + down[1] * above[count + i] + down[2] * above[2 * count + i] + down[3] * above[3 * count + i];
    }
    row.resize(width + step_);
    float* place = row.data();
    for (const float* four = sampled_.data(); four + 3 < sampled_.data() + count; ++four) {
      for (const Four& across : between_) {
        *place++ = across[0] * four[0] + across[1] * four[1] + across[2] * four[2] + across[3] * four[3];
      }
    }
    return row.data();
  }

  std::span<const std::uint8_t> pixels_;
  std::size_t height_;
  std::size_t width_;
  std::size_t channels_;
  const Mask& mask_;
  WeightedSum sum_ = weighted_sum();
  std::size_t reach_ = 0;
  std::size_t step_ = 1;
  std::vector<double> kernel_;
  std::vector<Four> between_;
  std::vector<float> turned_, weights_, weight_row_, level_row_, sampled_;
  std::vector<std::vector<float>> levels_;
};

void check(std::span<const std::uint8_t> pixels, std::size_t height, std::size_t width, std::size_t channels,
           std::span<const BlurBox> boxes) {
  const std::string size = cat(width, " x ", height);
  if (height == 0 || width == 0 || channels == 0 || std::max(height, width) > kMaxBlurSide) {
    refuse_argument("image of ", size, " pixels with ", channels, " channels: expected sides of 1 to ", kMaxBlurSide, " pixels");
  }
  if (pixels.size() % channels != 0 || pixels.size() / channels != height * width) {
    refuse_argument("image of ", size, " pixels with ", channels, " channels and ", pixels.size(), " bytes");
  }
  for (const BlurBox& box : boxes) {
    for (const double place : {box.x0, box.y0, box.x1, box.y1}) {
      if (place >= 0 && place <= 1) continue;  // not of NaN
      refuse_argument("box of [", box.x0, ", ", box.y0, ", ", box.x1, ", ", box.y1,
                      "]: expected x0, y0, x1, y1 as fractions of 0 to 1");
    }
  }
}

}  // namespace

std::vector<std::uint8_t> blur_boxes(std::span<const std::uint8_t> pixels, std::size_t height, std::size_t width,
                                     std::size_t channels, std::span<const BlurBox> boxes, const Poll& poll) {
  check(pixels, height, width, channels, boxes);
  std::vector<Rectangle> rectangles;
  double longest = 0;
  for (const BlurBox& box : boxes) {
    double side = 0;
    const Rectangle rectangle = rectangle_of(box, height, width, side);
    longest = std::max(longest, side);
    if (!rectangle.rows.empty() && !rectangle.columns.empty()) rectangles.push_back(rectangle);
  }
  if (longest < 1 || rectangles.empty()) return {};
  return Blur(pixels, height, width, channels, mask_of(rectangles, height, width), longest).run(poll);
}

}  // namespace dcfast
