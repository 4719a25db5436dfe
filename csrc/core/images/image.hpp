// Images: encoded bytes to grey levels, and their signature (content hash, perceptual hash, size, status).
// Any bytes give a status; nothing here throws because of what an image holds.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "core/images/wide_hash.hpp"
#include "core/system/parallel.hpp"
#include "core/uids/uid.hpp"

namespace dcfast {

/// The numbers are part of the file formats: never renumber.
enum class ImageStatus : std::uint8_t {
  ok = 0,
  empty = 1,        // no bytes at all
  unsupported = 2,  // a format or a variant that is not decoded here (GIF, animated WebP, 12-bit JPEG, ...)
  truncated = 3,    // the bytes end before the image does
  broken = 4,       // the bytes contradict their format
  too_large = 5,    // more pixels than kMaxPixels, or more bytes than kMaxMemberBytes
};
inline constexpr std::array<const char*, 6> kImageStatusNames = {"ok", "empty", "unsupported", "truncated", "broken", "too_large"};

/// By the first bytes. Never renumber.
enum class ImageFormat : std::uint8_t { unknown = 0, jpeg = 1, png = 2, webp = 3, gif = 4, bmp = 5, tiff = 6 };
inline constexpr std::array<const char*, 7> kImageFormatNames = {"unknown", "jpeg", "png", "webp", "gif", "bmp", "tiff"};

/// Pillow refuses images of more pixels than this (twice its MAX_IMAGE_PIXELS). Decoding takes at most 8 bytes a
/// pixel (progressive CMYK JPEG, lossless WebP), typically less than 1, so at most 1.4 GB at this bound.
inline constexpr std::uint64_t kMaxPixels = 178'956'970;
constexpr bool within_pixel_bound(std::uint64_t width, std::uint64_t height) noexcept { return width * height <= kMaxPixels; }
/// Larger members are hashed in pieces and not decoded.
inline constexpr std::uint64_t kMaxMemberBytes = std::uint64_t{256} << 20;
/// Segments of a JPEG before its first scan, chunks of a PNG: no encoder needs as many, and each takes 4 or 12 bytes.
inline constexpr std::size_t kMaxParts = 65'536;
/// Scans of a JPEG of this many pixels. Each is a pass over all of them, and may take 36 bytes: 500 of a small image,
/// 24 of a large one (encoders make 10 to 20), and between them as many as look at 2^30 pixels together.
constexpr std::uint64_t max_scans(std::uint64_t pixels) noexcept {
  constexpr std::uint64_t most = 500;
  constexpr std::uint64_t least = 24;
  constexpr std::uint64_t together = std::uint64_t{1} << 30;
  const std::uint64_t scans = pixels == 0 ? most : together / pixels;
  return scans < least ? least : scans > most ? most : scans;
}

struct ImageOptions {
  /// Decode JPEGs at full scale. Otherwise at the smallest of 1, 1/2, 1/4, 1/8 that leaves the shorter side at
  /// least kMinSide: faster, with less memory, and as good for the hash, which averages to 32 x 32, or 64 x 64.
  bool full = false;
  /// Make the 256-bit hash too, of the same cells.
  bool wide = false;
};
inline constexpr std::uint32_t kMinSide = 64;

/// width and height are the image's own (0 where the header was not reached), grey_* those of `grey`, which is
/// empty unless status is ok. Orientation tags are not applied; transparency is dropped.
struct GreyImage {
  ImageStatus status = ImageStatus::empty;
  ImageFormat format = ImageFormat::unknown;
  std::uint32_t width = 0;
  std::uint32_t height = 0;
  std::uint32_t grey_width = 0;
  std::uint32_t grey_height = 0;
  std::vector<std::uint8_t> grey;
};

ImageFormat image_format(std::span<const std::byte> bytes) noexcept;

/// Decodes to 8-bit grey (ITU-R 601 luma). The whole compressed stream is read, so that an early end is noticed.
/// Throws std::bad_alloc only.
GreyImage decode_grey(std::span<const std::byte> bytes, ImageOptions options);

/// What decontamination keeps of an image. Where status is not ok: hashes 0, flat and of quality 0, so that nothing matches it.
struct ImageSignature {
  ImageStatus status = ImageStatus::empty;
  ImageFormat format = ImageFormat::unknown;
  std::uint32_t width = 0;
  std::uint32_t height = 0;
  Uid content;  // XXH3-128 of the bytes, seed 0; hi and lo as in its canonical (big-endian) form
  std::uint64_t phash = 0;
  bool flat = true;
  WideHash wide;
};

ImageSignature image_signature(std::span<const std::byte> bytes, ImageOptions options);

/// Signatures of the members [offsets[i], offsets[i] + sizes[i]) of one file, in their order, for any number of
/// threads. Memory: per thread one member (at most kMaxMemberBytes) and its decoding. Throws invalid_argument
/// where the spans differ in length, corrupt_data where a member lies beyond the end of the file, io.
std::vector<ImageSignature> member_signatures(const std::string& path, std::span<const std::uint64_t> offsets,
                                                std::span<const std::uint64_t> sizes, ImageOptions options,
                                                unsigned threads, const Poll& poll = {});

}  // namespace dcfast
