// Boxes blurred in images: the arithmetic that hides faces, on one image in memory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "core/images/webp_encode.hpp"
#include "core/system/parallel.hpp"

namespace dcfast {

/// Pixels of the longer side; WebP holds no longer ones.
inline constexpr std::size_t kMaxBlurSide = kMaxWebpSide;

/// Corners as fractions of width and height.
struct BlurBox {
  double x0 = 0;
  double y0 = 0;
  double x1 = 0;
  double y1 = 0;
};

/// Height rows of width pixels, each of `channels` bytes, with the boxes blurred; empty where no box reaches over a
/// pixel. Each box is widened by a tenth of its longer side; the union of the boxes is a mask; image and mask are blurred
/// by one Gaussian, and the result is image + (blurred - image) * blurred mask, cut to whole numbers. Its sigma is a tenth of the
/// longest side of a box, in pixels and before it is widened; it ends at 4 sigma; borders are mirrored, without the
/// outermost pixels. From a sigma of 8 pixels on, the blurred image is sampled at least 4 times a sigma along
/// each axis, with cubics between: within 0.05 of 255 levels.
/// Throws invalid_argument where the sizes do not agree, a side is longer than kMaxBlurSide, or a box holds anything but
/// numbers of 0 to 1. Memory: a byte a pixel beside the result, and 4 MiB a 1,000 columns. Cost: near boxes, less
/// than 200 multiplications a byte, whatever the boxes. The same on every x86-64 machine.
std::vector<std::uint8_t> blur_boxes(std::span<const std::uint8_t> pixels, std::size_t height, std::size_t width,
                                     std::size_t channels, std::span<const BlurBox> boxes, const Poll& poll = {});

}  // namespace dcfast
