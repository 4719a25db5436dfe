// Pixels to WebP.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace dcfast {

/// Pixels of the longer side at most.
inline constexpr std::size_t kMaxWebpSide = 16'383;

/// A lossy WebP of height rows of width pixels, RGB or RGBA by `channels`. `quality` is libwebp's, 0 to 100; its method is
/// 4, the usual one, but without the search for 4 x 4 prediction and in one segment, which saves two fifths of the time and
/// costs 4% more bytes. Throws invalid_argument where a size, the number of channels or the quality cannot be, or where
/// the image is too large for the format; std::bad_alloc. Memory: some 8 bytes a pixel.
std::vector<std::uint8_t> encode_webp(std::span<const std::uint8_t> pixels, std::size_t height, std::size_t width,
                                      std::size_t channels, int quality);

}  // namespace dcfast
