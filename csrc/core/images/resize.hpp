// Bicubic resampling of 8-bit rows with antialiasing, bit for bit as Pillow does it: weights of 22 bits, a sum of products
// rounded to 8 bits after each of two passes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace dcfast {

/// What each of `size` places of a resampled axis is a sum of.
struct ResizeTaps {
  std::vector<std::uint32_t> first;  // place on the source axis
  std::vector<std::uint32_t> last;   // the place behind the last one whose weight counts
  std::uint32_t slots = 0;           // weights a place from there on, a multiple of four: zeros at the end
  std::uint32_t pairs = 0;           // of weights, of which some place has one that is not a zero
  std::vector<std::int32_t> weights;
  /// The same as pairs of int16: w = 2^11 * high + low; of four weights high 0, 1, low 0, 1, high 2, 3, low 2, 3.
  std::vector<std::int16_t> split;
  std::uint32_t begin = 0;  // places of the source that any sum takes, all of them below its length
  std::uint32_t end = 0;

  std::uint32_t size() const { return static_cast<std::uint32_t>(first.size()); }
};

/// Resamples [from, to) of an axis of `length` pixels to `size` of them; 0 <= from < to <= length. Keeps the memory of `taps`.
void make_resize_taps(std::uint32_t length, float from, float to, std::uint32_t size, ResizeTaps& taps);

/// Rows that `resize_across` takes at a time.
inline constexpr std::size_t kAcrossRows = 4;
/// Bytes that must be readable behind what the taps reach, and writable behind a row of results.
inline constexpr std::size_t kRowPadding = 32;
/// Bytes of a source row of so many pixels of three bytes, with what `resize_across` may read behind it.
constexpr std::size_t padded_row(std::size_t pixels, const ResizeTaps& taps) {
  return 3 * (pixels + taps.slots) + kRowPadding;
}

/// Four rows of RGB to four rows of taps.size() RGB pixels. Sources as padded_row says, results with kRowPadding.
void resize_across(const std::uint8_t* const* rows, const ResizeTaps& taps, std::uint8_t* const* out);
/// The row at `place` of `count` bytes: a sum of rows[i], the source rows from taps.first[place] on, taps.pairs * 2 of them (any
/// where the weights are zeros). Sources with kRowPadding; exactly `count` bytes are written.
void resize_down(const std::uint8_t* const* rows, const ResizeTaps& taps, std::uint32_t place, std::size_t count, std::uint8_t* out);

}  // namespace dcfast
