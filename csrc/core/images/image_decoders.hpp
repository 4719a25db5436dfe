// The decoders behind decode_grey, one a format. Each fills status, width, height and, where ok, the grey levels;
// on failure it may leave grey levels behind, which the caller drops. Throws std::bad_alloc only.
#pragma once

#include <cstddef>
#include <span>

#include "core/images/image.hpp"

namespace dcfast {

/// By libjpeg, at the scale that the options ask for.
void decode_jpeg(std::span<const std::byte> bytes, ImageOptions options, GreyImage& image);

/// By libpng, at full scale.
void decode_png(std::span<const std::byte> bytes, GreyImage& image);

/// By libwebp, at full scale; animations are unsupported.
void decode_webp(std::span<const std::byte> bytes, GreyImage& image);

}  // namespace dcfast
