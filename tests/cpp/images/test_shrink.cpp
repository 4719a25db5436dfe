// Pictures made smaller by areas: equal to a slow mean in doubles, at all sizes; sizes that cannot be are refused.
#include "core/images/shrink.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <random>
#include <vector>

#include "check.hpp"
#include "core/system/error.hpp"

using dcfast::PictureSize;
using dcfast::shrink;

namespace {

using Bytes = std::vector<std::uint8_t>;

Bytes noise(std::size_t size) {
  std::mt19937 random(static_cast<unsigned>(size));
  Bytes bytes(size);
  for (auto& byte : bytes) byte = static_cast<std::uint8_t>(random());
  return bytes;
}

/// How much of pixel `place` lies below pixel `of`, where `scale` lie below each.
double part(std::size_t place, std::size_t of, double scale) {
  const auto begin = static_cast<double>(place);
  const double first = static_cast<double>(of) * scale;
  return std::max(0.0, std::min(begin + 1, first + scale) - std::max(begin, first));
}

/// The furthest from the mean in doubles, in levels.
double furthest(PictureSize size, PictureSize target) {
  const Bytes pixels = noise(3 * size.height * size.width);
  const Bytes made = shrink(pixels, size, target);
  CHECK(made.size() == 3 * target.height * target.width);
  const double down = static_cast<double>(size.height) / static_cast<double>(target.height);
  const double across = static_cast<double>(size.width) / static_cast<double>(target.width);
  double gap = 0;
  for (std::size_t i = 0; i < made.size(); ++i) {
    double sum = 0;
    for (std::size_t y = 0; y < size.height; ++y) {
      for (std::size_t x = 0; x < size.width; ++x) {
        sum += pixels[3 * (y * size.width + x) + i % 3] * part(y, i / 3 / target.width, down) * part(x, i / 3 % target.width, across);
      }
    }
    gap = std::max(gap, std::abs(sum / (down * across) - made[i]));
  }
  return gap;
}

void test_equals_the_slow_one() {
  for (const auto& [height, width, to_height, to_width] : std::vector<std::array<std::size_t, 4>>{
           {1, 1, 1, 1}, {7, 5, 7, 5}, {7, 5, 1, 1}, {1, 40, 1, 39}, {40, 1, 11, 1}, {31, 33, 16, 17}, {30, 34, 10, 17}, {50, 41, 49, 2}}) {
    CHECK(furthest({height, width}, {to_height, to_width}) < 0.51);
  }
}

void test_even_areas_stay() {
  for (const std::uint8_t level : {0, 1, 128, 255}) {
    CHECK(shrink(Bytes(3 * 61 * 83, level), {61, 83}, {37, 50}) == Bytes(3 * 37 * 50, level));
  }
}

void test_bad_arguments() {
  using dcfast::Error;
  const Bytes pixels(3 * 5 * 6, 7);
  constexpr std::size_t kHuge = std::size_t{1} << 63;
  for (const PictureSize size : {PictureSize{5, 5}, PictureSize{0, 6}, PictureSize{5, kHuge}, PictureSize{kHuge, 2}}) {
    CHECK_THROWS(Error, shrink(pixels, size, {1, 1}));
  }
  for (const PictureSize target : {PictureSize{0, 6}, PictureSize{5, 0}, PictureSize{6, 6}, PictureSize{5, 7}}) {
    CHECK_THROWS(Error, shrink(pixels, {5, 6}, target));
  }
}

}  // namespace

int main() {
  test_equals_the_slow_one();
  test_even_areas_stay();
  test_bad_arguments();
  return failures();
}
