// A 256-bit perceptual hash of a grey image, after PDQ (Facebook, "The TMK+PDQF Video-Hashing Algorithm and the PDQ
// Image-Hashing Algorithm", 2019): 64 x 64 cells, DCT-II, the frequencies 1 to 16 both ways. Two things differ. The cells
// are exact averages, in whole numbers, so the bits are the same on every machine. And where a mirror turns a frequency
// around, its bit is its sign, so the hash of a turned or mirrored image follows from the hash.
// docs/formats.md has the definition step by step.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "core/images/cells.hpp"

namespace dcfast {

/// Bit i of the hash is bit i % 64 of word i / 64.
using WideWords = std::array<std::uint64_t, 4>;

/// `quality`: half of the 256 frequencies lie at least this many grey levels of the orthonormal DCT from where their bit
/// would change, at most 255.
struct WideHash {
  WideWords words{};
  std::uint8_t quality = 0;
};

/// The quality below which an image is flat: noise decides its bits, and it must never match by this hash. Solid
/// colours, ramps, stripes, vignettes and noise of 3 grey levels, as JPEG too, are at 4 or below; of 6,406 photographs, drawings
/// and thumbnails of a real pool and five evaluation sets the least is at 8, the median of a set at 43 to 81.
inline constexpr int kFlatQuality = 6;

/// Hash of an image by its cells. Cost: about 15 microseconds.
WideHash wide_hash(const CellSums& cells);

/// A hash and those of the image turned against the clock by 90, 180 and 270 degrees, mirrored left to right, top to bottom,
/// at the diagonal from the upper left, and at the other one.
using WideVariants = std::array<WideWords, 8>;

/// The same as of the turned grey levels, but where a frequency is exactly 0.
WideVariants wide_variants(const WideWords& words);

}  // namespace dcfast
