// Width and height of an image from its header bytes: nothing is decoded. As stored, before any EXIF turn.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace dcfast {

struct ImageSize {
  std::uint32_t width = 0;  // 0 x 0: unknown
  std::uint32_t height = 0;
  friend bool operator==(const ImageSize&, const ImageSize&) = default;
};

/// Bytes of one image by position.
class ImageBytes {
 public:
  virtual ~ImageBytes() = default;
  /// Up to count (<= 64) bytes at offset from the image's start; fewer at its end. Valid until the next call.
  virtual std::span<const std::byte> at(std::uint64_t offset, std::size_t count) = 0;
};

/// The size of a JPEG, PNG, WebP, GIF, BMP or TIFF, told by content, not by name; {0, 0} where the kind or the
/// size cannot be told. JPEG segments are stepped over, at most 512 of them, so that large EXIF and ICC blocks
/// cost one small read each and a hostile file a bounded number. Never reads outside the image.
ImageSize read_image_size(ImageBytes& bytes);
/// The same of an image, or the start of one, in memory.
ImageSize read_image_size(std::span<const std::byte> bytes);

}  // namespace dcfast
