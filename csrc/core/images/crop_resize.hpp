// Pictures for models: JPEG bytes to a crop of the picture, resampled to a square, straight into a batch; or to a larger picture,
// of which a square is cut. Pixel for pixel what Pillow gives: crop, bicubic resize, crop, RGB.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

#include "core/system/parallel.hpp"

namespace dcfast {

/// The numbers are Python's, too: never renumber.
enum class CropStatus : std::uint8_t {
  done = 0,
  elsewhere = 1,   // not read here: no JPEG, four inks, 12 bits, arithmetic coding, over a bound, incomplete scans
  other_size = 2,  // the header tells another size than was expected
  damaged = 3,     // whatever libjpeg warns of, or bytes that end too early
};

struct CropWindow {
  std::int32_t left;
  std::int32_t top;
  std::int32_t width;
  std::int32_t height;
};

/// What a window is resampled to, in pixels, and where the square of the result lies in it: whole, inside.
struct CropTarget {
  std::int32_t width;
  std::int32_t height;
  std::int32_t left;
  std::int32_t top;
};

struct CropTask {
  std::span<const std::byte> bytes;
  CropWindow window;  // inside the expected size, and not empty
  std::int32_t expected_width;
  std::int32_t expected_height;
  std::uint8_t* out;  // side x side x 3 bytes; undefined where the status is not `done`
  /// Else the window is resampled to the square itself. A picture with a target is never reduced.
  std::optional<CropTarget> target = std::nullopt;
};

struct CropOptions {
  std::uint32_t side = 0;  // of the result, in pixels
  /// Decode large pictures at 1/2, 1/4 or 1/8, as long as the window keeps twice the pixels that are wanted.
  bool reduced = false;
  /// Resample tall pictures first down, then across, as Pillow does from release 13 on; else always across first.
  bool tall_first_down = true;
};

/// A status a task, in their order, the same for any number of threads. Memory, a thread: some rows of the picture, a
/// little more than its weights reach, and what libjpeg takes: a few rows, of a file of several scans 6 bytes a pixel.
/// Throws std::bad_alloc, and what poll throws.
void crop_resize(std::span<const CropTask> tasks, CropOptions options, unsigned threads, std::span<CropStatus> statuses,
                 const Poll& poll = {});

/// A whole JPEG of width x height to as many RGB pixels, as crop_resize decodes it, neither cut nor resampled: what the rest is
/// measured and compared by. Undefined pixels where the status is not `done`.
CropStatus decode_rgb(std::span<const std::byte> bytes, std::uint32_t width, std::uint32_t height, std::uint8_t* out);

}  // namespace dcfast
