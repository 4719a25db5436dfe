#include "core/images/image_header.hpp"

#include <algorithm>
#include <cstring>
#include <limits>
#include <string_view>

namespace dcfast {

namespace {

using Bytes = std::span<const std::byte>;

constexpr std::size_t probe = 32;
constexpr int max_jpeg_segments = 512;
constexpr unsigned max_tiff_entries = 4096;

std::uint32_t byte_at(Bytes b, std::size_t i) { return std::to_integer<std::uint32_t>(b[i]); }
std::uint32_t be16(Bytes b, std::size_t i) { return byte_at(b, i) << 8 | byte_at(b, i + 1); }
std::uint32_t be32(Bytes b, std::size_t i) { return be16(b, i) << 16 | be16(b, i + 2); }
std::uint32_t le16(Bytes b, std::size_t i) { return byte_at(b, i) | byte_at(b, i + 1) << 8; }
std::uint32_t le24(Bytes b, std::size_t i) { return le16(b, i) | byte_at(b, i + 2) << 16; }
std::uint32_t le32(Bytes b, std::size_t i) { return le16(b, i) | le16(b, i + 2) << 16; }

bool matches(Bytes b, std::size_t at, std::string_view text) {
  return b.size() >= at + text.size() && std::memcmp(b.data() + at, text.data(), text.size()) == 0;
}

// Both or nothing: half a size is no size.
ImageSize known(std::uint64_t width, std::uint64_t height) {
  constexpr std::uint64_t most = std::numeric_limits<std::int32_t>::max();
  if (width == 0 || height == 0 || width > most || height > most) return {};
  return {static_cast<std::uint32_t>(width), static_cast<std::uint32_t>(height)};
}

bool is_frame_header(std::uint32_t marker) {
  return marker >= 0xc0 && marker <= 0xcf && marker != 0xc4 && marker != 0xc8 && marker != 0xcc;
}

ImageSize jpeg_size(ImageBytes& bytes) {
  std::uint64_t at = 2;
  for (int segment = 0; segment < max_jpeg_segments; ++segment) {
    const Bytes b = bytes.at(at, 16);
    if (b.size() < 4) return {};
    const std::uint32_t marker = byte_at(b, 1);
    if (byte_at(b, 0) != 0xff) {  // garbage between segments: decoders, too, look for the next marker
      at += static_cast<std::uint64_t>(std::find(b.begin(), b.end(), std::byte{0xff}) - b.begin());
    } else if (marker == 0xff) {  // fill byte
      at += 1;
    } else if (marker <= 0x01 || (marker >= 0xd0 && marker <= 0xd8)) {  // stand alone
      at += 2;
    } else if (is_frame_header(marker)) {
      if (b.size() < 9) return {};
      return known(be16(b, 7), be16(b, 5));  // height 0 (told after the scan) stays unknown
    } else if (marker == 0xd9 || marker == 0xda) {  // the image starts or ends without a frame
      return {};
    } else {
      const std::uint32_t length = be16(b, 2);
      if (length < 2) return {};
      at += 2 + length;
    }
  }
  return {};
}

ImageSize webp_size(Bytes b) {
  if (b.size() < 30) {
    // a lossless image of few bytes is shorter than the other kinds' headers
    if (b.size() < 25 || !matches(b, 12, "VP8L")) return {};
  }
  if (matches(b, 12, "VP8 ")) {
    if (byte_at(b, 23) != 0x9d || byte_at(b, 24) != 0x01 || byte_at(b, 25) != 0x2a) return {};
    return known(le16(b, 26) & 0x3fff, le16(b, 28) & 0x3fff);
  }
  if (matches(b, 12, "VP8L")) {
    if (byte_at(b, 20) != 0x2f) return {};
    const std::uint32_t bits = le32(b, 21);
    return known((bits & 0x3fff) + 1, (bits >> 14 & 0x3fff) + 1);
  }
  if (matches(b, 12, "VP8X")) return known(le24(b, 24) + 1ULL, le24(b, 27) + 1ULL);
  return {};
}

ImageSize bmp_size(Bytes b) {
  if (b.size() < 26) return {};
  const std::uint32_t header = le32(b, 14);
  if (header == 12) return known(le16(b, 18), le16(b, 20));
  if (header < 40 || header > 1024) return {};
  // height is negative where rows go downwards
  const auto width = static_cast<std::int32_t>(le32(b, 18));
  const auto height = static_cast<std::int64_t>(static_cast<std::int32_t>(le32(b, 22)));
  return width < 0 ? ImageSize{} : known(static_cast<std::uint64_t>(width), static_cast<std::uint64_t>(height < 0 ? -height : height));
}

ImageSize tiff_size(ImageBytes& bytes, bool big_endian) {
  const auto get16 = [big_endian](Bytes b, std::size_t i) { return big_endian ? be16(b, i) : le16(b, i); };
  const auto get32 = [big_endian](Bytes b, std::size_t i) { return big_endian ? be32(b, i) : le32(b, i); };
  Bytes b = bytes.at(4, 4);
  if (b.size() < 4) return {};
  std::uint64_t at = get32(b, 0);
  b = bytes.at(at, 2);
  if (b.size() < 2) return {};
  const std::uint32_t entries = std::min(get16(b, 0), max_tiff_entries);
  at += 2;
  std::uint32_t width = 0;
  std::uint32_t height = 0;
  for (std::uint32_t i = 0; i < entries && (width == 0 || height == 0); ++i, at += 12) {
    b = bytes.at(at, 12);
    if (b.size() < 12) return {};
    const std::uint32_t tag = get16(b, 0);
    const std::uint32_t type = get16(b, 2);
    const std::uint32_t value = type == 3 ? get16(b, 8) : type == 4 ? get32(b, 8) : 0;
    if (get32(b, 4) != 1) continue;
    if (tag == 256) width = value;
    if (tag == 257) height = value;
  }
  return known(width, height);
}

class MemoryImage final : public ImageBytes {
 public:
  explicit MemoryImage(Bytes bytes) : bytes_(bytes) {}
  Bytes at(std::uint64_t offset, std::size_t count) override {
    if (offset >= bytes_.size()) return {};
    const Bytes rest = bytes_.subspan(static_cast<std::size_t>(offset));
    return rest.first(std::min(count, rest.size()));
  }

 private:
  Bytes bytes_;
};

}  // namespace

ImageSize read_image_size(ImageBytes& bytes) {
  const Bytes b = bytes.at(0, probe);
  if (b.size() < 4) return {};
  if (matches(b, 0, "\xff\xd8\xff")) return jpeg_size(bytes);
  if (matches(b, 0, "\x89PNG\r\n\x1a\n")) return b.size() >= 24 && matches(b, 12, "IHDR") ? known(be32(b, 16), be32(b, 20)) : ImageSize{};
  if (matches(b, 0, "RIFF") && matches(b, 8, "WEBP")) return webp_size(b);
  if (matches(b, 0, "GIF87a") || matches(b, 0, "GIF89a")) return b.size() >= 10 ? known(le16(b, 6), le16(b, 8)) : ImageSize{};
  if (matches(b, 0, std::string_view("II*\0", 4))) return tiff_size(bytes, false);
  if (matches(b, 0, std::string_view("MM\0*", 4))) return tiff_size(bytes, true);
  if (matches(b, 0, "BM")) return bmp_size(b);
  return {};
}

ImageSize read_image_size(Bytes bytes) {
  MemoryImage image(bytes);
  return read_image_size(image);
}

}  // namespace dcfast
