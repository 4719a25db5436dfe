// A 64-bit perceptual hash of a grey image: area average to 32 x 32, DCT-II, the 64 lowest frequencies
// without the constant one against their median. Integers only: the bits are the same on every machine.
// docs/formats.md has the definition step by step.
#pragma once

#include <cstdint>

#include "core/images/cells.hpp"

namespace dcfast {

/// `flat`: the frequencies hardly differ from their median (solid colours, gradients, stripes), so that noise
/// decides the bits; such images must never match by this hash.
struct PerceptualHash {
  std::uint64_t bits = 0;
  bool flat = true;
};

/// The spread (median absolute deviation of the 64 frequencies, in grey levels of the orthonormal DCT) below
/// which an image is flat. Solid colours, gradients, stripes and vignettes with noise of 3 grey levels and JPEG
/// at quality 60 stay below 4.7; 6,600 photographs, drawings and thumbnails of a real pool and five evaluation
/// sets lie above 10, their median at 79.
inline constexpr int kFlatSpread = 5;

/// Hash of an image by its cells. Cost: about 10 microseconds.
PerceptualHash perceptual_hash(const CellSums& cells);

}  // namespace dcfast
