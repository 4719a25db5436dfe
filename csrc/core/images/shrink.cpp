#include "core/images/shrink.hpp"

#include <algorithm>
#include <cmath>

#include "core/images/shrink_loop.hpp"
#include "core/system/cpu.hpp"
#include "core/system/error.hpp"
#ifdef DCFAST_HAVE_AVX2
#include "core/images/shrink_avx2.hpp"
#endif

namespace dcfast {
namespace {

struct Loops {
  decltype(&shrink_rows_loop) rows = shrink_rows_loop;
  decltype(&add_shrunk_loop) add = add_shrunk_loop;
  decltype(&round_shrunk_loop) round = round_shrunk_loop;
};

Loops loops() {
#ifdef DCFAST_HAVE_AVX2
  if (have_avx2()) return {avx2::shrink_rows, avx2::add_shrunk, avx2::round_shrunk};
#endif
  return {};
}

/// Which pixels of an axis lie below each of the result's.
class Axis {
 public:
  Axis(std::size_t size, std::size_t target) {
    constexpr double kLeast = 1e-3;  // of a pixel, that counts
    const double scale = 1.0 / (static_cast<double>(target) / static_cast<double>(size));
    weights_.reserve(size + 2 * target);  // stays where it is
    for (std::size_t i = 0; i < target; ++i) {
      const double begin = static_cast<double>(i) * scale;
      const double end = begin + scale;
      const double width = std::min(scale, static_cast<double>(size) - begin);
      const std::size_t last = std::min(static_cast<std::size_t>(end), size - 1);
      const std::size_t first = std::min(static_cast<std::size_t>(std::ceil(begin)), last);
      const std::size_t before = weights_.size();
      const double left = static_cast<double>(first) - begin;
      const double right = end - static_cast<double>(last);
      if (left > kLeast) weights_.push_back(static_cast<float>(left / width));
      weights_.insert(weights_.end(), last - first, static_cast<float>(1.0 / width));
      if (right > kLeast) weights_.push_back(static_cast<float>(std::min({right, 1.0, width}) / width));
      taps.push_back({static_cast<std::uint32_t>(first - (left > kLeast ? 1 : 0)), static_cast<std::uint32_t>(weights_.size() - before),
                      weights_.data() + before});
    }
  }

  std::vector<ShrinkTaps> taps;

 private:
  std::vector<float> weights_;
};

}  // namespace

std::vector<std::uint8_t> shrink(std::span<const std::uint8_t> pixels, PictureSize size, PictureSize target) {
  constexpr std::size_t kMost = 1U << 30;
  if (size.height > kMost || size.width > kMost || pixels.size() != 3 * size.height * size.width) {
    refuse_argument("image of ", size.width, " x ", size.height, " pixels of three bytes and ", pixels.size(), " bytes");
  }
  if (target.height == 0 || target.width == 0 || target.height > size.height || target.width > size.width) {
    refuse_argument("target of ", target.width, " x ", target.height, " pixels: expected 1 x 1 to ", size.width, " x ", size.height);
  }
  const Loops use = loops();
  const Axis down(size.height, target.height);
  const Axis across(size.width, target.width);
  const std::size_t stride = 3 * size.width;
  std::vector<std::uint8_t> last(pixels.end() - static_cast<std::ptrdiff_t>(stride), pixels.end());  // has a byte behind it
  last.push_back(0);
  std::vector<float> sums(4 * kShrinkRows * target.width);
  std::vector<float> totals(4 * target.width);
  std::vector<std::uint8_t> out(3 * target.height * target.width + 1);
  std::size_t ready = 0;  // rows whose sums were made; the last of them are there
  for (std::size_t y = 0; y < target.height; ++y) {
    const ShrinkTaps& taps = down.taps[y];
    for (std::size_t k = 0; k < taps.count; ++k) {
      const std::size_t place = taps.first + k;
      for (; place >= ready; ready += kShrinkRows) {
        ShrinkRows rows{};
        for (std::size_t i = 0; i < kShrinkRows; ++i) rows[i] = ready + i + 1 < size.height ? pixels.data() + (ready + i) * stride : last.data();
        use.rows(rows, across.taps.data(), target.width, sums.data());
      }
      use.add(sums.data() + 4 * (place % kShrinkRows), taps.weights[k], k == 0, target.width, totals.data());
    }
    use.round(totals.data(), target.width, out.data() + 3 * y * target.width);
  }
  out.pop_back();
  return out;
}

}  // namespace dcfast
