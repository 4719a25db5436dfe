// The one reader of JPEGs, over libjpeg. libjpeg reports errors by calling back, and the reader leaves it by longjmp: the
// functions named jpeg_*_step set the place to return to, and hold no objects with destructors.
#pragma once

// The C headers need these names first.
#include <csetjmp>
#include <cstddef>
#include <cstdio>

#include <jpeglib.h>

#include <cstdint>
#include <span>

#include "core/images/image.hpp"

namespace dcfast {

/// One JPEG in memory. The steps, in their order: jpeg_open_step, jpeg_start_step (colours and scale are set in `info`
/// between the two), jpeg_lines_step, jpeg_finish_step. After one that gave false, `failure` says why, and no other may follow.
struct JpegReader {
  explicit JpegReader(std::span<const std::byte> bytes)
      : data(reinterpret_cast<const unsigned char*>(bytes.data())), size(bytes.size()) {}
  JpegReader& operator=(JpegReader&&) = delete;
  ~JpegReader() { jpeg_destroy_decompress(&info); }  // allowed also when nothing was created: mem is null

  jpeg_decompress_struct info{};
  jpeg_error_mgr errors{};
  jpeg_source_mgr source{};
  jpeg_progress_mgr progress{};
  std::jmp_buf escape{};
  const unsigned char* data;
  std::size_t size;
  std::uint64_t max_scans = 0;
  /// Whatever libjpeg warns of is a failure, too; else it is passed over, and pixels are what libjpeg makes up.
  bool strict = false;
  bool out_of_memory = false;
  ImageStatus failure = ImageStatus::broken;
};

/// Reads the header; holds the bounds on segments and pixels, and from here on the one on scans.
bool jpeg_open_step(JpegReader& reader);
/// Of a file of several scans this decodes all of them to coefficients.
bool jpeg_start_step(JpegReader& reader);
/// The next `count` lines.
bool jpeg_lines_step(JpegReader& reader, std::uint8_t* const* lines, std::size_t count);
/// After the last line: reads on to the end-of-image marker.
bool jpeg_finish_step(JpegReader& reader);
/// Before the last line: whether an end-of-image marker follows, without decoding what lies before it.
bool jpeg_has_end(JpegReader& reader) noexcept;

/// The library that is linked, in words.
const char* jpeg_library() noexcept;

}  // namespace dcfast
