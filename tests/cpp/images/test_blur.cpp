// The blur of boxes: equal to a slow one, at all sizes and borders; sizes and boxes that cannot be are refused.
#include "core/images/blur.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <limits>
#include <random>
#include <span>
#include <utility>
#include <vector>

#include "check.hpp"
#include "core/images/image.hpp"
#include "core/images/webp_encode.hpp"
#include "core/system/error.hpp"

using dcfast::blur_boxes;
using dcfast::BlurBox;

namespace {

using Bytes = std::vector<std::uint8_t>;

Bytes noise(std::size_t size, unsigned seed) {
  std::mt19937 random(seed);
  Bytes bytes(size);
  for (auto& byte : bytes) byte = static_cast<std::uint8_t>(random());
  return bytes;
}

std::size_t mirrored(long place, long size) {
  while (place < 0 || place >= size) {
    if (size == 1) return 0;
    place = place < 0 ? -place : 2 * size - 2 - place;
  }
  return static_cast<std::size_t>(place);
}

/// An axis of a plane blurred in doubles, one sum a pixel.
std::vector<double> blurred_axis(const std::vector<double>& in, long height, long width, bool down, double sigma) {
  const long reach = static_cast<long>(std::ceil(4 * sigma));
  std::vector<double> out(in.size());
  for (long y = 0; y < height; ++y) {
    for (long x = 0; x < width; ++x) {
      double sum = 0;
      double all = 0;
      for (long k = -reach; k <= reach; ++k) {
        const double weight = std::exp(-0.5 * static_cast<double>(k * k) / (sigma * sigma));
        const std::size_t row = down ? mirrored(y + k, height) : static_cast<std::size_t>(y);
        const std::size_t column = down ? static_cast<std::size_t>(x) : mirrored(x + k, width);
        sum += weight * in[row * static_cast<std::size_t>(width) + column];
        all += weight;
      }
      out[static_cast<std::size_t>(y * width + x)] = sum / all;
    }
  }
  return out;
}

/// The furthest that the blur is from the slow one, in levels.
double furthest(std::size_t height, std::size_t width, std::size_t channels, const std::vector<BlurBox>& boxes) {
  const Bytes pixels = noise(height * width * channels, static_cast<unsigned>(height * 31 + width));
  const Bytes made = blur_boxes(pixels, height, width, channels, boxes);
  const auto h = static_cast<long>(height);
  const auto w = static_cast<long>(width);
  std::vector<double> mask(height * width);
  double longest = 0;
  for (const BlurBox& box : boxes) {
    const long left = static_cast<long>(box.x0 * static_cast<double>(w)), right = static_cast<long>(box.x1 * static_cast<double>(w));
    const long top = static_cast<long>(box.y0 * static_cast<double>(h)), bottom = static_cast<long>(box.y1 * static_cast<double>(h));
    const double side = static_cast<double>(std::max(right - left, bottom - top));
    longest = std::max(longest, side);
    const auto inside = [](double place, long size) { return std::clamp(static_cast<long>(place), 0L, size - 1); };
    for (long y = inside(static_cast<double>(top) - 0.1 * side, h); y < inside(static_cast<double>(bottom) + 0.1 * side, h); ++y) {
      for (long x = inside(static_cast<double>(left) - 0.1 * side, w); x < inside(static_cast<double>(right) + 0.1 * side, w); ++x) {
        mask[static_cast<std::size_t>(y * w + x)] = 1;
      }
    }
  }
  if (longest < 1 || std::count(mask.begin(), mask.end(), 0.0) == h * w) {
    CHECK(made.empty());
    return 0;
  }
  CHECK(made.size() == pixels.size());
  const double sigma = 0.1 * longest;
  const auto slow = [&](const std::vector<double>& plane) {
    return blurred_axis(blurred_axis(plane, h, w, true, sigma), h, w, false, sigma);
  };
  const std::vector<double> weight = slow(mask);
  double gap = 0;
  for (std::size_t c = 0; c < channels; ++c) {
    std::vector<double> plane(height * width);
    for (std::size_t i = 0; i < plane.size(); ++i) plane[i] = pixels[i * channels + c];
    const std::vector<double> level = slow(plane);
    for (std::size_t i = 0; i < plane.size(); ++i) {
      const double expected = plane[i] + (level[i] - plane[i]) * weight[i];
      const double got = made[i * channels + c];
      gap = std::max({gap, got - expected, expected - got - 1});  // cut to whole numbers
    }
  }
  return gap;
}

void test_equals_the_slow_one() {
  const std::vector<std::vector<BlurBox>> cases = {
      {{0, 0, 1, 1}}, {{0.25, 0.25, 0.75, 0.7}}, {{0, 0, 0.3, 0.2}}, {{0.8, 0.5, 1, 1}}, {{0.5, 0.5, 0.5, 0.5}},
      {{0.1, 0.1, 0.2, 0.2}, {0.7, 0.75, 0.95, 0.9}, {0.15, 0.12, 0.4, 0.2}},
      {{0.6, 0.2, 0.4, 0.7}},  // swapped: taken as it is
  };
  for (const auto& [height, width] : std::vector<std::pair<std::size_t, std::size_t>>{
           {1, 1}, {1, 40}, {40, 1}, {2, 2}, {3, 70}, {31, 33}, {64, 32}, {97, 65}}) {
    for (const std::size_t channels : {1, 3, 4}) {
      for (const auto& boxes : cases) CHECK(furthest(height, width, channels, boxes) < 0.05);
    }
  }
}

// From a sigma of 8 on with samples between; more than one band of rows.
void test_sampled_between() {
  CHECK(furthest(210, 165, 1, {{0, 0.1, 1, 0.95}}) < 0.05);
  CHECK(furthest(9, 700, 1, {{0, 0, 1, 1}, {0.4, 0.1, 0.5, 0.9}}) < 0.05);
  CHECK(furthest(700, 20, 1, {{0.1, 0, 0.9, 0.001}, {0.1, 0.05, 0.6, 0.07}, {0.2, 0.8, 0.9, 0.82}}) < 0.01);
}

void test_even_areas_stay() {
  const Bytes even(60 * 50 * 3, 200);
  CHECK(blur_boxes(even, 60, 50, 3, std::vector<BlurBox>{{0.1, 0.1, 0.9, 0.9}}) == even);
}

void test_boxes_over_each_other_cost_one_pass() {
  const Bytes pixels = noise(200 * 200 * 3, 9);
  const std::vector<BlurBox> one = {{0.2, 0.2, 0.8, 0.8}};
  const std::vector<BlurBox> many(65'535, one[0]);
  CHECK(blur_boxes(pixels, 200, 200, 3, many) == blur_boxes(pixels, 200, 200, 3, one));
}

void test_bad_arguments() {
  using dcfast::Error;
  const Bytes pixels(30, 7);
  const std::vector<BlurBox> good = {{0, 0, 1, 1}};
  CHECK(blur_boxes(pixels, 5, 6, 1, {}).empty());
  for (const auto& [height, width, channels] : std::vector<std::array<std::size_t, 3>>{
           {0, 6, 1}, {5, 0, 1}, {5, 6, 0}, {5, 6, 3}, {4, 6, 1}, {1, 16'384, 1}, {std::size_t{1} << 63, 2, 1}, {5, 6, std::size_t{1} << 63}}) {
    CHECK_THROWS(Error, blur_boxes(pixels, height, width, channels, good));
  }
  for (const double bad : {-0.001, 1.001, 1e300, -1e300, std::numeric_limits<double>::infinity(), std::nan("")}) {
    for (const BlurBox& box : {BlurBox{bad, 0, 1, 1}, BlurBox{0, bad, 1, 1}, BlurBox{0, 0, bad, 1}, BlurBox{0, 0, 1, bad}}) {
      CHECK_THROWS(Error, blur_boxes(pixels, 5, 6, 1, std::vector<BlurBox>{good[0], box}));
    }
  }
}

void test_webp() {
  using dcfast::encode_webp;
  using dcfast::Error;
  const Bytes pixels(24 * 10 * 4, 90);
  for (const std::size_t channels : {3, 4}) {
    const auto view = std::span(pixels).first(24 * 10 * channels);
    const Bytes made = encode_webp(view, 10, 24, channels, 100);
    const dcfast::GreyImage grey = dcfast::decode_grey(std::as_bytes(std::span(made)), {});
    CHECK(grey.status == dcfast::ImageStatus::ok && grey.width == 24 && grey.height == 10 && grey.grey[0] - 90 < 3);
    for (const int quality : {-1, 101}) CHECK_THROWS(Error, encode_webp(view, 10, 24, channels, quality));
    CHECK_THROWS(Error, encode_webp(view, 11, 24, channels, 100));
  }
  CHECK_THROWS(Error, encode_webp(pixels, 10, 96, 1, 100));
  CHECK_THROWS(Error, encode_webp(pixels, 0, 24, 3, 100));
  CHECK_THROWS(Error, encode_webp(pixels, 1, 16'384, 3, 100));
  CHECK_THROWS(Error, encode_webp(pixels, std::size_t{1} << 62, 4, 3, 100));
}

}  // namespace

int main() {
  test_equals_the_slow_one();
  test_sampled_between();
  test_even_areas_stay();
  test_boxes_over_each_other_cost_one_pass();
  test_bad_arguments();
  test_webp();
  return failures();
}
