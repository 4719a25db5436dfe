// Bicubic resampling of 8-bit rows with antialiasing, bit for bit as Pillow does it: weights of 22 bits, a sum of products
// rounded to 8 bits after each of two passes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace dcfast {

/// What each of the places of a resampled axis is a sum of.
struct ResizeTaps {
  std::vector<std::uint32_t> first;  // place on the source axis, even
  std::vector<std::uint32_t> last;   // the place behind the last one whose weight counts
  std::uint32_t slots = 0;           // weights a place from there on, an even number: zeros at the ends
  std::uint32_t pairs = 0;           // the half of it
  std::vector<std::int32_t> weights;
  /// The same in int16, w = 2^11 * high + low: of each pair both highs, then both lows.
  std::vector<std::int16_t> split;
  std::uint32_t begin = 0;  // places of the source that any sum takes, all of them below its length
  std::uint32_t end = 0;

  std::uint32_t size() const { return static_cast<std::uint32_t>(first.size()); }
};

/// Some places of a resampled axis.
struct PlacesOf {
  std::uint32_t size;  // of the axis
  std::uint32_t begin = 0;
  std::uint32_t count = size;
};

/// Resamples [from, to) of an axis of `length` pixels to `places.size` of them, of which some are made; 0 <= from < to <= length.
/// Keeps the memory of `taps`.
void make_resize_taps(std::uint32_t length, float from, float to, PlacesOf places, ResizeTaps& taps);

/// Rows that `resize_across` takes at a time.
inline constexpr std::size_t kAcrossRows = 8;
/// Bytes that must be readable behind a source row, and writable behind a row of results.
inline constexpr std::size_t kRowPadding = 32;

/// Eight rows of `width` RGB pixels to eight rows of taps.size(). All with kRowPadding. `scratch` is kept from call to call.
void resize_across(const std::uint8_t* const* rows, std::size_t width, const ResizeTaps& taps, std::vector<std::uint8_t>& scratch,
                   std::uint8_t* const* out);
/// The row at `place` of `count` bytes: a sum of rows[i], the source rows from taps.first[place] on, taps.pairs * 2 of them (any
/// where the weights are zeros). Sources with kRowPadding; exactly `count` bytes are written.
void resize_down(const std::uint8_t* const* rows, const ResizeTaps& taps, std::uint32_t place, std::size_t count, std::uint8_t* out);

}  // namespace dcfast
